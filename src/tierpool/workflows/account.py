"""One attempt, performed and put on the run's account."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ActivityError, is_cancelled_exception

from tierpool.budget.cost import cost_usd
from tierpool.budget.estimate import Quote, input_bytes
from tierpool.contracts import (
    AgentRequest,
    AgentResult,
    Attempt,
    Denial,
    FailureDetail,
    Outcome,
    PartRef,
    Route,
    Usage,
)
from tierpool.errors import BudgetDenied
from tierpool.fleet import FleetSnapshot
from tierpool.workflows.attempts import failure_of
from tierpool.workflows.budget import Denied, Held
from tierpool.workflows.claiming import cancels, needs_of, used_of
from tierpool.workflows.failover import patience
from tierpool.workflows.render import money, shorten
from tierpool.workflows.run import RunState
from tierpool.workflows.stubs import attempt_activity

__all__ = ["denied", "perform", "quote_of", "reserved"]


def quote_of(
    snapshot: FleetSnapshot,
    route: Route,
    texts: Sequence[int],
    schema: PartRef | None,
    output_tokens: int,
) -> Quote:
    """Say what a call may use, and what that costs at most.

    Args:
        snapshot: Where the price stands.
        route: To a model.
        texts: UTF-8 bytes of the prompt and of each message.
        schema: Of the reply.
        output_tokens: What the call asks for.
    """
    return Quote(
        input_bytes=input_bytes(sum(texts), schema.bytes if schema else 0, len(texts)),
        messages=len(texts),
        output_tokens=output_tokens,
        price=snapshot.tiers[route.tier].models[route.fallback].price,
    )


def reserved(request: AgentRequest, held: Held) -> AgentRequest:
    """Write a reservation into its request; less output shows in the Route."""
    update: dict[str, object] = {
        "reserved_usd": held.usd,
        "input_bytes": held.input_bytes,
    }
    if held.output_tokens < request.max_output_tokens:
        reason = f"{request.route.reason}; output cut to {held.output_tokens} tokens by the budget"
        cut = {"max_output_tokens": held.output_tokens, "reason": reason}
        update["max_output_tokens"] = held.output_tokens
        update["route"] = request.route.model_copy(update=cut)
    return request.model_copy(update=update)


async def denied(run: RunState, role: str, tier: str, denial: Denied) -> BudgetDenied:
    """Record a denial where people look, and return it as an error to raise.

    The timer puts it into history and into the timeline: nothing else happens.
    """
    needs, why = money(denial.needs), denial.why
    run.deny(Denial(role=role, tier=tier, needs_usd=denial.needs, why=why))
    summary = shorten(f"denied: {role} · {tier} needs {needs}, {why}", 180)
    await workflow.sleep(0.001, summary=summary)
    return BudgetDenied(role, tier, needs, why)


async def perform(
    run: RunState,
    request: AgentRequest,
    held: Held | None,
    summary: str,
    made: list[Attempt],
) -> AgentResult | FailureDetail | None:
    """Make one attempt, with a claim if its role has limits.

    The reservation is settled here, whatever happens. None: a pause has broken
    the attempt off, and it is to be made again.
    """
    needs = needs_of(run.snapshot.roles.get(request.role), request)
    if not needs:
        return await _attempt(run, request, held, summary, made)
    try:
        claim = await run.claims.claim(request.role, needs)
    except (ActivityError, asyncio.CancelledError):
        if held is not None:
            run.budget.settle(held, Decimal(0))
        raise
    last: AgentResult | FailureDetail | None = None
    try:
        last = await _attempt(run, request, held, summary, made)
    except GeneratorExit:
        raise  # an evicted run is closed: nothing can be awaited any more
    except BaseException:
        await run.claims.release(claim, used_of(needs, request.role, None))
        raise
    await run.claims.release(claim, used_of(needs, request.role, last))
    return last


async def _attempt(
    run: RunState,
    request: AgentRequest,
    held: Held | None,
    summary: str,
    made: list[Attempt],
) -> AgentResult | FailureDetail | None:
    """Make one attempt; record its outcome, usage and cost, also when cancelled."""
    before = cancels()
    handle = attempt_activity(request, summary, patience(run.snapshot, request.route))
    run.under_way.append(handle)
    last: AgentResult | FailureDetail
    try:
        last = await handle
    except (ActivityError, asyncio.CancelledError) as error:
        if isinstance(error, ActivityError) and not is_cancelled_exception(error):
            last = failure_of(error)
        else:
            paused = handle in run.broken_off and cancels() == before
            started = _can_have_started(handle, error)
            _cancelled(run, request, held, made, started, paused)
            if paused:
                return None
            raise
    finally:
        run.under_way.remove(handle)
        run.broken_off.discard(handle)
    _settle(run, request, held, made, last)
    if cancels() != before:
        # the attempt's own end hides the cancel from the awaiting task
        raise asyncio.CancelledError
    return last


def _can_have_started(
    handle: workflow.ActivityHandle[Any], error: BaseException
) -> bool:
    """Tell whether a worker may have begun a cancelled attempt: when in doubt, yes.

    The SDK says so itself, unless the cancel met the attempt's end, which it then
    keeps to itself, or came before the attempt was sent at all.
    """
    if isinstance(error, ActivityError):
        return bool(error.started_event_id)
    return bool(getattr(handle, "_started", True))


def _settle(
    run: RunState,
    request: AgentRequest,
    held: Held | None,
    made: list[Attempt],
    last: AgentResult | FailureDetail,
) -> None:
    if isinstance(last, FailureDetail):
        outcome, note = last.outcome, last.message
    else:
        outcome, note = Outcome.BILLED, last.problem
        if last.finish_reason == "length" and not note:
            note = f"cut off at {request.max_output_tokens} output tokens"
    cost = _cost(run.snapshot, request.route, held, outcome, last.usage)
    if held is not None and cost > held.usd:
        above = f"cost {money(cost)}, above its reservation of {money(held.usd)}"
        note = f"{above}; {note}" if note else above
        workflow.logger.warning(
            "cost.above_reservation",
            extra={"role": request.role, "cost": cost, "reserved": held.usd},
        )
    admitted = not isinstance(last, FailureDetail) or last.admitted
    _record(
        run, request, held, made, outcome, last.usage, cost, note, admitted=admitted
    )


def _cancelled(
    run: RunState,
    request: AgentRequest,
    held: Held | None,
    made: list[Attempt],
    started: bool,
    paused: bool,
) -> None:
    """Charge a cancelled attempt its reservation, unless no worker had started it."""
    outcome = Outcome.AMBIGUOUS if started else Outcome.UNBILLED
    cost = held.usd if held is not None and started else Decimal(0)
    note = "broken off by a pause" if paused else "cancelled"
    _record(run, request, held, made, outcome, None, cost, note)


def _record(
    run: RunState,
    request: AgentRequest,
    held: Held | None,
    made: list[Attempt],
    outcome: Outcome,
    usage: Usage | None,
    cost: Decimal,
    note: str,
    *,
    admitted: bool = True,
) -> None:
    """Settle an attempt and put it on record; one that was not admitted is none."""
    if held is not None:
        run.budget.settle(held, cost)
    if not admitted:
        return
    attempt = Attempt(
        state=run.state,
        role=request.role,
        tier=request.route.tier,
        model=request.route.model,
        reason=request.route.reason,
        outcome=outcome,
        usage=usage,
        reserved_usd=held.usd if held is not None else None,
        cost_usd=cost,
        note=shorten(note, 300),
    )
    made.append(attempt)
    run.record(attempt)


def _cost(
    snapshot: FleetSnapshot,
    route: Route,
    held: Held | None,
    outcome: Outcome,
    usage: Usage | None,
) -> Decimal:
    """Say what an attempt is charged; what nobody knows costs its reservation."""
    if outcome is Outcome.UNBILLED or held is None:
        return Decimal(0)
    if usage is None:
        return held.usd
    return cost_usd(usage, snapshot.tiers[route.tier].models[route.fallback].price)
