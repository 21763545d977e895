"""Does a trend help? Two forecasts of the arrivals, and which one was nearer.

A line through five minutes of noisy arrivals foresees worse than an average more
often than not. So both forecast every time, both are compared with what came, and
the trend counts only while its errors were the smaller ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from tierpool.scaling.policies.windows import weight
from tierpool.scaling.policy import Observation

__all__ = ["Calls", "Samples", "Trend", "sampled", "slope"]

WINDOW_SECONDS = 300.0
_SMOOTH_SECONDS = 60.0
_SKILL_SECONDS = 1800.0
_RATE_SECONDS = 30.0
"""Observed rates are means over this time."""
_DAMPED = 0.5
_JUDGED = 60
"""Forecasts before skill is spoken of: ten minutes of them, every 10 s."""
_WORTH_TELLING = 0.05
_MOST = 64
"""Of samples and of open forecasts, whatever the time between decisions."""

Samples: TypeAlias = tuple[tuple[float, float], ...]
"""Times and calls per second, the oldest first."""


@dataclass(frozen=True, slots=True)
class Trend:
    """Samples of the last five minutes, open forecasts, errors so far."""

    samples: Samples = ()
    smooth: float = 0.0
    """Average with a time constant of a minute: the forecast to beat."""
    pending: tuple[tuple[float, float, float], ...] = ()
    """When it will be known, the average's forecast, the damped trend's."""
    average_error: float = 0.0
    trend_error: float = 0.0
    """Mean squares, the recent half hour."""
    judged: int = 0

    @property
    def skill(self) -> float:
        """1 - the trend's mean square error over the average's; above 0: it helps."""
        if self.judged < _JUDGED or self.average_error <= 0:
            return 0.0
        return 1.0 - self.trend_error / self.average_error

    @property
    def per_second(self) -> float:
        """Change of the calls per second, per second."""
        return slope(self.samples)

    def ahead(self, lead_seconds: float) -> float:
        """Return by how much calls per second will have changed: 0 without skill."""
        if self.skill <= 0:
            return 0.0
        return _DAMPED * self.per_second * (lead_seconds + _RATE_SECONDS / 2)

    def see(self, at: float, rate: float, lead_seconds: float) -> Trend:
        """Judge the forecasts that are due, and make the next."""
        last = self.samples[-1][0] if self.samples else at - _RATE_SECONDS
        gone = at - last
        average, trend, judged = self.average_error, self.trend_error, self.judged
        for due, one, other in self.pending:
            if due <= at:
                share = max(weight(gone, _SKILL_SECONDS), 1.0 / (judged + 1))
                average += share * ((rate - one) ** 2 - average)
                trend += share * ((rate - other) ** 2 - trend)
                judged += 1
        smooth = rate
        if self.samples:
            share = weight(gone, _SMOOTH_SECONDS)
            smooth = self.smooth + share * (rate - self.smooth)
        samples = sampled(self.samples, at, rate)
        ahead = lead_seconds + _RATE_SECONDS
        guess = max(0.0, smooth + _DAMPED * slope(samples) * ahead)
        left = tuple(one for one in self.pending if one[0] > at)
        pending = (*left, (at + ahead, smooth, guess))[-_MOST:]
        return Trend(samples, smooth, pending, average, trend, judged)


@dataclass(frozen=True, slots=True)
class Calls:
    """How calls have changed within five minutes: their ends, durations and sizes.

    Means follow a change by themselves; where it leads to is for people to know,
    before longer calls or contexts meet a limit.
    """

    ends: Samples = ()
    """Completions per second."""
    durations: Samples = ()
    """Mean seconds of a call."""
    sizes: Samples = ()
    """Mean tokens of a call, input and output together."""

    def see(self, seen: Observation) -> Calls:
        """Add what is known."""
        return Calls(
            _added(self.ends, seen.at, seen.completions_per_second),
            _added(self.durations, seen.at, seen.mean_seconds),
            _added(self.sizes, seen.at, seen.tokens_per_call),
        )

    def figures(self) -> dict[str, float]:
        """Return the changes in a minute."""
        return {
            "completions_trend": 60 * slope(self.ends),
            "seconds_trend": 60 * slope(self.durations),
            "tokens_trend": 60 * slope(self.sizes),
        }

    def told(self) -> str:
        """Say which of the means grow by 5 % a minute or more; empty: none."""
        means = ("seconds", self.durations), ("tokens", self.sizes)
        growth = ((name, _growth(samples)) for name, samples in means)
        return "".join(
            f", {name} of a call +{share:.0%} a minute"
            for name, share in growth
            if share >= _WORTH_TELLING
        )


def _added(samples: Samples, at: float, value: float | None) -> Samples:
    return samples if value is None else sampled(samples, at, value)


def _growth(samples: Samples) -> float:
    """Return the change in a minute as a share of the last value."""
    last = samples[-1][1] if samples else 0.0
    return 60 * slope(samples) / last if last > 0 else 0.0


def sampled(samples: Samples, at: float, value: float) -> Samples:
    """Add a sample and forget those that are older than five minutes."""
    kept = [one for one in samples if one[0] > at - WINDOW_SECONDS]
    return (*kept, (at, value))[-_MOST:]


def slope(samples: Samples) -> float:
    """Return the slope of the line through the samples, by least squares."""
    count = len(samples)
    if count < 3:
        return 0.0
    middle = sum(at for at, _ in samples) / count
    spread = sum((at - middle) ** 2 for at, _ in samples)
    if spread <= 0:
        return 0.0
    return sum((at - middle) * value for at, value in samples) / spread
