"""Numbers and times on the command line, refused with what would be right."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from datetime import timedelta

__all__ = ["number", "read_number", "read_time", "whole"]

_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


def number(low: float, high: float) -> Callable[[str], float]:
    """Return a type for argparse: a number from `low` to `high`, both included."""

    def read(text: str) -> float:
        value = read_number(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(
                f"{text!r} must be a number from {low:g} to {high:.10g}"
            )
        return value

    return read


def whole(low: int, high: int) -> Callable[[str], int]:
    """Return a type for argparse: a whole number from `low` to `high`, both included."""

    def read(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(
                f"{text!r} must be a whole number from {low} to {high}"
            )
        return int(text)

    return read


def read_number(text: str) -> float:
    """Return a number; NaN, which is within no bounds, for what is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def read_time(text: str) -> timedelta | None:
    """Return a time such as 30m, 24h or 7d; None for what is none."""
    found = re.fullmatch(r"(\d{1,5})([mhd])", text)
    return timedelta(**{_UNITS[found[2]]: int(found[1])}) if found else None
