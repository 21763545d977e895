"""What calls of a fleet came to, summed up for people; pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Literal, TypeAlias

from tierpool.budget.totals import added
from tierpool.contracts.costs import ClosingCosts, DenialCount
from tierpool.contracts.ledger import HourTotals, LedgerState, Total
from tierpool.contracts.reports import WorkerReport

__all__ = [
    "BY",
    "By",
    "CostRow",
    "CostsReport",
    "ItemsSeen",
    "TierShare",
    "begin_of",
    "costs_report",
    "refused_by",
]

By: TypeAlias = Literal["flow", "role", "tier", "model", "item", "hour"]
BY: tuple[By, ...] = ("flow", "role", "tier", "model", "item", "hour")
_HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class CostRow:
    """What calls came to that have something in common."""

    key: str
    """Name of the flow, role, tier, model or item; the hour in UTC."""
    calls: int
    unknown: int
    """Of the calls: charged their reservation, because nobody knows their usage."""
    unbilled: int
    """Of the calls: turned away by the provider."""
    denied: int
    """Times that a call was sent back, or not paid for."""
    input_tokens: int
    output_tokens: int
    reserved_usd: Decimal
    settled_usd: Decimal
    top_usd: Decimal
    """What the same tokens would cost on the highest tier."""


@dataclass(frozen=True, slots=True)
class TierShare:
    """A tier's share of all model calls."""

    tier: str
    calls: float
    usd: float


@dataclass(frozen=True, slots=True)
class ItemsSeen:
    """Workflows that cost something, and how many of them could not be asked."""

    costs: tuple[ClosingCosts, ...] = ()
    closed: int = 0
    """Those of them that ended in that time."""
    running: int = 0
    unasked: int = 0
    """Running or broken off, and no worker has told their costs."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CostsReport:
    """What a fleet cost in a time."""

    fleet: str
    begin: datetime
    """Costs are counted from this full hour on."""
    by: By
    source: Literal["ledger", "items"]
    """Where rows and the total are from."""
    rows: tuple[CostRow, ...]
    total: CostRow
    tiers: tuple[TierShare, ...]
    saved_at_most_usd: Decimal
    """An upper bound of what routing saved: the highest tier might need less tokens."""
    closed_items: int
    running_items: int
    unasked_items: int
    denials: tuple[DenialCount, ...]
    """Calls that the budgets of items did not pay for."""
    refused: Mapping[str, int] = field(default_factory=dict)
    """Times that calls were sent back for want of a limited resource: workers that
    live now, since their start."""
    notes: tuple[str, ...] = ()


def begin_of(now: datetime, since: timedelta) -> datetime:
    """Return the full hour in which a time before now lies."""
    return (now - since).astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def costs_report(
    fleet: str,
    by: By,
    begin: datetime,
    ledger: LedgerState | None,
    items: ItemsSeen,
    *,
    tiers: Sequence[str] = (),
    refused: Mapping[str, int] | None = None,
    notes: Sequence[str] = (),
) -> CostsReport:
    """Sum up what is known.

    Args:
        fleet: Its name.
        by: What the rows have in common.
        begin: From when on hours count.
        ledger: None if it does not answer: then the items tell.
        items: Ended in that time, or running; all that they ever cost.
        tiers: Names, in the order of the file.
        refused: See `CostsReport`.
        notes: More to tell.
    """
    of_items = by == "item" or ledger is None
    hours = [h for h in ledger.hours if h.hour >= begin] if ledger else []
    pairs = _of_items(items.costs, by) if of_items else _of_hours(hours, by)
    told = [total for _, total in pairs]
    total = _row("", _sum(told))
    return CostsReport(
        fleet=fleet,
        begin=begin,
        by=by,
        source="items" if of_items else "ledger",
        rows=_rows(pairs, by, tiers),
        total=total,
        tiers=_mix(told, tiers),
        saved_at_most_usd=max(Decimal(0), total.top_usd - total.settled_usd),
        closed_items=items.closed,
        running_items=items.running,
        unasked_items=items.unasked,
        denials=_denials(items.costs),
        refused=dict(refused or {}),
        notes=(*notes, *_on_hours(ledger, begin, by), *items.notes),
    )


def refused_by(reports: Iterable[WorkerReport]) -> dict[str, int]:
    """Add up what workers refused, by resource."""
    counts: Counter[str] = Counter()
    for report in reports:
        if report.lease is not None:
            counts.update(report.lease.refused)
    return dict(counts.most_common())


_Pairs: TypeAlias = list[tuple[str, Total]]


def _of_hours(hours: Iterable[HourTotals], by: By) -> _Pairs:
    return [
        (f"{hour.hour:%Y-%m-%d %H:%M}" if by == "hour" else getattr(total, by), total)
        for hour in hours
        for total in hour.totals
    ]


def _of_items(items: Iterable[ClosingCosts], by: By) -> _Pairs:
    if by == "hour":
        return [("(not known)", total) for item in items for total in item.totals]
    return [
        (item.item if by == "item" else getattr(total, by), total)
        for item in items
        for total in item.totals
    ]


def _rows(pairs: _Pairs, by: By, tiers: Sequence[str]) -> tuple[CostRow, ...]:
    """Add up by key; hours in their order, tiers in the file's, else the dearest first."""
    sums: dict[str, Total] = {}
    for key, total in pairs:
        sums[key] = added(sums[key], total) if key in sums else total
    rows = [_row(key, total) for key, total in sums.items()]
    if by == "hour":
        return tuple(sorted(rows, key=lambda row: row.key))
    if by == "tier":
        places = {name: place for place, name in enumerate(tiers)}
        return tuple(sorted(rows, key=lambda r: (places.get(r.key, 99), r.key)))
    return tuple(sorted(rows, key=lambda row: (-row.settled_usd, -row.calls, row.key)))


def _row(key: str, total: Total) -> CostRow:
    return CostRow(
        key=key,
        calls=total.calls,
        unknown=total.unknown,
        unbilled=total.unbilled,
        denied=total.denied,
        input_tokens=total.usage.input_tokens,
        output_tokens=total.usage.output_tokens,
        reserved_usd=total.reserved_usd,
        settled_usd=total.settled_usd,
        top_usd=total.top_usd,
    )


def _sum(totals: Iterable[Total]) -> Total:
    whole = Total()
    for total in totals:
        whole = added(whole, total)
    return whole


def _mix(totals: Sequence[Total], tiers: Sequence[str]) -> tuple[TierShare, ...]:
    """Share out the calls of models; tools and denials are of no tier."""
    calls: Counter[str] = Counter()
    usd: dict[str, Decimal] = {}
    for total in totals:
        if total.model and total.calls:
            calls[total.tier] += total.calls
            usd[total.tier] = usd.get(total.tier, Decimal(0)) + total.settled_usd
    made, spent = calls.total(), sum(usd.values(), Decimal(0))
    names = [*tiers, *sorted(calls.keys() - set(tiers))]
    return tuple(
        TierShare(name, calls[name] / made, float(usd[name] / spent) if spent else 0.0)
        for name in names
        if name in calls
    )


def _denials(items: Iterable[ClosingCosts]) -> tuple[DenialCount, ...]:
    counts: dict[tuple[str, str], DenialCount] = {}
    for item in items:
        for denial in item.denials:
            known = counts.get((denial.role, denial.tier))
            times = denial.times + (known.times if known else 0)
            told = denial.model_copy(update={"times": times})
            counts[denial.role, denial.tier] = told
    return tuple(sorted(counts.values(), key=lambda one: -one.times))


def _on_hours(ledger: LedgerState | None, begin: datetime, by: By) -> list[str]:
    """Say what hours are missing."""
    if ledger is None or by == "item":
        return []
    if not ledger.hours:
        return ["the ledger has booked nothing yet"]
    first = ledger.hours[0].hour
    if first - begin < _HOUR:
        return []
    return [f"nothing is booked before {first:%Y-%m-%d %H:%M} UTC"]
