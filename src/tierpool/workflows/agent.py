"""`call_agent`: one role run on one request, from any workflow."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TypeVar, overload

from pydantic import BaseModel

from tierpool.blueprint import Reply
from tierpool.contracts import Attempt, Speaker, WorkItem
from tierpool.replies import reply_text
from tierpool.workflows.call import Call, make_call
from tierpool.workflows.drafts import Draft
from tierpool.workflows.handlers import run_state
from tierpool.workflows.output import Typed
from tierpool.workflows.render import AgentInput, render_for_model, render_for_tool
from tierpool.workflows.threads import Thread

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

    A role with `conversation: true` keeps its messages over its calls: each one
    sends what is new.

    Raises:
        AgentCallFailed: when no attempt gave a usable reply.
        BudgetDenied: when the budget does not pay for it (an AgentCallFailed).
        NoTierAbove: when `refusal` asks for more than the role's highest tier.
        UnknownName: for a role that the fleet does not have.
    """
    run = run_state()
    snapshot = await run.open()
    spec = snapshot.role(role)
    made: list[Attempt] = [] if attempts is None else attempts
    above, why = (refusal.above, refusal.reason) if refusal else (None, "")
    if spec.type == "llm" and spec.conversation:
        async with run.lock(role):
            thread = run.thread(role)
            for who, text in _turns(thread, item, input, last_reply or {}, refusal):
                thread.add(who, text)
            said = thread.unanswered()
            draft = Draft(run, snapshot, role, output, said, thread)
            return await make_call(Call(draft, made), tier=tier, above=above, why=why)
    render = render_for_model if spec.type == "llm" else render_for_tool
    messages: list[tuple[Speaker, str]] = [
        ("user", render(item, input, last_reply or {}))
    ]
    if refusal is not None:
        messages += _refused_turns(refusal)
    draft = Draft(run, snapshot, role, output, messages)
    return await make_call(Call(draft, made), tier=tier, above=above, why=why)


def _turns(
    thread: Thread,
    item: WorkItem | None,
    input: AgentInput,
    last: Reply,
    refusal: Refusal | None,
) -> list[tuple[Speaker, str]]:
    """Say only what the conversation does not have yet."""
    if refusal is not None and thread.messages:
        return _refused_turns(refusal)[1:]
    seen = {("assistant", reply_text(last, schema)) for schema in (False, True)}
    if thread.messages and thread.messages[-1] in seen:
        last = {}
    text = render_for_model(None if thread.messages else item, input, last)
    turns: list[tuple[Speaker, str]] = [("user", text or "Go on.")]
    return turns + (_refused_turns(refusal) if refusal else [])


def _refused_turns(refusal: Refusal) -> list[tuple[Speaker, str]]:
    reply = json.dumps(refusal.reply, ensure_ascii=False)
    return [("assistant", reply), ("user", _refused(refusal))]


def _refused(refusal: Refusal) -> str:
    return f"This reply was refused: {refusal.reason}\nReply again, better."
