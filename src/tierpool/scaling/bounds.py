"""Which limit a pool meets first as its demand grows, and how far away that is; pure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

from tierpool.scaling.capacity import LATE_SHARE, grown, late_calls
from tierpool.scaling.demand import Demand
from tierpool.scaling.policy import Constraint, Limits

__all__ = ["Bound", "Elsewhere", "bounds_of", "hard_slots", "short"]

_FARTHEST = 1000.0
"""Growth beyond which a limit of slots is not looked for."""


@dataclass(frozen=True, slots=True)
class Bound:
    """One limit, and how near the demand is."""

    constraint: Constraint
    limit: float
    """For this pool: what the others take is left out."""
    used: float
    """Of rates in the busiest minute, of dollars in the busiest hour, of counts the
    slots that the target needs."""
    bites_at: float
    """Times this pool's calls at which it is used up; below 1 it bites already. A
    rate that bites delays calls of that minute, and need not delay 5 of 100."""

    @property
    def counts_slots(self) -> bool:
        """Whether it is a number of calls at a time."""
        return self.constraint in ("max_instances", "role_caps", "max_concurrent")

    @property
    def told(self) -> str:
        """The limit for people: `requests_per_minute 500`."""
        return f"{self.constraint} {short(self.limit)}"


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """What the fleet's other pools take of what all share."""

    slots: int = 0
    usd_per_hour: Decimal = Decimal(0)


def bounds_of(
    demand: Demand, slots: int, limits: Limits, others: Elsewhere
) -> list[Bound]:
    """Return all limits, the first to bite in front.

    Args:
        demand: What the pool is asked for.
        slots: What it needs for its target.
        limits: Of the whole fleet.
        others: What is taken already.
    """
    found = [*_counts(demand, slots, limits, others), *_rates(demand, limits, others)]
    return sorted(found, key=lambda one: one.bites_at)


def hard_slots(limits: Limits, others: Elsewhere) -> int | None:
    """Return the most slots of any use that a larger pool cannot change."""
    found = []
    if limits.role_caps is not None:
        found.append(limits.role_caps)
    if limits.max_concurrent is not None:
        found.append(limits.max_concurrent - others.slots)
    return max(1, min(found)) if found else None


def _counts(
    demand: Demand, slots: int, limits: Limits, others: Elsewhere
) -> Iterator[Bound]:
    given: list[tuple[Constraint, int | None, int]] = [
        ("max_instances", limits.max_instances, 0),
        ("role_caps", limits.role_caps, 0),
        ("max_concurrent", limits.max_concurrent, others.slots),
    ]
    for name, limit, taken in given:
        if limit is not None:
            free = max(0, limit - taken)
            growth = _growth(demand, free, limits.wait_target_seconds)
            yield Bound(name, free, slots, growth)


def _growth(demand: Demand, slots: int, target: float) -> float:
    """Return times the calls that so many slots serve within the target."""
    if slots < 1:
        return 0.0
    calls = math.fsum(one.calls for one in demand.windows)

    def fits(factor: float) -> bool:
        more = grown(demand.windows, factor)
        return late_calls(slots, more, target) <= LATE_SHARE * calls * factor

    low, high = 1 / _FARTHEST, _FARTHEST
    if not fits(low):
        return 0.0
    if fits(high):
        return high
    while high / low > 1.01:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _rates(demand: Demand, limits: Limits, others: Elsewhere) -> Iterator[Bound]:
    if limits.requests_per_minute is not None:
        used = demand.calls_per_minute
        yield _rate("requests_per_minute", limits.requests_per_minute, used)
    if limits.tokens_per_minute is not None and demand.tokens_per_minute > 0:
        used = demand.tokens_per_minute
        yield _rate("tokens_per_minute", limits.tokens_per_minute, used)
    if limits.usd_per_hour is not None and demand.usd_per_call:
        left = max(Decimal(0), limits.usd_per_hour - others.usd_per_hour)
        used = demand.busiest_hour * float(demand.usd_per_call)
        yield _rate("max_cost_per_hour_usd", float(left), used)


def _rate(name: Constraint, limit: float, used: float) -> Bound:
    return Bound(name, limit, used, limit / used if used > 0 else _FARTHEST)


def short(number: float) -> str:
    """Write a number with four digits, or all digits before the point."""
    return f"{number:,.0f}" if number >= 1000 else f"{number:.4g}"
