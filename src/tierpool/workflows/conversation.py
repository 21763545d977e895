"""`Conversation`: a role's messages over many calls, in anyone's own loop."""

from __future__ import annotations

from typing import TypeVar, overload

from pydantic import BaseModel
from temporalio import workflow

from tierpool.blueprint import Reply
from tierpool.contracts import Attempt, Speaker
from tierpool.errors import UsageError
from tierpool.workflows.call import Call, make_call
from tierpool.workflows.drafts import Draft
from tierpool.workflows.handlers import run_state
from tierpool.workflows.output import Typed
from tierpool.workflows.render import AgentInput, render_for_model
from tierpool.workflows.run import RunState
from tierpool.workflows.threads import Thread

__all__ = ["Conversation"]

M = TypeVar("M", bound=BaseModel)


class Conversation:
    """Messages of one role that each call goes on from.

    A call sends the messages since the last reply and a reference to those
    before, so the history grows with what is new. Continue-as-new carries the
    conversation: an object of the same name in the next run goes on with it.
    """

    def __init__(self, role: str, *, name: str = "") -> None:
        """Name a conversation of the running workflow, also in its `__init__`.

        Args:
            role: A key of `agents:` in the fleet file, of type llm.
            name: Tells the conversations of a workflow apart; default: the role.
        """
        self.role, self.name = role, name or role

    @property
    def messages(self) -> tuple[tuple[Speaker, str], ...]:
        """Who said what, the newest last."""
        return tuple(self._thread.messages)

    @property
    def bytes(self) -> int:
        """UTF-8 bytes of all messages."""
        return self._thread.bytes

    def append(self, text: AgentInput, *, role: Speaker = "user") -> None:
        """Add a message without calling; data are written as JSON.

        Raises:
            UsageError: while a call of this conversation is under way.
        """
        if self._run.lock(self.name).locked():
            raise UsageError(
                f"a call of the conversation {self.name!r} is under way: await it "
                "before you append to it"
            )
        self._thread.add(role, render_for_model(None, text, {}))

    @overload
    async def call(
        self,
        input: AgentInput = None,
        *,
        output: type[M],
        tier: str | None = None,
        attempts: list[Attempt] | None = None,
    ) -> M: ...
    @overload
    async def call(
        self,
        input: AgentInput = None,
        *,
        output: type[str],
        tier: str | None = None,
        attempts: list[Attempt] | None = None,
    ) -> str: ...
    @overload
    async def call(
        self,
        input: AgentInput = None,
        *,
        output: None = None,
        tier: str | None = None,
        attempts: list[Attempt] | None = None,
    ) -> Reply: ...
    async def call(
        self,
        input: AgentInput = None,
        *,
        output: type[BaseModel] | type[str] | None = None,
        tier: str | None = None,
        attempts: list[Attempt] | None = None,
    ) -> Typed:
        """Run the role on the conversation and append its reply.

        Calls of one conversation go one after the other. If a call fails, what
        it sent stays in the conversation: calling again sends it again.

        Args:
            input: A message to append first; None: only what was appended.
            output: See `call_agent`, as for the others.
            tier: Ask for this tier.
            attempts: A list to which this call's attempts are added.

        Raises:
            AgentCallFailed: when no attempt gave a usable reply.
            UsageError: if the model has nothing to answer to, or the role is no llm.
        """
        snapshot = await self._run.open()
        spec = snapshot.role(self.role)
        if spec.type != "llm":
            raise UsageError(
                f"the role {self.role!r} is of type {spec.type}: only llm roles "
                "have conversations"
            )
        made: list[Attempt] = [] if attempts is None else attempts
        async with self._run.lock(self.name):
            thread = self._thread
            if input is not None:
                thread.add("user", render_for_model(None, input, {}))
            if not thread.messages or thread.messages[-1][0] != "user":
                raise UsageError(
                    f"the conversation {self.name!r} has no new message of the user: "
                    "append one, or pass it to call"
                )
            new = thread.unanswered()
            draft = Draft(self._run, snapshot, self.role, output, new, thread)
            return await make_call(Call(draft, made), tier=tier)

    @property
    def _run(self) -> RunState:
        """The run's state, which a workflow does not have before its `run` begins."""
        if workflow.instance() is None:
            raise UsageError(
                f"the conversation {self.name!r} can be made in a workflow's __init__, "
                "but used only from its run method on"
            )
        return run_state()

    @property
    def _thread(self) -> Thread:
        return self._run.thread(self.name)
