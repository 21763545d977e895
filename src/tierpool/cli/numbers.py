"""Numbers on the command line, refused with what would be right."""

from __future__ import annotations

import argparse
from collections.abc import Callable

__all__ = ["number"]


def number(low: float, high: float) -> Callable[[str], float]:
    """Return a type for argparse: a number from `low` to `high`, both included."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(
                f"{text!r} must be a number from {low:g} to {high:.10g}"
            )
        return value

    return read
