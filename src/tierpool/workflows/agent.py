"""`call_agent`: one role run on one request, from any workflow."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TypeVar, overload

from pydantic import BaseModel

from tierpool.blueprint import Reply
from tierpool.contracts import Attempt, RouteRequest, WorkItem
from tierpool.workflows.call import Call, Typed
from tierpool.workflows.render import AgentInput, render_for_model, render_for_tool
from tierpool.workflows.run import run_state

__all__ = ["Refusal", "call_agent"]

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A reply that was not accepted; calling again with it escalates.

    The role's next call goes a tier higher and sees the refused reply and the
    reason.
    """

    above: str
    """Tier that gave the refused reply (`attempts[-1].tier`)."""
    reply: Reply
    reason: str


@overload
async def call_agent(
    role: str,
    input: AgentInput = None,
    *,
    output: type[M],
    tier: str | None = None,
    item: WorkItem | None = None,
    last_reply: Reply | None = None,
    refusal: Refusal | None = None,
    attempts: list[Attempt] | None = None,
) -> M: ...
@overload
async def call_agent(
    role: str,
    input: AgentInput = None,
    *,
    output: type[str],
    tier: str | None = None,
    item: WorkItem | None = None,
    last_reply: Reply | None = None,
    refusal: Refusal | None = None,
    attempts: list[Attempt] | None = None,
) -> str: ...
@overload
async def call_agent(
    role: str,
    input: AgentInput = None,
    *,
    output: None = None,
    tier: str | None = None,
    item: WorkItem | None = None,
    last_reply: Reply | None = None,
    refusal: Refusal | None = None,
    attempts: list[Attempt] | None = None,
) -> Reply: ...
async def call_agent(
    role: str,
    input: AgentInput = None,
    *,
    output: type[BaseModel] | type[str] | None = None,
    tier: str | None = None,
    item: WorkItem | None = None,
    last_reply: Reply | None = None,
    refusal: Refusal | None = None,
    attempts: list[Attempt] | None = None,
) -> Typed:
    """Run a role and return its validated reply; call it from a workflow.

    Args:
        role: A key of `agents:` in the fleet file.
        input: What the role reads: text, or data that is written as JSON.
        output: A pydantic model to ask for and return, or `str` for plain text.
            Without it the role's own `output` holds, and the reply is a dict
            (`{"text": …}` where the role has no `output`).
        tier: Ask for this tier; it must lie within the role's own range.
        item: Work item that the role sees before the input.
        last_reply: Reply of an earlier role that this one sees.
        refusal: A refused reply of this role: go one tier higher with it.
        attempts: A list to which this call's attempts are added, with their
            tiers, usage and cost.

    Raises:
        AgentCallFailed: when no attempt gave a usable reply.
        NoTierAbove: when `refusal` asks for more than the role's highest tier.
        UnknownName: for a role that the fleet does not have.
    """
    run = run_state()
    snapshot = await run.open()
    spec = snapshot.role(role)
    made: list[Attempt] = [] if attempts is None else attempts
    render = render_for_model if spec.type == "llm" else render_for_tool
    messages = [render(item, input, last_reply or {})]
    if refusal is not None:
        messages += [json.dumps(refusal.reply, ensure_ascii=False), _refused(refusal)]
    call = Call(run, snapshot, role, output, made, messages)
    if spec.type == "human":
        return await call.ask_human()
    return await call.reply(
        RouteRequest(
            role=role,
            fleet=run.packed,
            text=messages[0],
            wanted=tier,
            above=refusal.above if refusal else None,
            why=refusal.reason if refusal else "",
        )
    )


def _refused(refusal: Refusal) -> str:
    return f"This reply was refused: {refusal.reason}\nReply again, better."
