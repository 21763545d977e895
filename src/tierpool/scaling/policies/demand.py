"""What a pool is asked for, estimated from a stream of observations; pure.

Calls under way and waiting are the demand of now; arrivals times duration is
where it goes (Little's law). How far it strays, measured as peakedness, says how
much room it needs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from tierpool.scaling.policies.trend import Calls, Trend
from tierpool.scaling.policies.windows import weight
from tierpool.scaling.policy import Observation

__all__ = ["Demand", "Estimate", "Tuning"]

_EVERY_SECONDS = 10.0
"""Between decisions, until there were two of them."""
_LONGEST_SECONDS = 60.0
"""Between decisions, for what is foreseen: after more the last one says little."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """One set of numbers for all traces; times in seconds. See docs/scaling-policies.md."""

    rise_seconds: float = 4.0
    """Time constant of the arrivals' average while they are above it."""
    fall_seconds: float = 120.0
    spread_seconds: float = 240.0
    """Time constant of mean and variance of the calls in the pool."""
    least_peakedness: float = 1.0
    """That of Poisson arrivals."""
    most_peakedness: float = 16.0
    drain_waits: float = 3.0
    """A backlog should be gone within this many wait targets."""
    sure: float = 5.0
    """Standard deviations of a Poisson count above which more calls are no chance."""
    least_jump: int = 8
    """Calls more than expected that are worth being noticed."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a pool will have to do when instances asked for now take calls."""

    arrivals_per_second: float
    """Fast up, slow down, with the trend if it has skill."""
    seconds: float
    """Mean duration of a call."""
    backlog: int
    """Calls that wait for lack of an instance."""
    expected: float
    """Calls under way halfway between the end of the lead time and the next one's."""
    drain: float
    """Instances more that clear the backlog in time."""
    peakedness: float
    usual: float
    """Calls in the pool on average, the last minutes."""
    new: float
    """Share of the calls' variance that is new until the next decision acts."""

    @property
    def unit(self) -> float:
        """Standard deviation of the calls under way."""
        return math.sqrt(self.peakedness * self.expected)

    @property
    def usual_unit(self) -> float:
        """Standard deviation of the usual calls until the next decision acts."""
        return math.sqrt(self.peakedness * self.usual * self.new)


@dataclass(frozen=True, slots=True)
class Demand:
    """What was learnt so far."""

    at: float | None = None
    every: float = _EVERY_SECONDS
    """Seconds between the last two observations."""
    calls: int = 0
    """In the pool, at the last one."""
    instances: int = 0
    """At the last one."""
    level: float = 0.0
    """Calls per second, fast up and slow down."""
    mean: float = 0.0
    variance: float = 0.0
    """Of the calls in the pool, waiting or under way."""
    trend: Trend = field(default_factory=Trend)
    made: Calls = field(default_factory=Calls)

    def see(
        self,
        seen: Observation,
        lead_seconds: float,
        wait_seconds: float,
        tuning: Tuning,
    ) -> tuple[Estimate, Demand] | None:
        """Learn from an observation and estimate; None: too little is known."""
        rate, seconds = seen.arrivals_per_second, seen.mean_seconds
        if seen.busy is None or seen.backlog is None or rate is None or seconds is None:
            return None
        waiting, calls = self._waiting(seen.busy, seen.backlog, seen.instances)
        learnt = self._learn(seen, rate, calls, lead_seconds, tuning)
        level = learnt.level + max(0.0, learnt.trend.ahead(lead_seconds))
        steady = level * seconds
        every = min(learnt.every, _LONGEST_SECONDS)
        left = _left(lead_seconds + every / 2, seconds)
        peakedness = learnt.variance / max(learnt.mean, 1.0)
        within = tuning.drain_waits * wait_seconds
        estimate = Estimate(
            arrivals_per_second=level,
            seconds=seconds,
            backlog=waiting,
            expected=max(0.0, steady + (calls - steady) * left),
            drain=waiting * (seconds / within if seconds < within else 1.0),
            peakedness=min(
                tuning.most_peakedness, max(tuning.least_peakedness, peakedness)
            ),
            usual=learnt.mean,
            new=1.0 - _left(2 * (lead_seconds + every), seconds),
        )
        return estimate, learnt

    def figures(self, estimate: Estimate) -> dict[str, float]:
        """Return what was estimated, for people and metrics."""
        return {
            "arrivals_per_second": estimate.arrivals_per_second,
            "seconds_per_call": estimate.seconds,
            "expected": estimate.expected,
            "drain": estimate.drain,
            "peakedness": estimate.peakedness,
            "arrivals_trend": 60 * self.trend.per_second,
            "skill": self.trend.skill,
        } | self.made.figures()

    def _waiting(self, busy: int, backlog: int, instances: int) -> tuple[int, int]:
        """Return the calls that wait, and all calls in the pool.

        A backlog is some seconds old: with an idle instance it is history, but not
        if the idle ones have come since. Those take the first of it, and what is
        told of busy instances may be as old as the backlog.
        """
        idle = instances - busy
        if idle <= 0:
            return backlog, busy + backlog
        grown = instances - self.instances if self.at is not None else 0
        if idle > max(0, grown):
            return 0, busy
        return max(0, backlog - idle), busy + backlog

    def _inflow(self, seen: Observation, calls: int, tuning: Tuning) -> float:
        """Return calls per second that came since the last observation, if a burst.

        What ended and what was added came. A mean over 30 s tells of it late; but
        only what chance does not explain is believed, and then all of it.
        """
        ended = seen.completions_per_second
        if self.at is None or ended is None or seen.at <= self.at:
            return 0.0
        gone = seen.at - self.at
        came = ended + (calls - self.calls) / gone
        chance = self.level + tuning.sure * math.sqrt(self.level / gone)
        jump = (came - self.level) * gone
        return came if came > chance and jump >= tuning.least_jump else 0.0

    def _learn(
        self,
        seen: Observation,
        rate: float,
        calls: int,
        lead_seconds: float,
        tuning: Tuning,
    ) -> Demand:
        """Move the averages by the time that has gone."""
        gone, level = _EVERY_SECONDS, rate
        # the variance of Poisson arrivals, until there is a measured one
        mean, variance = float(calls), float(calls)
        if self.at is not None:
            gone = seen.at - self.at
            now = max(rate, self._inflow(seen, calls, tuning))
            rising = now > self.level
            constant = tuning.rise_seconds if rising else tuning.fall_seconds
            level = self.level + weight(gone, constant) * (now - self.level)
            share, apart = weight(gone, tuning.spread_seconds), calls - self.mean
            mean = self.mean + share * apart
            variance = self.variance + share * (apart * apart - self.variance)
        return Demand(
            at=seen.at,
            every=gone,
            calls=calls,
            instances=seen.instances,
            level=level,
            mean=mean,
            variance=variance,
            trend=self.trend.see(seen.at, rate, lead_seconds),
            made=self.made.see(seen),
        )


def _left(after: float, seconds: float) -> float:
    """Return the share of the calls of now that still run after a time."""
    return math.exp(-after / seconds) if seconds > 0 else 0.0
