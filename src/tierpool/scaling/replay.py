"""Replays calls through a pool of a fixed size and the provider's rates; pure.

The simulator replays policies; here the size is given, which takes one heap
operation per call, and hundreds of sizes can be tried.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import heapreplace

from tierpool.scaling.capacity import LATE_SHARE, least
from tierpool.scaling.policy import Constraint

__all__ = ["Rates", "p95", "replay", "slots_by_replay", "waits"]


@dataclass(frozen=True, slots=True)
class Rates:
    """What may begin in a time; None: no limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    usd_per_hour: float | None = None
    usd_per_call: float = 0.0

    @property
    def any(self) -> bool:
        """Whether there is a limit."""
        return any(
            limit is not None
            for limit in (
                self.requests_per_minute, self.tokens_per_minute, self.usd_per_hour,
            )
        )  # fmt: skip

    def apart(self) -> Iterator[tuple[Constraint, Rates]]:
        """Yield each limit by its name, as if there were no other."""
        if self.requests_per_minute is not None:
            yield "requests_per_minute", Rates(self.requests_per_minute)
        if self.tokens_per_minute is not None:
            yield "tokens_per_minute", Rates(None, self.tokens_per_minute)
        if self.usd_per_hour is not None:
            money = Rates(None, None, self.usd_per_hour, self.usd_per_call)
            yield "max_cost_per_hour_usd", money


class _Gate:
    """Lets amounts begin that come to no more than a limit in any such time."""

    def __init__(self, limit: float, seconds: float) -> None:
        self._limit, self._seconds = limit, seconds
        self._begun: deque[tuple[float, float]] = deque()
        self._sum = 0.0

    def open_at(self, at: float, amount: float) -> float:
        """Return when this amount may begin; more than the limit, when none has."""
        amount = min(amount, self._limit)
        begun = self._begun
        while begun and (
            begun[0][0] + self._seconds <= at or self._sum + amount > self._limit
        ):
            at = max(at, begun[0][0] + self._seconds)
            self._sum -= begun.popleft()[1]
        if not begun:
            self._sum = 0.0  # what rounding has left of a day's sums
        return at

    def begin(self, at: float, amount: float) -> None:
        """Count it."""
        amount = min(amount, self._limit)
        self._begun.append((at, amount))
        self._sum += amount


def waits(
    slots: int, arrivals: Sequence[float], services: Sequence[float]
) -> Iterator[float]:
    """Yield the wait of each call in seconds, first come first served."""
    free = [-math.inf] * slots
    for at, took in zip(arrivals, services, strict=True):
        ready = free[0]
        start = max(ready, at)
        heapreplace(free, start + took)
        yield start - at


def replay(
    slots: int | None,
    arrivals: Sequence[float],
    services: Sequence[float],
    tokens: Sequence[int] = (),
    rates: Rates | None = None,
) -> list[float]:
    """Return the waits of calls, also for the rates; `slots` None: for them alone.

    Rates hold in any minute or hour, in the order of arrival; what a provider or
    the pacing of tierpool does within a minute is left out, so that waits for
    rates are those of a limit that is as generous as its name.
    """
    if rates is None or not rates.any:
        if slots is None:
            return [0.0] * len(arrivals)
        return list(waits(slots, arrivals, services))
    free = [-math.inf] * slots if slots is not None else None
    gates = list(_gates(rates))
    found, before = [], -math.inf
    for index, (at, took) in enumerate(zip(arrivals, services, strict=True)):
        start = max(at, before)
        if free is not None:
            start = max(start, free[0])
        amounts = (1.0, float(tokens[index]) if tokens else 0.0, rates.usd_per_call)
        for kind, gate in gates:
            start = gate.open_at(start, amounts[kind])
        for kind, gate in gates:
            gate.begin(start, amounts[kind])
        if free is not None:
            heapreplace(free, start + took)
        found.append(start - at)
        before = start
    return found


def p95(found: Sequence[float]) -> float:
    """Return the wait that 95 of 100 calls did not exceed; 0 for no call."""
    if not found:
        return 0.0
    place = math.ceil((1 - LATE_SHARE) * len(found) - 1e-9) - 1
    return sorted(found)[max(0, place)]


def slots_by_replay(
    arrivals: Sequence[float], services: Sequence[float], target: float
) -> int:
    """Return the fewest slots with which the p95 wait is within the target.

    Without rates. A size is given up as soon as too many calls were late.
    """
    allowed = int(LATE_SHARE * len(arrivals) + 1e-9)

    def enough(slots: int) -> bool:
        late = 0
        for wait in waits(slots, arrivals, services):
            if wait > target:
                late += 1
                if late > allowed:
                    return False
        return True

    span = arrivals[-1] - arrivals[0] if arrivals else 0.0
    load = math.fsum(services) / span if span > 0 else 1.0
    found = least(enough, max(1, math.ceil(load)))
    # as many slots as calls are always enough
    return found if found is not None else len(arrivals)


def _gates(rates: Rates) -> Iterator[tuple[int, _Gate]]:
    """Yield each limit with the place of its amount: calls, tokens, dollars."""
    if rates.requests_per_minute is not None:
        yield 0, _Gate(rates.requests_per_minute, 60.0)
    if rates.tokens_per_minute is not None:
        yield 1, _Gate(rates.tokens_per_minute, 60.0)
    if rates.usd_per_hour is not None and rates.usd_per_call > 0:
        yield 2, _Gate(rates.usd_per_hour, 3600.0)
