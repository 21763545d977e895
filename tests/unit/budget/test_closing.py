"""What a workflow leaves of its costs: exact, and never large."""

from decimal import Decimal
from typing import Any

from tierpool.blueprint import Price
from tierpool.budget.closing import closing_costs
from tierpool.contracts import (
    Attempt,
    Denial,
    EarlierAttempts,
    ItemCosts,
    Outcome,
    Usage,
)
from tierpool.contracts.costs import ClosingCosts

TOP = Price(input_usd_per_mtok=Decimal(100), output_usd_per_mtok=Decimal(200))
USAGE = Usage(input_tokens=100, output_tokens=50)


def attempt(role: str = "clerk", **fields: Any) -> Attempt:
    given: dict[str, Any] = {
        "role": role,
        "tier": "nano",
        "model": "openai:small",
        "usage": USAGE,
        "reserved_usd": Decimal("0.01"),
        "cost_usd": Decimal("0.0002"),
    }
    return Attempt(**given | fields)


def closed(*attempts: Attempt, **fields: Any) -> ClosingCosts:
    costs = ItemCosts(item_id="T-1", made=len(attempts), attempts=attempts, **fields)
    return closing_costs(costs, fleet="acme", flow="work", top=TOP)


def test_attempts_of_a_kind_are_one_row() -> None:
    left = closed(attempt(), attempt(), attempt("judge", cost_usd=Decimal("0.5")))

    judge, clerk = left.totals
    assert ("judge", 1) == (judge.role, judge.calls)
    assert (2, Decimal("0.0004"), Decimal("0.02")) == (
        clerk.calls,
        clerk.settled_usd,
        clerk.reserved_usd,
    )
    assert Decimal("0.04") == clerk.top_usd
    assert (200, 100) == (clerk.usage.input_tokens, clerk.usage.output_tokens)


def test_unknown_and_unbilled_attempts_are_counted() -> None:
    unknown = attempt(usage=None, outcome=Outcome.AMBIGUOUS, cost_usd=Decimal("0.01"))
    unbilled = attempt(usage=None, outcome=Outcome.UNBILLED, cost_usd=Decimal(0))

    (row,) = closed(unknown, unbilled).totals

    assert (2, 1, 1) == (row.calls, row.unknown, row.unbilled)
    assert Decimal("0.01") == row.settled_usd == row.top_usd


def test_tool_costs_nothing() -> None:
    (row,) = closed(
        attempt(tier="", model="", usage=None, reserved_usd=None, cost_usd=Decimal(0))
    ).totals

    assert (1, 0, 0) == (row.calls, row.unknown, row.settled_usd)


def test_attempts_of_earlier_runs_are_a_row() -> None:
    before = EarlierAttempts(
        attempts=7, usage=USAGE, cost_usd=Decimal("0.3"), unknown_cost_attempts=2
    )

    _, clerk = closed(attempt(), earlier=before).totals
    earlier = closed(attempt(), earlier=before).totals[0]

    assert "clerk" == clerk.role
    assert ("(earlier)", 7, 2) == (earlier.role, earlier.calls, earlier.unknown)


def test_denials_keep_how_many_and_why() -> None:
    denials = tuple(
        Denial(role="judge", tier="premium", needs_usd=Decimal(1), why=f"{n}" * 200)
        for n in range(3)
    )

    left = closed(denials=denials)

    (denial,) = left.denials
    assert (3, "2" * 80) == (denial.times, denial.why)
    assert [("judge", 3)] == [(row.role, row.denied) for row in left.totals]


def test_many_kinds_stay_small_and_lose_nothing() -> None:
    attempts = [attempt(f"role-{n}", cost_usd=Decimal(n)) for n in range(60)]
    denials = tuple(
        Denial(role=f"r{n}", needs_usd=Decimal(1), why="x" * 500) for n in range(60)
    )

    left = closed(*attempts, denials=denials)

    assert 12 == len(left.totals)
    assert (60, 60) == (
        sum(row.calls for row in left.totals),
        sum(row.denied for row in left.totals),
    )
    assert sum(range(60)) == sum(row.settled_usd for row in left.totals)
    assert "(others)" == left.totals[-1].role
    assert len(left.model_dump_json()) < 5000
