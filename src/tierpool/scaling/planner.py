"""Decides what to recommend for a pool: slots, what bounds it, how to deploy; pure.

Slots are predicted (`capacity`); waits are replayed where there are calls to
replay, else they are estimates and called so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, TypeAlias

from tierpool.blueprint import MOST_INSTANCES, MOST_WORKERS
from tierpool.errors import UsageError
from tierpool.scaling.bounds import Bound, Elsewhere, bounds_of, hard_slots
from tierpool.scaling.capacity import (
    erlang_c_slots,
    least,
    slots_for,
    wait_estimate,
)
from tierpool.scaling.demand import Demand
from tierpool.scaling.policy import Limits
from tierpool.scaling.replay import Rates, p95, replay, slots_by_replay

__all__ = ["ISOLATED_BURSTS", "Pattern", "PoolLines", "TierPlan", "pattern_for", "plan"]

Pattern: TypeAlias = Literal["one process", "compose", "cluster"]

ISOLATED_BURSTS = 0.25
"""Share of calls in isolated bursts from which only standing instances help."""

_FEW_ITEMS = 100
_MANY_ITEMS = 1000
_PER_WORKER = 50
"""Instances of one worker process at most: so many calls move if it is lost."""

_QUIET = 0.25
"""Share of the windows, the quietest ones, that the minimum serves."""

_HARD = (
    "requests_per_minute", "tokens_per_minute", "max_cost_per_hour_usd",
    "role_caps", "max_concurrent",
)  # fmt: skip
_MICRO = Decimal("0.000001")
_NEAR = 1.05
"""A wait this much above the nearest possible one is as good as that."""


@dataclass(frozen=True, slots=True)
class PoolLines:
    """Numbers for `pool:` in agents.yaml."""

    min_instances: int
    """Of one worker process, as `max_instances`."""
    max_instances: int
    min_workers: int
    max_workers: int
    wait_target_secs: float

    def __str__(self) -> str:
        scaling = (
            f"min_workers: {self.min_workers}, max_workers: {self.max_workers}, "
            f"wait_target_secs: {self.wait_target_secs:g}"
        )
        return (
            f"pool: {{min_instances: {self.min_instances}, "
            f"max_instances: {self.max_instances}, scaling: {{{scaling}}}}}"
        )


@dataclass(frozen=True, slots=True)
class TierPlan:
    """What one pool needs."""

    tier: str
    source: str
    calls: int
    """Samples; 0: given."""
    calls_per_hour: float
    mean_seconds: float
    cv: float
    peakedness: float
    load: float
    """Calls under way on average."""
    wait_target_seconds: float
    slots: int
    """To have while it is busiest, over all workers."""
    slots_predicted: int
    """By Hayward's approximation, window by window."""
    slots_erlang_c: int
    """For comparison: random arrivals at the mean rate."""
    slots_replayed: int | None
    """The fewest with which the recorded calls would have met the target, without
    rates; None: nothing to replay."""
    utilisation: float
    p95_wait_seconds: float | None
    """None: it grows for as long as calls come."""
    p95_is: Literal["simulated", "estimate"]
    usd_per_hour: Decimal | None
    """On average; None: nobody knows the tokens of a call."""
    usd_busiest_hour: Decimal | None
    bounds: tuple[Bound, ...]
    """All limits, the one that bites first in front."""
    possible: bool
    """Whether the target can be met within the limits that slots cannot move."""
    nearest_possible_seconds: float | None
    """Where it cannot: the best p95 that any slots give; `slots` come within 5 % of
    it. None: none, the backlog grows."""
    isolated_bursts: bool
    items_per_day: float | None
    pattern: Pattern
    lines: PoolLines
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Slots without any limit."""

    predicted: int
    replayed: int | None

    @property
    def slots(self) -> int:
        return max(self.predicted, self.replayed or 0)


@dataclass(frozen=True, slots=True)
class _Size:
    """Slots, and what comes of them."""

    slots: int
    wait: float | None
    possible: bool
    notes: tuple[str, ...] = ()
    nearest: float | None = None


def plan(
    tier: str,
    demand: Demand,
    limits: Limits,
    *,
    elsewhere: Elsewhere | None = None,
    workers: int | None = None,
) -> TierPlan:
    """Return what a pool needs for p95 wait within `limits.wait_target_seconds`.

    Args:
        tier: Name of the pool.
        demand: What it is asked for.
        limits: Of the whole fleet. `max_instances` is reported and not obeyed:
            to say what it should be is what a plan is for.
        elsewhere: What the other pools take of what all share.
        workers: Worker processes; None: chosen.
    """
    others, target = elsewhere or Elsewhere(), limits.wait_target_seconds
    replayed = None
    if demand.arrivals:
        replayed = slots_by_replay(demand.arrivals, demand.services, target)
    wanted = _Wanted(slots_for(demand.windows, target), replayed)
    bounds = tuple(bounds_of(demand, wanted.predicted, limits, others))
    size = _size(demand, wanted.slots, limits, others, bounds)
    return _told(tier, demand, target, wanted, bounds, size, workers)


def _told(
    tier: str,
    demand: Demand,
    target: float,
    wanted: _Wanted,
    bounds: tuple[Bound, ...],
    size: _Size,
    workers: int | None,
) -> TierPlan:
    """Put together what was found."""
    pattern = pattern_for(_items(demand))
    return TierPlan(
        tier=tier,
        source=demand.source,
        calls=demand.calls,
        calls_per_hour=demand.calls_per_hour,
        mean_seconds=demand.mean_seconds,
        cv=demand.cv,
        peakedness=demand.peakedness,
        load=demand.load,
        wait_target_seconds=target,
        slots=size.slots,
        slots_predicted=wanted.predicted,
        slots_erlang_c=erlang_c_slots(demand.windows, target),
        slots_replayed=wanted.replayed,
        utilisation=min(1.0, demand.load / size.slots),
        p95_wait_seconds=size.wait,
        p95_is="simulated" if demand.arrivals else "estimate",
        usd_per_hour=_usd(demand, demand.calls_per_hour),
        usd_busiest_hour=_usd(demand, demand.busiest_hour),
        bounds=bounds,
        possible=size.possible,
        nearest_possible_seconds=size.nearest,
        isolated_bursts=_isolated(demand),
        items_per_day=_items(demand),
        pattern=pattern,
        lines=_lines(demand, size.slots, target, pattern, workers),
        notes=tuple(_notes(demand, wanted, size)),
    )


def pattern_for(items_per_day: float) -> Pattern:
    """Return how so many work items a day are served with the least to run."""
    if items_per_day < _FEW_ITEMS:
        return "one process"
    return "compose" if items_per_day <= _MANY_ITEMS else "cluster"


def _size(
    demand: Demand,
    wanted: int,
    limits: Limits,
    others: Elsewhere,
    bounds: Sequence[Bound],
) -> _Size:
    """Return the slots to have within the limits that slots cannot move."""
    top = hard_slots(limits, others)
    slots = wanted if top is None else max(1, min(wanted, top))
    if not demand.arrivals:
        return _given_size(demand, slots, wanted, bounds)
    rates, target = _rates(demand, limits, others), limits.wait_target_seconds

    def wait(count: int | None, held: Rates = rates) -> float:
        made = replay(count, demand.arrivals, demand.services, demand.tokens, held)
        return p95(made)

    found = wait(slots)
    if found <= target:
        return _Size(slots, found, possible=True)
    floor = wait(top)
    if floor <= target:  # the rates delay calls: more slots make up for it
        slots = least(lambda count: wait(count) <= target, slots) or slots
        more = _slots(slots - wanted)
        note = f"{more} more than without rates, to make up for them"
        return _Size(slots, wait(slots), True, (note,))
    goal = max(floor * _NEAR, floor + 0.1)
    slots = least(lambda count: wait(count) <= goal, max(1, slots // 2)) or slots
    alone = {name: wait(None, held) for name, held in rates.apart()}
    late = [one.told for one in bounds if alone.get(one.constraint, 0.0) > target]
    late = late or [one.told for one in bounds if one.constraint in _HARD][:1]
    found = wait(slots)
    note = (
        f"p95 wait within {target:g} s is impossible with {' and '.join(late)}; the "
        f"nearest possible is {floor:,.1f} s; {_slots(slots)} come to {found:,.1f} s"
    )
    return _Size(slots, found, False, (note,), floor)


def _given_size(
    demand: Demand, slots: int, wanted: int, bounds: Sequence[Bound]
) -> _Size:
    """Return the slots where only a rate is known: no burst meets a rate limit."""
    rate = next((one for one in bounds if not one.counts_slots), None)
    if rate is not None and rate.bites_at < 1:
        return _growing(demand, slots, rate)
    first = _first_hard(bounds)
    wait = wait_estimate(slots, demand.windows)
    if slots >= wanted:
        return _Size(slots, wait, possible=True)
    told = f"{first.told}: {_slots(slots)}" if first else _slots(slots)
    near = (
        "the backlog grows for as long as calls come"
        if wait is None
        else f"the nearest possible p95 wait is about {wait:,.1f} s"
    )
    note = f"impossible with {told}; {near}"
    return _Size(slots, wait, False, (note,), wait)


def _growing(demand: Demand, slots: int, rate: Bound) -> _Size:
    """Say what a rate serves that is below the demand."""
    served = demand.calls_per_hour * rate.bites_at
    use = max(1, min(slots, math.ceil(demand.load * rate.bites_at)))
    note = (
        f"impossible: {rate.told} serves {served:,.0f} of "
        f"{demand.calls_per_hour:,.0f} calls an hour; the backlog grows for as "
        f"long as they come. {use} {'slot uses' if use == 1 else 'slots use'} all of "
        "it, more would only wait"
    )
    return _Size(use, None, False, (note,))


def _slots(count: int) -> str:
    return "1 slot" if count == 1 else f"{count:,} slots"


def _first_hard(bounds: Sequence[Bound]) -> Bound | None:
    """Return the first bound that a larger pool does not move."""
    return next((one for one in bounds if one.constraint in _HARD), None)


def _rates(demand: Demand, limits: Limits, others: Elsewhere) -> Rates:
    money = None
    if limits.usd_per_hour is not None and demand.usd_per_call:
        money = float(max(Decimal(0), limits.usd_per_hour - others.usd_per_hour))
    return Rates(
        limits.requests_per_minute,
        limits.tokens_per_minute,
        money,
        float(demand.usd_per_call or 0),
    )


def _lines(
    demand: Demand, slots: int, target: float, pattern: Pattern, workers: int | None
) -> PoolLines:
    """Spread the slots over workers; the minimum serves the quiet time."""
    standing = slots
    if demand.arrivals and not _isolated(demand):
        standing = min(slots, _quiet_slots(demand, target))
    fewest = 2 if pattern == "cluster" else 1  # one may be replaced at any time
    count = min(workers or max(fewest, math.ceil(slots / _PER_WORKER)), MOST_WORKERS)
    # no worker without a slot, and none with more than the file takes
    count = max(min(count, max(slots, fewest)), math.ceil(slots / MOST_INSTANCES))
    each = math.ceil(slots / count)
    kept = min(count, max(1, math.ceil(standing / each)))
    return PoolLines(
        min_instances=min(each, math.ceil(standing / kept)),
        max_instances=each,
        min_workers=kept,
        max_workers=count,
        wait_target_secs=target,
    )


def _quiet_slots(demand: Demand, target: float) -> int:
    """Return what the quietest windows with calls need."""
    ordered = sorted(demand.windows, key=lambda one: one.load)
    few = ordered[: max(1, round(_QUIET * len(ordered)))]
    try:
        return slots_for([one for one in few if one.calls > 0], target)
    except UsageError:  # no call began in any of them
        return 1


def _isolated(demand: Demand) -> bool:
    return demand.bursts >= ISOLATED_BURSTS


def _notes(demand: Demand, wanted: _Wanted, size: _Size) -> Iterator[str]:
    yield from size.notes
    replayed = wanted.replayed
    if replayed is not None and size.slots >= replayed > wanted.predicted:
        yield (
            f"raised from the predicted {wanted.predicted} slots to the {replayed} "
            "that the replay needs"
        )
    if _isolated(demand):
        yield (
            f"isolated bursts: {demand.bursts:.0%} of the calls come in bursts that "
            "begin out of quiet, faster than an instance starts. No policy serves them "
            "in time; only standing instances do, so the minimum is the maximum"
        )
    if demand.arrivals and demand.span_seconds < 86_400:
        yield (
            f"measured over {demand.span_seconds / 3600:.1f} h: a busier time of the "
            "day or week is not in it"
        )


def _items(demand: Demand) -> float:
    """Return items a day; where nobody knows, every call is one."""
    known = demand.items_per_day
    return 24 * demand.calls_per_hour if known is None else known


def _usd(demand: Demand, calls: float) -> Decimal | None:
    if demand.usd_per_call is None:
        return None
    return (demand.usd_per_call * Decimal(repr(calls))).quantize(_MICRO)
