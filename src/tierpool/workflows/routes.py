"""Where a call goes: the Route is obtained here, recorded, and then obeyed.

The workflow never computes a tier. Fixed tiers stand in the snapshot; all
else is answered by the route activity, so a new classifier cannot change a
replay.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Literal, cast

from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    FailureError,
    is_cancelled_exception,
)

from tierpool.blueprint import CLASSIFIER_ROLE
from tierpool.contracts import (
    AgentRequest,
    Attempt,
    FailureDetail,
    Message,
    Route,
    RouteAnswer,
    RouteRequest,
)
from tierpool.errors import AgentCallFailed, NoTierAbove
from tierpool.fleet import FleetSnapshot
from tierpool.workflows.account import perform, quote_of, reserved
from tierpool.workflows.budget import Denied
from tierpool.workflows.render import attempt_summary, shorten
from tierpool.workflows.run import RunState
from tierpool.workflows.stubs import route_activity

__all__ = ["route_for"]

_CLASSIFIER_TOKENS = 1024
"""The answer is one word, but models that reason count that as output, too."""

_CLASSIFIER_TIMEOUT = timedelta(seconds=30)


async def route_for(run: RunState, request: RouteRequest, made: list[Attempt]) -> Route:
    """Obtain the Route of a call.

    Raises:
        NoTierAbove: when an escalation asks for more than the role's highest tier.
        AgentCallFailed: when the policy refuses what the caller asked for.
    """
    snapshot = run.snapshot
    if request.wanted is None and request.above is None:
        fixed = snapshot.fixed_route(request.role)
        if fixed is not None:
            return fixed
    try:
        answer = await _ask(run, request, made)
    except (ActivityError, ApplicationError) as error:
        # a local activity's own failure arrives without an ActivityError around it
        if is_cancelled_exception(error):
            raise
        return _safe(snapshot, request, error)
    if answer.refused:
        raise AgentCallFailed(request.role, answer.refused)
    if answer.route is None:
        above = f"no tier above {request.above} is open to it"
        raise NoTierAbove(request.role, f"{above}: {request.why}")
    return answer.route


async def _ask(
    run: RunState, request: RouteRequest, made: list[Attempt]
) -> RouteAnswer:
    summary = f"route {request.role}"
    answer = await route_activity(request, summary)
    if answer.ask is None:
        return answer
    verdict = await _classify(run, request.role, answer.ask, answer, made)
    return await route_activity(request.model_copy(update=verdict), summary)


async def _classify(
    run: RunState, role: str, route: Route, asked: RouteAnswer, made: list[Attempt]
) -> dict[str, str]:
    """Ask the LLM classifier: one ordinary, paid attempt; no answer is an answer."""
    prompt, schema = run.keep(asked.ask_prompt), run.keep(asked.ask_schema)
    tier = run.snapshot.tiers[route.tier]
    limit = min(_CLASSIFIER_TOKENS, tier.max_output_tokens)
    texts = [prompt.bytes, len(asked.ask_text.encode(errors="surrogatepass"))]
    held = await run.budget.reserve(quote_of(run.snapshot, route, texts, schema, limit))
    if isinstance(held, Denied):
        run.forget([prompt, schema])
        return {"classifier_failed": f"budget: {shorten(held.why, 60)}"}
    model = tier.models[route.fallback]
    request = AgentRequest(
        role=CLASSIFIER_ROLE,
        item_id=run.item_id,
        route=route,
        messages=(Message(role="user", text=asked.ask_text),),
        prompt=prompt,
        output=schema,
        max_output_tokens=limit,
        temperature=tier.temperature,  # reasoning models refuse any but their own
        base_url=model.base_url,
        api_key_env=model.api_key_env,
        timeout=min(tier.timeout, _CLASSIFIER_TIMEOUT),
    )
    summary = attempt_summary(CLASSIFIER_ROLE, route, f"for {role}", reserved=held.usd)
    try:
        last = await perform(run, reserved(request, held), held, summary, made)
    finally:
        run.forget([prompt, schema])
    if last is None:
        return {"classifier_failed": "broken off by a pause"}
    if isinstance(last, FailureDetail):
        return {"classifier_failed": shorten(last.message, 80)}
    if last.reply is None:
        return {"classifier_failed": shorten(last.problem, 80)}
    return {"classified": cast(Literal["NANO"], last.reply.get("tier"))}


def _safe(snapshot: FleetSnapshot, request: RouteRequest, error: FailureError) -> Route:
    """Go on at the safe default; what a caller asked for is refused instead."""
    cause = str(error.cause or error)
    if request.above is not None or request.wanted is not None:
        raise AgentCallFailed(request.role, f"no route: {cause}") from error
    return snapshot.safe_route(
        request.role, f"safe default: no classification ({shorten(cause, 80)})"
    )
