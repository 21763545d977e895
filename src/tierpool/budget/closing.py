"""Sums up what one workflow cost, in few rows; pure."""

from __future__ import annotations

from collections.abc import Iterable

from tierpool.blueprint import Price
from tierpool.budget.cost import cost_usd
from tierpool.budget.totals import added, kind_of
from tierpool.contracts import Attempt, Denial, ItemCosts, Outcome
from tierpool.contracts.costs import ClosingCosts, DenialCount
from tierpool.contracts.ledger import Total

__all__ = ["closing_costs"]

_ROWS = 12
_DENIALS = 5
_WHY = 80
"""Rows, denials and characters of a reason: all of it takes about 1 KB, 4 at most."""
_OTHERS = "(others)"
_EARLIER = "(earlier)"


def closing_costs(
    costs: ItemCosts, *, fleet: str, flow: str, top: Price
) -> ClosingCosts:
    """Sum up what a workflow cost.

    Args:
        costs: As the workflow tells them.
        fleet: Its fleet.
        flow: Type of the workflow.
        top: Price of the highest tier.
    """
    totals = [_of_attempt(attempt, flow, top) for attempt in costs.attempts]
    before = costs.earlier
    if before.attempts:
        totals.append(
            Total(
                flow=flow,
                role=_EARLIER,
                calls=before.attempts,
                unknown=before.unknown_cost_attempts,
                settled_usd=before.cost_usd,
                top_usd=max(before.cost_usd, cost_usd(before.usage, top)),
                usage=before.usage,
            )
        )
    totals += [
        Total(flow=flow, role=denial.role, tier=denial.tier, denied=1)
        for denial in costs.denials
    ]
    return ClosingCosts(
        fleet=fleet,
        item=costs.item_id,
        flow=flow,
        cost_usd=costs.cost_usd,
        totals=_few(totals),
        denials=_denials(costs.denials),
    )


def _of_attempt(attempt: Attempt, flow: str, top: Price) -> Total:
    usage = attempt.usage
    total = Total(
        flow=flow,
        role=attempt.role,
        tier=attempt.tier,
        model=attempt.model,
        calls=1,
        unknown=int(attempt.at_reservation),
        unbilled=int(attempt.outcome is Outcome.UNBILLED),
        settled_usd=attempt.cost_usd,
        top_usd=attempt.cost_usd if usage is None else cost_usd(usage, top),
    )
    known = {"reserved_usd": attempt.reserved_usd, "usage": usage}
    return total.model_copy(update={k: v for k, v in known.items() if v is not None})


def _few(totals: Iterable[Total]) -> tuple[Total, ...]:
    """Add up by kind; of many kinds the cheapest are one row."""
    kinds: dict[tuple[str, str, str, str], Total] = {}
    for total in totals:
        kind = kind_of(total)
        known = kinds.get(kind)
        kinds[kind] = total if known is None else added(known, total)
    rows = sorted(kinds.values(), key=lambda row: -row.settled_usd)
    if len(rows) <= _ROWS:
        return tuple(rows)
    others = Total(flow=rows[0].flow, role=_OTHERS)
    for row in rows[_ROWS - 1 :]:
        others = added(others, row)
    return (*rows[: _ROWS - 1], others)


def _denials(denials: Iterable[Denial]) -> tuple[DenialCount, ...]:
    counts: dict[tuple[str, str], DenialCount] = {}
    for denial in denials:
        key = (denial.role, denial.tier)
        known = counts.get(key, DenialCount(role=denial.role, tier=denial.tier))
        counts[key] = known.model_copy(
            update={"times": known.times + 1, "why": denial.why[:_WHY]}
        )
    most = sorted(counts.values(), key=lambda one: -one.times)
    return tuple(most[:_DENIALS])
