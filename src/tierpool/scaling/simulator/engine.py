"""The simulation itself: events in the order of time, a heap of instances.

Between two decisions only starts of calls matter, and each takes the instance
that is free first: one heap operation per call, so that a trace of 745,000 calls
takes seconds.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections import Counter, deque
from dataclasses import replace
from heapq import heapify, heappop, heappush, heapreplace
from typing import TypeVar

from tierpool.errors import UsageError
from tierpool.scaling.policy import Decision, Observation, Policy
from tierpool.scaling.simulator.meters import Ends
from tierpool.scaling.simulator.outcome import Moment, Outcome
from tierpool.scaling.simulator.workload import MOST_DECISIONS, Setup, Workload

__all__ = ["simulate"]

S = TypeVar("S")

_STALLED = 10_000
"""Decisions after the last arrival in which no call began: none ever will."""


class _Pool:
    """Instances and the queue before them; calls are known by their index."""

    def __init__(self, load: Workload, setup: Setup) -> None:
        self.arrivals, self.services = load.arrivals, load.services
        self.begin = self.now = load.arrivals[0]
        self.lead = setup.lead_seconds
        first = setup.first_instances(load)
        self.free = [self.begin] * first
        """When each instance can take its next call, a heap."""
        self.starting: deque[float] = deque()
        """When the starting ones are ready, ascending."""
        self.draining: list[float] = []
        """When the last calls of removed instances end, a heap."""
        self.starts: list[float] = []
        self.ends = Ends(self.begin, load.tokens, setup.rates_over)
        self.paid = 0.0

    def advance(self, until: float) -> None:
        """Let calls begin up to a time."""
        free, starts, arrivals = self.free, self.starts, self.arrivals
        services, ended, count = self.services, self.ends.add, len(self.arrivals)
        index = len(starts)
        while free and index < count:
            at, ready = arrivals[index], free[0]
            start = at if at > ready else ready
            if start > until:
                break
            service = services[index]
            heapreplace(free, start + service)
            starts.append(start)
            ended(index, start + service, service)
            index += 1
        self.paid += len(free) * (until - self.now)
        self.now = until
        while self.starting and self.starting[0] <= until:
            self.starting.popleft()
        while self.draining and self.draining[0] <= until:
            heappop(self.draining)

    @property
    def busy(self) -> int:
        """Calls under way."""
        later = sum(1 for ready in self.free if ready > self.now)
        return later - len(self.starting) + len(self.draining)

    def backlog(self, at: float) -> tuple[int, float]:
        """Return how many calls waited at a time, and the age of the oldest."""
        begun = bisect_right(self.starts, at)
        waiting = bisect_right(self.arrivals, at) - begun
        if waiting <= 0:
            return 0, 0.0
        return waiting, at - self.arrivals[begun]

    def resize(self, size: int) -> None:
        """Start instances, or take away: starting ones, idle ones, then busy ones."""
        for _ in range(size - len(self.free)):
            self.starting.append(self.now + self.lead)
            heappush(self.free, self.now + self.lead)
        excess = len(self.free) - size
        while excess > 0 and self.starting:
            self.free.remove(self.starting.pop())
            heapify(self.free)
            excess -= 1
        for _ in range(excess):
            ready = heappop(self.free)
            if ready > self.now:
                self.paid += ready - self.now
                heappush(self.draining, ready)

    def finish(self, last_start: float) -> None:
        """Take back what was paid after the last start, but for calls under way."""
        for ready in self.free:
            self.paid -= self.now - min(max(ready, last_start), self.now)
            self.paid += max(ready, self.now) - self.now


def simulate(workload: Workload, policy: Policy[S], setup: Setup) -> Outcome:
    """Serve all calls with a pool whose size a policy decides on.

    Raises:
        UsageError: The policy leaves calls waiting for ever, or the calls come for
            longer than MOST_DECISIONS.
    """
    _check_length(workload, setup)
    pool, dice = _Pool(workload, setup), random.Random(setup.seed)
    limits = replace(setup.limits, lead_seconds=setup.lead_seconds)
    state, changes, idle = policy.start(), 0, 0
    timeline: list[Moment] = []
    count, last = len(workload.arrivals), workload.arrivals[-1]
    decisions = 0
    while True:
        decisions += 1
        before = len(pool.starts)
        pool.advance(pool.begin + decisions * setup.decide_every)
        if len(pool.starts) == count and pool.now >= last:
            break
        seen = _observe(pool, setup, dice)
        decision, state = policy.decide(seen, limits, state)
        timeline.append(_moment(pool, seen, decision))
        changes += decision.instances != len(pool.free)
        pool.resize(max(0, decision.instances))
        idle = 0 if len(pool.starts) > before or pool.now < last else idle + 1
        if idle > _STALLED or decisions >= MOST_DECISIONS:
            raise UsageError(_left_over(policy.name, pool, decision.instances))
    pool.finish(pool.starts[-1])
    waits = [s - a for s, a in zip(pool.starts, workload.arrivals, strict=True)]
    return Outcome(
        policy=policy.name,
        waits=waits,
        ordered=sorted(waits),
        instance_seconds=pool.paid,
        ideal_seconds=workload.ideal_seconds,
        seconds=pool.starts[-1] - pool.begin,
        changes=changes,
        killed=0,
        timeline=timeline,
        bound=Counter(moment.decision.constraint for moment in timeline),
    )


def _check_length(workload: Workload, setup: Setup) -> None:
    span = workload.arrivals[-1] - workload.arrivals[0]
    if span / setup.decide_every >= MOST_DECISIONS:
        least = span / MOST_DECISIONS
        raise UsageError(
            f"calls come for {span / 86_400:,.1f} days: a decision every "
            f"{setup.decide_every:g} s makes more than {MOST_DECISIONS:,}; decide every "
            f"{least + 0.05:.1f} s at least, or take a part of the trace"
        )


def _left_over(policy: str, pool: _Pool, instances: int) -> str:
    """Say which calls would still wait, and after how long."""
    count = len(pool.arrivals)
    days = (pool.now - pool.arrivals[-1]) / 86_400
    return (
        f"policy {policy!r} leaves {count - len(pool.starts)} of {count} calls waiting "
        f"{days:,.1f} days after the last one came, with {instances} instances: raise "
        "min_instances"
    )


def _observe(pool: _Pool, setup: Setup, dice: random.Random) -> Observation:
    """Tell what a running fleet would know now."""
    now = pool.now
    window = min(setup.rates_over, now - pool.begin)
    ended, recent, seconds, tokens = pool.ends.within(now)
    ready = len(pool.free) - len(pool.starting)
    known = Observation(
        at=now,
        instances=ready,
        starting=len(pool.starting),
        busy=pool.busy,
        mean_seconds=seconds / recent if recent else None,
        tokens_per_call=tokens / recent if recent else None,
        usd_per_call=setup.usd_per_call,
    )
    if dice.random() < setup.missing:
        return known
    backlog, oldest = pool.backlog(now - setup.backlog_lag)
    arrived = bisect_right(pool.arrivals, now)
    arrived -= bisect_right(pool.arrivals, now - window) if window < now else 0
    return replace(
        known,
        backlog=backlog,
        oldest_seconds=oldest,
        arrivals_per_second=arrived / window,
        completions_per_second=ended / window,
    )


def _moment(pool: _Pool, seen: Observation, decision: Decision) -> Moment:
    """Keep what a plot needs."""
    return Moment(
        at=pool.now,
        instances=seen.instances,
        starting=seen.starting,
        busy=seen.busy or 0,
        backlog=pool.backlog(pool.now)[0],
        decision=decision,
    )
