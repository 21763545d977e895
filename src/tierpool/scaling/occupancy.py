"""Measures how calls come: load, peakedness and persistence, window by window; pure.

The occupancy is the number of calls that would be under way if none had to
wait. It needs the arrivals and durations only, not the waits of the pool that
served them, so that a pool that was too small does not hide its demand.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from tierpool.errors import UsageError
from tierpool.scaling.capacity import Window

__all__ = ["WINDOW_SECONDS", "burst_share", "measure"]

WINDOW_SECONDS = 300.0
"""As long as the rolling windows of the policies; slower changes are changes of
the rate, faster ones are peakedness."""

_CALLS_LONG = 10
"""A window is this many mean durations long at least: in a shorter one, the
occupancy moves too little to be told from a change of the rate."""

_FILLS = 3
"""So many mean durations a record begins too empty: calls that were under way then
are not in it. This time is left out, lest its rise be taken for peakedness."""
_MOST_FILLING = 0.25

_BURST_BIN = 10.0
_LOOK_AHEAD = 6
"""Bins that a pod needs to start, the decision included: 60 s."""
_LOOK_BACK = 12
"""Bins for which the policies remember: 120 s."""
_BURST_FACTOR = 3.0


@dataclass(slots=True)
class _Moments:
    """Integrals of a step function over one window."""

    value: float = 0.0
    square: float = 0.0

    def add(self, height: float, seconds: float) -> None:
        self.value += height * seconds
        self.square += height * height * seconds

    def over(self, seconds: float) -> tuple[float, float]:
        """Return mean and variance."""
        mean = self.value / seconds
        return mean, max(0.0, self.square / seconds - mean * mean)


def measure(
    arrivals: Sequence[float],
    services: Sequence[float],
    target: float,
    *,
    window_seconds: float = WINDOW_SECONDS,
) -> tuple[Window, ...]:
    """Return the windows of a trace; those without any load are left out.

    Args:
        arrivals: Seconds, ascending.
        services: Seconds that each call takes an instance.
        target: Seconds that a call may wait. A burst that is over within this
            time delays nobody for longer: `persistence` says how long they last.
        window_seconds: Shortest window.

    Raises:
        UsageError: for fewer than 2 calls, or calls all at one moment.
    """
    if len(arrivals) != len(services):
        raise UsageError(f"{len(arrivals)} arrivals have {len(services)} durations")
    edges = _edges(arrivals, services, window_seconds)
    seconds = (edges[-1] - edges[0]) / (len(edges) - 1)
    plain = _occupancy(arrivals, services, edges, 0.0)
    spread = _occupancy(arrivals, services, edges, target)
    work = [0.0, *accumulate(services)]
    kept = [
        0.0, *accumulate(s * s / (s + target) if s > 0 else 0.0 for s in services)
    ]  # fmt: skip
    cuts = [bisect_left(arrivals, edge) for edge in edges[:-1]] + [len(arrivals)]
    found = []
    for number, (first, end) in enumerate(pairwise(cuts)):
        load, variance = plain[number].over(seconds)
        if load <= 0:
            continue
        calls = end - first
        took = (work[end] - work[first]) / calls if calls else work[-1] / len(services)
        begun = work[end] - work[first]
        usual = (kept[end] - kept[first]) / begun if begun > 0 else 0.0
        left = spread[number].over(seconds)[1] / variance if variance > 0 else 0.0
        lasts = took * _longer(left, usual)
        found.append(Window(calls, load, took, variance / load, lasts, seconds))
    return tuple(found)


def burst_share(arrivals: Sequence[float], services: Sequence[float]) -> float:
    """Return the share of calls in isolated bursts, 0 to 1.

    Such calls bring within a minute over three times the work of the two minutes
    before, per second: no policy that is told the past has instances for them in
    time, if an instance takes most of a minute to start.
    """
    if not arrivals:
        return 0.0
    origin = arrivals[0]
    bins = int((arrivals[-1] - origin) / _BURST_BIN) + 1
    work, calls = [0.0] * bins, [0] * bins
    for at, took in zip(arrivals, services, strict=True):
        place = int((at - origin) / _BURST_BIN)
        work[place] += took
        calls[place] += 1
    sums = [0.0, *accumulate(work)]
    inside = 0
    for place in range(_LOOK_BACK, bins):
        begin = max(_LOOK_BACK, place - _LOOK_AHEAD + 1)
        before = (sums[begin] - sums[begin - _LOOK_BACK]) / _LOOK_BACK
        # at least one instance is there, and takes its bin's work in any case
        if work[place] > _BURST_FACTOR * max(before, _BURST_BIN):
            inside += calls[place]
    return inside / len(arrivals)


def _edges(
    arrivals: Sequence[float], services: Sequence[float], window_seconds: float
) -> list[float]:
    """Return where windows begin, and where the last one ends.

    Raises:
        UsageError: for fewer than 2 calls, or calls all at one moment.
    """
    span = arrivals[-1] - arrivals[0] if len(arrivals) > 1 else 0.0
    if span <= 0:
        raise UsageError("calls at one moment only: there is no rate to measure")
    mean = math.fsum(services) / len(services)
    begin = arrivals[0] + min(_FILLS * mean, _MOST_FILLING * span)
    span = arrivals[-1] - begin
    count = max(1, round(span / max(window_seconds, _CALLS_LONG * mean)))
    seconds = span / count
    return [begin + n * seconds for n in range(count)] + [arrivals[-1]]


def _longer(left: float, usual: float) -> float:
    """Return times the duration of a call for which a high load lasts, from 1.

    Averaging over the wait that is allowed leaves a share of the variance: of
    random arrivals `usual`, more if bursts last longer than calls. A load that
    lasts for t seconds leaves t / (t + target).
    """
    if not 0 < usual < 1:
        return 1.0
    most = min(left, 0.99)
    return max(1.0, most / (1 - most) * (1 - usual) / usual)


def _occupancy(
    arrivals: Sequence[float],
    services: Sequence[float],
    edges: Sequence[float],
    spread: float,
) -> list[_Moments]:
    """Integrate the occupancy over each window.

    With `spread`, a call takes an instance for that many seconds longer and by as
    much less: the same work, done at any time within the wait that is allowed.
    """
    found = [_Moments() for _ in edges[1:]]
    window, now, height = 0, edges[0], 0.0
    last = len(found) - 1
    for at, change in _changes(arrivals, services, spread):
        until = min(at, edges[-1])
        while until > edges[window + 1] and window < last:
            found[window].add(height, edges[window + 1] - now)
            window, now = window + 1, edges[window + 1]
        if until > now:
            found[window].add(height, until - now)
            now = until
        height = max(0.0, height + change)  # rounding must not make it negative
        if at > edges[-1]:
            break
    return found


def _changes(
    arrivals: Sequence[float], services: Sequence[float], spread: float
) -> Iterator[tuple[float, float]]:
    """Yield time and change of the occupancy, in the order of time."""
    ends = sorted(
        (at + took + spread, took / (took + spread) if took > 0 else 0.0)
        for at, took in zip(arrivals, services, strict=True)
    )
    done = 0
    for at, took in zip(arrivals, services, strict=True):
        # a call that takes no time has ended when it comes
        while done < len(ends) and ends[done][0] <= at:
            yield ends[done][0], -ends[done][1]
            done += 1
        yield at, took / (took + spread) if took > 0 else 0.0
    for end, share in ends[done:]:
        yield end, -share
