"""Rolling sums over the calls that ended, in bins of one second."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["ROLLING_SECONDS", "Ends"]

ROLLING_SECONDS = 300
"""Mean duration and size are those of the calls that ended within this time."""


class Ends:
    """Calls by the second in which they end, known when they begin."""

    def __init__(self, begin: float, tokens: Sequence[int], rates_over: float) -> None:
        self._begin, self._tokens = begin, tokens
        self._rates = max(1, round(rates_over))
        self._bins: list[list[float]] = []
        """Count, seconds and tokens."""
        self._passed = 0
        self._count = self._seconds = self._size = 0.0
        self._recent = 0.0

    def add(self, index: int, end: float, seconds: float) -> None:
        """Note when a call will end."""
        place = int(end - self._begin)
        bins = self._bins
        while place >= len(bins):
            bins.append([0.0, 0.0, 0.0])
        one = bins[place]
        one[0] += 1
        one[1] += seconds
        one[2] += self._tokens[index]

    def within(self, now: float) -> tuple[float, float, float, float]:
        """Return the calls that ended within the time for rates.

        Then number, seconds and tokens of those within the rolling time.
        """
        passed = int(now - self._begin)
        for place in range(self._passed, passed):
            self._shift(self._at(place), 1)
            self._shift(self._at(place - ROLLING_SECONDS), -1)
            self._recent += self._at(place)[0] - self._at(place - self._rates)[0]
        self._passed = passed
        return self._recent, self._count, self._seconds, self._size

    def _at(self, place: int) -> Sequence[float]:
        """Return a bin, or an empty one."""
        return self._bins[place] if 0 <= place < len(self._bins) else _EMPTY

    def _shift(self, one: Sequence[float], sign: int) -> None:
        """Add or take away a bin."""
        if one[0]:
            self._count += sign * one[0]
            self._seconds += sign * one[1]
            self._size += sign * one[2]


_EMPTY: Sequence[float] = (0.0, 0.0, 0.0)
