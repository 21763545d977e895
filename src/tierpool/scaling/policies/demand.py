"""What a pool is asked for, estimated from a stream of observations; pure.

Calls under way and waiting are the demand of now; arrivals times duration is
where it goes (Little's law). How far it strays, measured as peakedness, says how
much room it needs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from tierpool.scaling.policies.trend import Samples, Trend, sampled, slope
from tierpool.scaling.policies.windows import weight
from tierpool.scaling.policy import Observation

__all__ = ["Demand", "Estimate", "Tuning"]


@dataclass(frozen=True, slots=True)
class Tuning:
    """One set of numbers for all traces; times in seconds. See docs/scaling-policies.md."""

    rise_seconds: float = 4.0
    """Time constant of the arrivals' average while they are above it."""
    fall_seconds: float = 120.0
    spread_seconds: float = 300.0
    """Time constant of mean and variance of the calls in the pool."""
    least_peakedness: float = 0.8
    most_peakedness: float = 16.0
    drain_seconds: float = 20.0
    """A backlog should be gone within this time."""


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
    """Calls under way after the lead time."""
    drain: float
    """Instances more that clear the backlog in time."""
    peakedness: float

    @property
    def unit(self) -> float:
        """Standard deviation of the calls under way."""
        return math.sqrt(self.peakedness * self.expected)


@dataclass(frozen=True, slots=True)
class Demand:
    """What was learnt so far."""

    at: float | None = None
    level: float = 0.0
    """Calls per second, fast up and slow down."""
    mean: float = 0.0
    variance: float = 0.0
    """Of the calls in the pool, waiting or under way."""
    trend: Trend = field(default_factory=Trend)
    completions: Samples = ()

    def see(
        self, seen: Observation, lead_seconds: float, tuning: Tuning
    ) -> tuple[Estimate, Demand] | None:
        """Learn from an observation and estimate; None: too little is known."""
        rate, seconds = seen.arrivals_per_second, seen.mean_seconds
        if seen.busy is None or seen.backlog is None or rate is None or seconds is None:
            return None
        # the backlog is some seconds old: with an idle instance it is history
        backlog = seen.backlog if seen.busy >= seen.instances else 0
        calls = seen.busy + backlog
        learnt = self._learn(seen, rate, calls, lead_seconds, tuning)
        level = learnt.level + max(0.0, learnt.trend.ahead(lead_seconds))
        steady = level * seconds
        left = math.exp(-lead_seconds / seconds) if seconds > 0 else 0.0
        peakedness = learnt.variance / max(learnt.mean, 1.0)
        estimate = Estimate(
            arrivals_per_second=level,
            seconds=seconds,
            backlog=backlog,
            expected=max(0.0, steady + (calls - steady) * left),
            drain=backlog * min(1.0, seconds / tuning.drain_seconds),
            peakedness=min(
                tuning.most_peakedness, max(tuning.least_peakedness, peakedness)
            ),
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
            "completions_trend": 60 * slope(self.completions),
            "skill": self.trend.skill,
        }

    def _learn(
        self,
        seen: Observation,
        rate: float,
        calls: int,
        lead_seconds: float,
        tuning: Tuning,
    ) -> Demand:
        """Move the averages by the time that has gone."""
        trend = self.trend.see(seen.at, rate, lead_seconds)
        ended = seen.completions_per_second
        ends = self.completions
        if ended is not None:
            ends = sampled(ends, seen.at, ended)
        if self.at is None:
            # the variance of Poisson arrivals, until there is a measured one
            return Demand(seen.at, rate, float(calls), float(calls), trend, ends)
        gone = seen.at - self.at
        rising = rate > self.level
        constant = tuning.rise_seconds if rising else tuning.fall_seconds
        level = self.level + weight(gone, constant) * (rate - self.level)
        share, apart = weight(gone, tuning.spread_seconds), calls - self.mean
        mean = self.mean + share * apart
        variance = self.variance + share * (apart * apart - self.variance)
        return Demand(seen.at, level, mean, variance, trend, ends)
