"""How many slots a pool needs: queueing formulas, no simulation; pure.

The formulas are Erlang's for random arrivals, and Hayward's approximation for
calls that come in bursts: a pool of c slots under a load a with peakedness z is
as late as one of c/z slots under a/z with random arrivals. Rates change over a
day, and no single formula holds for a day: calls are looked at in windows
(`occupancy`), each with a load and a peakedness of its own.

Slots are predicted from formulas, waits are not: at 95 % of its load a pool's
waits are steep in everything, and were off by a factor of 2 to 20.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tierpool.errors import UsageError

__all__ = [
    "LATE_SHARE",
    "Window",
    "erlang_c",
    "erlang_c_slots",
    "grown",
    "late_calls",
    "late_share",
    "least",
    "mean_load",
    "slots_for",
    "wait_estimate",
    "whole",
]

LATE_SHARE = 0.05
"""Share of the calls that may wait longer than the target: its p95."""

_LEAST_PEAKEDNESS = 0.5
"""Calls that come evenly: a smaller figure is more often an accident of few calls."""

_MOST_SLOTS = 1_000_000
_LONGEST_WAIT = 1e6


@dataclass(frozen=True, slots=True)
class Window:
    """Some minutes of calls, or a load that somebody gave."""

    calls: float
    """Arrivals; the weight of this window."""
    load: float
    """Calls under way on average if none had to wait."""
    mean_seconds: float
    """Mean duration of a call."""
    peakedness: float = 1.0
    """Variance over mean of the number of calls under way if none had to wait:
    1 for random arrivals, more for bursts."""
    persistence: float | None = None
    """Seconds for which a high load lasts; None: `mean_seconds`, as with random
    arrivals. Waits fall off at this rate."""
    seconds: float = 300.0
    """How long the window is."""


def erlang_c(slots: float, load: float) -> float:
    """Return the share of calls that find all slots taken (M/M/c), 0 to 1.

    Args:
        slots: Need not be whole.
        load: Calls under way on average; from `slots` on all calls wait.
    """
    if load <= 0:
        return 0.0
    if slots <= load:
        return 1.0
    # Erlang's B is load^c e^-load / Gamma(c+1, load). Since c is above the load,
    # the lower incomplete gamma function is the one whose series is short.
    log_pmf = slots * math.log(load) - load - math.lgamma(slots + 1)
    pmf = math.exp(log_pmf)
    blocked = pmf / (1 - pmf * _series(slots, load))
    return min(1.0, blocked / (1 - load / slots * (1 - blocked)))


def late_share(slots: float, window: Window, target: float) -> float:
    """Return the share of a window's calls that wait longer than `target` seconds.

    Where the load is above the slots, all are late: the backlog only grows.
    """
    if window.load <= 0:
        return 0.0
    spare = slots - window.load
    if spare <= 0:
        return 1.0
    peak = max(window.peakedness, _LEAST_PEAKEDNESS)
    waiting = erlang_c(slots / peak, window.load / peak)
    lasts = window.persistence or window.mean_seconds
    if lasts <= 0:
        return 0.0
    return waiting * math.exp(-spare / peak * target / lasts)


def slots_for(
    windows: Sequence[Window], target: float, *, share: float = LATE_SHARE
) -> int:
    """Return the fewest slots with which at most `share` of all calls are late.

    Raises:
        UsageError: if there is no call, or no number of slots will do.
    """
    if not math.isfinite(target) or target < 0:
        raise UsageError(f"a wait target of {target!r} s is none; write 0 or more")
    if not 0 < share < 1:
        raise UsageError(f"{share!r} of calls late is no share between 0 and 1")
    total = math.fsum(window.calls for window in windows)
    if total <= 0:
        raise UsageError("no calls: nothing can be said about slots")

    def enough(slots: int) -> bool:
        return late_calls(slots, windows, target) <= share * total

    load = mean_load(windows)
    found = least(enough, max(1, math.ceil(load))) if load < _MOST_SLOTS else None
    if found is None:
        raise UsageError(
            f"{load:,.0f} calls under way on average need more than {_MOST_SLOTS:,} "
            "slots: take a lower rate or shorter calls"
        )
    return found


def late_calls(slots: float, windows: Sequence[Window], target: float) -> float:
    """Return how many calls of all windows wait longer than `target` seconds."""
    return math.fsum(one.calls * late_share(slots, one, target) for one in windows)


def wait_estimate(
    slots: int, windows: Sequence[Window], *, share: float = LATE_SHARE
) -> float | None:
    """Return the wait in seconds that all but `share` of the calls do not exceed.

    An estimate only. None: it grows for as long as calls come.
    """
    total = math.fsum(window.calls for window in windows)

    def late(target: float) -> float:
        return late_calls(slots, windows, target) / total if total > 0 else 0.0

    low, high = 0.0, 0.01
    if late(low) <= share:
        return 0.0
    while late(high) > share:
        low, high = high, 2 * high
        if high > _LONGEST_WAIT:
            return None
    while high - low > 1e-4 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if late(middle) > share else (low, middle)
    return high


def erlang_c_slots(windows: Sequence[Window], target: float) -> int:
    """Return what Erlang-C says: random arrivals at the mean rate all the time."""
    one = whole(windows)
    return slots_for((replace(one, peakedness=1.0, persistence=None),), target)


def whole(windows: Sequence[Window]) -> Window:
    """Return one window over all: means, and the peakedness weighted by load.

    What changes from window to window is in none of its figures.
    """
    calls = math.fsum(one.calls for one in windows)
    seconds = math.fsum(one.seconds for one in windows)
    load = mean_load(windows)
    if calls <= 0 or load <= 0:
        return Window(calls, load, 0.0, seconds=seconds)
    spread = math.fsum(one.seconds * one.load * one.peakedness for one in windows)
    work = math.fsum(one.calls * one.mean_seconds for one in windows)
    return Window(calls, load, work / calls, spread / (load * seconds), None, seconds)


def mean_load(windows: Sequence[Window]) -> float:
    """Return the calls under way on average over all windows."""
    seconds = math.fsum(one.seconds for one in windows)
    load = math.fsum(one.load * one.seconds for one in windows)
    return load / seconds if seconds > 0 else 0.0


def grown(windows: Sequence[Window], factor: float) -> tuple[Window, ...]:
    """Return windows with that many times the calls, coming as they came."""
    return tuple(
        replace(one, calls=one.calls * factor, load=one.load * factor)
        for one in windows
    )


def least(enough: Callable[[int], bool], guess: int = 1) -> int | None:
    """Return the smallest number from 1 that is enough; None: there is none.

    Args:
        enough: Holds from some number on.
        guess: Where the search begins.
    """
    low, high = 0, max(1, guess)
    while not enough(high):
        if high >= _MOST_SLOTS:
            return None
        low, high = high, min(_MOST_SLOTS, 2 * high)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _series(slots: float, load: float) -> float:
    """Return P(c+1, load) over the Poisson weight of c, by its power series."""
    total = term = load / (slots + 1)
    step = slots + 1
    while term > 1e-15 * total:
        step += 1
        term *= load / step
        total += term
    return total
