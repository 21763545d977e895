"""One attempt, performed and put on the run's account."""

from __future__ import annotations

import asyncio
from decimal import Decimal

from temporalio.exceptions import ActivityError, is_cancelled_exception

from tierpool.budget.cost import cost_usd
from tierpool.contracts import (
    AgentRequest,
    AgentResult,
    Attempt,
    FailureDetail,
    Outcome,
    Route,
    Usage,
)
from tierpool.fleet import FleetSnapshot
from tierpool.workflows.attempts import failure_of
from tierpool.workflows.render import shorten
from tierpool.workflows.run import RunState
from tierpool.workflows.stubs import attempt_activity

__all__ = ["perform"]


async def perform(
    run: RunState, request: AgentRequest, summary: str, made: list[Attempt]
) -> AgentResult | FailureDetail:
    """Make one attempt; record its outcome, usage and cost, also when cancelled."""
    last: AgentResult | FailureDetail
    route = request.route
    await run.resumed()
    try:
        last = await attempt_activity(request, summary)
    except ActivityError as error:
        if is_cancelled_exception(error):
            attempt = _attempt(run, request.role, route, Outcome.AMBIGUOUS, None)
            _record(run, made, attempt.model_copy(update={"note": "cancelled"}))
            raise
        last = failure_of(error)
    if isinstance(last, FailureDetail):
        attempt = _attempt(run, request.role, route, last.outcome, last.usage)
        note = last.message
    else:
        attempt = _attempt(run, request.role, route, Outcome.BILLED, last.usage)
        note = last.problem
    _record(run, made, attempt.model_copy(update={"note": shorten(note, 300)}))
    _stop_if_cancelled(last)
    return last


def _stop_if_cancelled(last: AgentResult | FailureDetail) -> None:
    """Let no further attempt start when a cancel met an attempt that failed.

    The attempt's own failure hides the cancel from the awaiting task.
    """
    task = asyncio.current_task()
    settled = isinstance(last, AgentResult) and last.reply is not None
    if task is not None and task.cancelling() and not settled:
        raise asyncio.CancelledError


def _record(run: RunState, made: list[Attempt], attempt: Attempt) -> None:
    made.append(attempt)
    run.record(attempt)


def _attempt(
    run: RunState, role: str, route: Route, outcome: Outcome, usage: Usage | None
) -> Attempt:
    return Attempt(
        state=run.state,
        role=role,
        tier=route.tier,
        model=route.model,
        reason=route.reason,
        outcome=outcome,
        usage=usage,
        cost_usd=_cost(run.snapshot, route, outcome, usage),
    )


def _cost(
    snapshot: FleetSnapshot, route: Route, outcome: Outcome, usage: Usage | None
) -> Decimal | None:
    """Price an attempt; None where nobody knows what it cost."""
    if outcome is Outcome.UNBILLED or not route.model:
        return Decimal(0)
    if usage is None:
        return None
    return cost_usd(usage, snapshot.tiers[route.tier].models[route.fallback].price)
