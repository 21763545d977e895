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
        self._kept = max(self._rates, ROLLING_SECONDS)
        self._bins: dict[int, list[float]] = {}
        """Count, seconds and tokens; seconds without any, or long past, have no bin."""
        self._passed = 0
        self._count = self._seconds = self._size = 0.0
        self._recent = 0.0

    def add(self, index: int, end: float, seconds: float) -> None:
        """Note when a call will end."""
        place = int(end - self._begin)
        one = self._bins.get(place)
        if one is None:
            one = self._bins[place] = [0.0, 0.0, 0.0]
        one[0] += 1
        one[1] += seconds
        one[2] += self._tokens[index]

    def within(self, now: float) -> tuple[float, float, float, float]:
        """Return the calls that ended within the time for rates.

        Then number, seconds and tokens of those within the rolling time.
        """
        passed, bins = int(now - self._begin), self._bins
        for place in range(self._passed, passed if bins else self._passed):
            if (one := bins.get(place)) is not None:
                self._shift(one, 1)
                self._recent += one[0]
            if (one := bins.get(place - ROLLING_SECONDS)) is not None:
                self._shift(one, -1)
            if (one := bins.get(place - self._rates)) is not None:
                self._recent -= one[0]
            bins.pop(place - self._kept, None)
        self._passed = passed
        return self._recent, self._count, self._seconds, self._size

    def _shift(self, one: Sequence[float], sign: int) -> None:
        """Add or take away a bin."""
        self._count += sign * one[0]
        self._seconds += sign * one[1]
        self._size += sign * one[2]
