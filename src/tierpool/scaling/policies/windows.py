"""The highest value of a rolling window, and averages over uneven times."""

from __future__ import annotations

import math
from typing import TypeAlias

__all__ = ["Highs", "highest", "weight"]

Highs: TypeAlias = tuple[tuple[float, float], ...]
"""Times and values, the oldest first, each value above all later ones: what may
still become the highest of a rolling window."""


def highest(highs: Highs, at: float, value: float, seconds: float) -> Highs:
    """Add a value; return the window of the last seconds, its highest value first."""
    oldest = at - seconds + 1e-6
    kept = [one for one in highs if one[0] >= oldest and one[1] > value]
    return (*kept, (at, value))


def weight(seconds: float, constant: float) -> float:
    """Return the weight that a new value has after a time, by the time constant.

    So decisions every 10 s and every 30 s come to the same average.
    """
    return 1.0 - math.exp(-seconds / constant)
