"""How costs are summed up for people."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from tierpool.contracts import Usage
from tierpool.contracts.costs import ClosingCosts, DenialCount
from tierpool.contracts.ledger import HourTotals, LedgerState, Total
from tierpool.contracts.reports import LeaseReport, WorkerReport
from tierpool.pools.costs import (
    By,
    CostsReport,
    ItemsSeen,
    begin_of,
    costs_report,
    refused_by,
)

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
TIERS = ("nano", "standard", "premium")


def total(tier: str = "nano", usd: str = "0.1", **fields: Any) -> Total:
    given: dict[str, Any] = {
        "flow": "work",
        "role": "clerk",
        "tier": tier,
        "model": f"openai:{tier}",
        "calls": 1,
        "settled_usd": Decimal(usd),
        "top_usd": Decimal(1),
        "usage": Usage(input_tokens=10, output_tokens=5),
    }
    return Total(**given | fields)


def ledger(*hours: tuple[int, tuple[Total, ...]]) -> LedgerState:
    """Make a ledger from hours before noon and their totals, earliest first."""
    return LedgerState(
        hours=tuple(
            HourTotals(hour=NOON - timedelta(hours=ago), totals=totals)
            for ago, totals in hours
        )
    )


def report(
    by: By,
    known: LedgerState | None,
    *items: ClosingCosts,
    begin: datetime = NOON,
    **more: Any,
) -> CostsReport:
    seen = ItemsSeen(costs=items)
    return costs_report("acme", by, begin, known, seen, tiers=TIERS, **more)


def test_time_begins_with_a_full_hour() -> None:
    assert NOON == begin_of(NOON + timedelta(minutes=80), timedelta(hours=1))


def test_rows_add_up_and_earlier_hours_do_not_count() -> None:
    known = ledger((5, (total(),)), (0, (total(), total("premium", "0.5"))))

    told = report("tier", known)

    assert [("nano", 1), ("premium", 1)] == [(r.key, r.calls) for r in told.rows]
    assert (Decimal("0.6"), 20, 10) == (
        told.total.settled_usd,
        told.total.input_tokens,
        told.total.output_tokens,
    )
    assert Decimal("1.4") == told.saved_at_most_usd


def test_dearest_comes_first_and_hours_in_their_order() -> None:
    known = ledger(
        (1, (total(role="dear", usd="9"),)), (0, (total(role="cheap", usd="1"),))
    )

    begin = NOON - timedelta(hours=3)
    roles, hours = (
        report("role", known, begin=begin),
        report("hour", known, begin=begin),
    )

    assert ["dear", "cheap"] == [row.key for row in roles.rows]
    assert ["2026-11-21 11:00", "2026-11-21 12:00"] == [row.key for row in hours.rows]
    assert ("nothing is booked before 2026-11-21 11:00 UTC",) == roles.notes


def test_tools_and_denials_are_no_part_of_the_mix() -> None:
    tool = total(tier="", usd="0", model="", calls=9)
    denied = total("premium", "0", calls=0, denied=4)

    told = report(
        "role", ledger((0, (tool, denied, total(), total("standard", "0.3"))))
    )

    assert [("nano", 0.5, 0.25), ("standard", 0.5, 0.75)] == [
        (share.tier, share.calls, round(share.usd, 6)) for share in told.tiers
    ]
    assert 4 == told.total.denied


def test_free_models_have_no_share_of_dollars() -> None:
    told = report("tier", ledger((0, (total(usd="0"),))))

    assert [("nano", 1.0, 0.0)] == [(s.tier, s.calls, s.usd) for s in told.tiers]


def test_without_a_ledger_items_tell() -> None:
    item = ClosingCosts(
        item="T-1",
        totals=(total(), total()),
        denials=(DenialCount(role="judge", times=2, why="a"),),
    )
    other = ClosingCosts(
        item="T-2",
        totals=(total(),),
        denials=(DenialCount(role="judge", times=1, why="b"),),
    )

    told = report("role", None, item, other)
    by_item = report("item", ledger(), item, other)

    assert ("items", 3) == (told.source, told.total.calls)
    assert [("T-1", 2), ("T-2", 1)] == [(r.key, r.calls) for r in by_item.rows]
    assert [("judge", 3, "b")] == [(d.role, d.times, d.why) for d in told.denials]
    assert () == by_item.notes


def test_empty_ledger_says_so() -> None:
    told = report("role", LedgerState())

    assert (0, ()) == (told.total.calls, told.rows)
    assert ("the ledger has booked nothing yet",) == told.notes


def test_refusals_of_workers_add_up() -> None:
    reports = [
        WorkerReport(id=f"{n}", fleet="acme", started=NOON, at=NOON, lease=lease)
        for n, lease in enumerate(
            (LeaseReport(refused={"usd": 2}), LeaseReport(refused={"usd": 1}), None)
        )
    ]

    assert {"usd": 3} == refused_by(reports)
