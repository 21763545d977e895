"""The demand on one pool: measured from calls, or given as a rate; pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from tierpool.errors import TierpoolError, UsageError
from tierpool.scaling.capacity import Window, mean_load, whole
from tierpool.scaling.occupancy import burst_share, measure

__all__ = [
    "LEAST_CALLS",
    "LEAST_SECONDS",
    "Demand",
    "TooFewCalls",
    "demand_of_calls",
    "demand_of_rate",
    "with_items",
]

LEAST_CALLS = 200
"""Calls that a plan needs. Ten of them are beyond the 95th percentile, and rate and
mean duration are known to about 14 % (two standard errors, 2 / sqrt(200), where
calls come at random and durations scatter by their mean)."""

LEAST_SECONDS = 600.0
"""Two windows: from one, a change of the rate cannot be told from a burst."""

_MINUTE = 60.0
_HOUR = 3600.0


class TooFewCalls(TierpoolError):
    """Calls from which nothing can be said that would hold tomorrow."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What a pool is asked for."""

    source: str
    """Where it is from, for people."""
    windows: tuple[Window, ...]
    calls: int
    """Samples; 0: given."""
    span_seconds: float
    """From the first arrival to the last; of a given rate: an hour."""
    mean_seconds: float
    cv: float
    """Standard deviation of the durations over their mean."""
    calls_per_minute: float
    """In the busiest minute; of a given rate: on average."""
    tokens_per_minute: float
    """In the busiest minute for tokens; 0: not known."""
    calls_per_hour: float
    """On average."""
    busiest_hour: float
    """Calls of the busiest hour; of a shorter record: its mean rate."""
    tokens_per_call: float = 0.0
    """Input and output together; 0: not known."""
    usd_per_call: Decimal | None = None
    bursts: float = 0.0
    """Share of calls in isolated bursts."""
    items_per_day: float | None = None
    arrivals: Sequence[float] = ()
    """Empty: given, so that nothing can be replayed."""
    services: Sequence[float] = ()
    tokens: Sequence[int] = ()

    @property
    def load(self) -> float:
        """Calls under way on average if none had to wait."""
        return mean_load(self.windows)

    @property
    def peakedness(self) -> float:
        """Of the windows, weighted by their load."""
        return whole(self.windows).peakedness


def demand_of_calls(
    source: str,
    arrivals: Sequence[float],
    services: Sequence[float],
    tokens: Sequence[int],
    target: float,
    *,
    usd_per_call: Decimal | None = None,
    items_per_day: float | None = None,
) -> Demand:
    """Measure the demand of calls.

    Args:
        source: Where they are from, for people.
        arrivals: Seconds, ascending.
        services: Seconds that each call takes an instance.
        tokens: Input and output of each call together.
        target: Seconds that a call may wait.
        usd_per_call: Mean cost.
        items_per_day: Work items that make them; None: not known.

    Raises:
        TooFewCalls: below LEAST_CALLS or LEAST_SECONDS, or with nothing to measure.
    """
    count, span = _enough(source, arrivals)
    (mean, cv), per_hour = _mean_and_cv(services), count / span * _HOUR
    return Demand(
        source=source,
        windows=_windows(source, arrivals, services, target),
        calls=count,
        span_seconds=span,
        mean_seconds=mean,
        cv=cv,
        calls_per_minute=_busiest(arrivals, _MINUTE),
        tokens_per_minute=_busiest(arrivals, _MINUTE, tokens),
        calls_per_hour=per_hour,
        busiest_hour=_busiest(arrivals, _HOUR) if span >= _HOUR else per_hour,
        tokens_per_call=math.fsum(tokens) / count,
        usd_per_call=usd_per_call,
        bursts=burst_share(arrivals, services),
        items_per_day=items_per_day,
        arrivals=arrivals,
        services=services,
        tokens=tokens,
    )


def _windows(
    source: str, arrivals: Sequence[float], services: Sequence[float], target: float
) -> tuple[Window, ...]:
    windows = measure(arrivals, services, target)
    if not windows or sum(window.calls for window in windows) <= 0:
        raise TooFewCalls(
            f"{source}: no window of it has both calls that come and calls under way: "
            "their durations are 0, or they all come at its beginning or end. Take "
            "another part of it, or give what you expect: --rate and --mean-seconds"
        )
    return windows


def demand_of_rate(
    rate: float,
    mean_seconds: float,
    *,
    cv: float = 1.0,
    peakedness: float = 1.0,
    tokens_per_call: float = 0.0,
    usd_per_call: Decimal | None = None,
) -> Demand:
    """Take a demand that somebody expects.

    Waits fall off with the mean time that is left of a call under way,
    (1 + cv²)/2 mean durations: with cv 1 and peakedness 1 this is Erlang-C.

    Args:
        rate: Calls per second, all the time.
        mean_seconds: Of a call.
        cv: Standard deviation of the durations over their mean.
        peakedness: 1 for random arrivals, more for bursts.
        tokens_per_call: Input and output together; 0: not known.
        usd_per_call: Mean cost.

    Raises:
        UsageError: with all that cannot be.
    """
    _check_given(rate, mean_seconds, cv, peakedness)
    lasts = mean_seconds * (1 + cv * cv) / 2
    one = Window(
        rate * _HOUR, rate * mean_seconds, mean_seconds, peakedness, lasts, _HOUR
    )
    shape = f"cv {cv:g}, peakedness {peakedness:g}"
    return Demand(
        source=f"given: {rate:g} calls a second of {mean_seconds:g} s ({shape})",
        windows=(one,),
        calls=0,
        span_seconds=_HOUR,
        mean_seconds=mean_seconds,
        cv=cv,
        calls_per_minute=_MINUTE * rate,
        tokens_per_minute=_MINUTE * rate * tokens_per_call,
        calls_per_hour=_HOUR * rate,
        busiest_hour=_HOUR * rate,
        tokens_per_call=tokens_per_call,
        usd_per_call=usd_per_call,
    )


def with_items(demand: Demand, calls_per_item: float) -> Demand:
    """Return the demand of items that make so many calls each."""
    daily = demand.calls_per_hour * 24 / calls_per_item
    return replace(demand, items_per_day=daily)


def _enough(source: str, arrivals: Sequence[float]) -> tuple[int, float]:
    """Return number and span of calls.

    Raises:
        TooFewCalls: below LEAST_CALLS, or within less than LEAST_SECONDS.
    """
    count = len(arrivals)
    span = arrivals[-1] - arrivals[0] if count else 0.0
    if count < LEAST_CALLS or span < LEAST_SECONDS:
        raise TooFewCalls(
            f"{source}: {_calls(count)} within {span:,.0f} s: too few to plan from; "
            f"{LEAST_CALLS} calls within {LEAST_SECONDS:.0f} s at least are needed. "
            "Take a longer time, or give what you expect: --rate and --mean-seconds"
        )
    return count, span


def _calls(count: int) -> str:
    return "1 call" if count == 1 else f"{count:,} calls"


def _mean_and_cv(values: Sequence[float]) -> tuple[float, float]:
    mean = math.fsum(values) / len(values)
    spread = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / len(values))
    return mean, spread / mean if mean > 0 else 0.0


def _check_given(rate: float, mean: float, cv: float, peakedness: float) -> None:
    wrong = [
        f"{name} {value!r} must be {right}"
        for name, value, fits, right in (
            ("--rate", rate, 0 < rate <= 1e5, "above 0 and at most 100000 a second"),
            ("--mean-seconds", mean, 0 < mean <= 86_400, "above 0 and at most 86400"),
            ("--cv", cv, 0 <= cv <= 20, "from 0 to 20"),
            ("--peakedness", peakedness, 0.5 <= peakedness <= 1e4, "from 0.5 to 10000"),
        )
        if not fits
    ]
    if wrong:
        raise UsageError("; ".join(wrong))


def _busiest(
    arrivals: Sequence[float], seconds: float, amounts: Sequence[int] = ()
) -> float:
    """Return the most calls within any such time, or the most of their amounts."""
    first, now, most = 0, 0, 0
    for index, at in enumerate(arrivals):
        now += amounts[index] if amounts else 1
        while arrivals[first] <= at - seconds:
            now -= amounts[first] if amounts else 1
            first += 1
        most = max(most, now)
    return float(most)
