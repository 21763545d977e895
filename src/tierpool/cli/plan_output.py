"""What `tierpool plan` prints: a table, what stands behind it, lines to paste."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tierpool.cli.common import many, plain, table
from tierpool.scaling.bounds import Bound, short
from tierpool.scaling.demand import Demand
from tierpool.scaling.planner import Pattern, TierPlan, pattern_for

__all__ = ["Asked", "as_document", "render"]

_PATTERNS: dict[Pattern, str] = {
    "one process": "one process: `tierpool dev`, or one `tierpool worker` for all pools "
    "beside a Temporal server (below 100 items a day)",
    "compose": "compose on one machine: docker-compose.yml (100 to 1,000 items a day)",
    "cluster": "a cluster: `tierpool manifests` and Kubernetes (above 1,000 items a "
    "day; to 10,000 and beyond)",
}


@dataclass
class Asked:
    """Demands by tier, and what there is to say about where they are from."""

    demands: dict[str, Demand] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def as_document(fleet: str, plans: Sequence[TierPlan], asked: Asked) -> dict[str, Any]:
    """Return the plan as one JSON document."""
    return {
        "fleet": fleet,
        "tiers": [_document(one) for one in plans],
        "refused": asked.refused,
        "pattern": _pattern(plans),
        "notes": asked.notes,
    }


def render(fleet: str, plans: Sequence[TierPlan], asked: Asked) -> Iterator[Any]:
    """Yield what people see: a table, and lines."""
    columns = (
        "tier", ">slots", ">Erlang-C", ">replayed", ">utilisation", ">p95 wait",
        ">$/hour", "first bound",
    )  # fmt: skip
    rows = [_row(one) for one in plans]
    yield table(columns, rows, f"fleet {fleet}")
    yield (
        "slots: predicted by Hayward's approximation, raised where the replay needs "
        "more. Erlang-C: the same for calls at random at the mean rate. replayed: the "
        "fewest that would have done, without rates"
    )
    for one in plans:
        yield ""
        yield from (plain(line) for line in _told(one))
    yield ""
    for tier, why in asked.refused.items():
        yield f"[yellow]{plain(f'{tier}: not planned: {why}')}[/]"
    for note in asked.notes:
        yield f"[yellow]{plain(note)}[/]"
    items = max(one.items_per_day or 0.0 for one in plans)
    yield plain(f"deployment: {items:,.0f} items a day: {_PATTERNS[_pattern(plans)]}")


def _pattern(plans: Sequence[TierPlan]) -> Pattern:
    """Return what fits the fleet: items go through several tiers."""
    return pattern_for(max(one.items_per_day or 0.0 for one in plans))


def _document(one: TierPlan) -> dict[str, Any]:
    first = one.bounds[0] if one.bounds else None
    extra = {"first_bound": first.constraint if first else None}
    return asdict(one) | extra | {"agents_yaml": str(one.lines)}


def _row(one: TierPlan) -> list[object]:
    wait = one.p95_wait_seconds
    told = "grows" if wait is None else f"{wait:,.1f} s"
    return [
        one.tier,
        one.slots,
        one.slots_erlang_c,
        one.slots_replayed or "-",
        f"{one.utilisation:.0%}",
        told + ("" if one.p95_is == "simulated" or wait is None else " (estimate)"),
        "-" if one.usd_per_hour is None else f"{one.usd_per_hour:.4f}",
        _near(one.bounds[0]) if one.bounds else "none",
    ]


def _told(one: TierPlan) -> Iterator[str]:
    yield (
        f"{one.tier}: {one.source}"
        + (f": {many(one.calls, 'call')}" if one.calls else "")
        + f"; {one.calls_per_hour:,.0f} an hour of {one.mean_seconds:.1f} s "
        f"(cv {one.cv:.2f}), {one.load:.1f} under way on average, peakedness "
        f"{one.peakedness:.2f}; p95 wait within {one.wait_target_seconds:g} s "
        + ("is possible" if one.possible else "is IMPOSSIBLE")
    )
    if one.bounds:
        yield "  bounds: " + "; ".join(_near(bound) for bound in one.bounds)
    for note in one.notes:
        yield f"  {note}"
    yield "  agents.yaml, below tiers: " + one.tier + ":"
    yield f"    {one.lines}"


def _near(bound: Bound) -> str:
    """Say how far away a bound is."""
    far = bound.bites_at
    used = f"{bound.told} ({short(bound.used)} needed)"
    if far < 1:
        return f"{used} bites already, at {far:.2f} times these calls"
    return f"{used} bites at {far:,.3g} times these calls"
