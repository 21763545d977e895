"""Workflows that keep a conversation and make attempts without `call_agent`."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Literal

from pydantic import BaseModel
from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError

from tierpool.contracts import (
    AgentRequest,
    AgentResult,
    ConversationChunk,
    ConversationRef,
    ConversationRequest,
    FailureDetail,
    Message,
    Speaker,
    Turn,
    hash_of,
)
from tierpool.replies import reply_text

Said = tuple[Speaker, str]


class Plan(BaseModel):
    """What a conversation consists of, and the attempts that go on with it."""

    request: AgentRequest
    sizes: tuple[int, ...] = ()
    """Characters of the messages that are there from the start."""
    new: tuple[str, ...] = ("Go on.",)
    """One turn each."""
    piece: int = 350_000
    """Characters of one answer."""
    answers: Literal["well", "others", "in circles", "nonsense"] = "well"


def speech(number: int, size: int) -> Said:
    """Return a message in which no part repeats and some characters take several bytes."""
    line = f"{number}:{{:06d}} größer als 5 €; "
    text = "".join(line.format(n) for n in range(size // 20 + 1))[:size]
    return ("assistant" if number % 2 else "user"), text


def speeches(sizes: Sequence[int]) -> list[Said]:
    return [speech(number, size) for number, size in enumerate(sizes)]


def pieces(
    said: Sequence[Said], request: ConversationRequest, size: int
) -> ConversationChunk:
    """Cut a conversation into answers of `size` characters at most."""
    found: list[Turn] = []
    end = len(said) if request.end is None else request.end
    offset = request.offset
    for number in range(request.start, end):
        role, text = said[number]
        found.append(Turn(role=role, text=text[offset : offset + size]))
        if len(text) - offset > size:
            return ConversationChunk(
                messages=tuple(found), more=True, start=number, offset=offset + size
            )
        size, offset = size - (len(text) - offset), 0
    return ConversationChunk(messages=tuple(found))


@workflow.defn
class Talk:
    """Returns the reply of each turn, or the failure that ended the talk."""

    @workflow.init
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.said = speeches(plan.sizes)

    @workflow.run
    async def run(self, plan: Plan) -> list[str | FailureDetail]:
        found: list[str | FailureDetail] = []
        for text in plan.new:
            ref = ConversationRef(
                name="writer", length=len(self.said), hash=hash_of(self.said)
            )
            new: Said = ("user", text)
            try:
                result = await attempt(
                    plan.request,
                    conversation=ref,
                    messages=(Message(role="user", text=text),),
                )
            except ActivityError as error:
                return [*found, failure_of(error)]
            reply = reply_text(result.reply or {}, False)
            self.said += [new, ("assistant", reply)]
            found.append(reply)
        return found

    @workflow.query
    def tierpool_conversation(
        self, request: ConversationRequest
    ) -> ConversationChunk | str:
        match self.plan.answers:
            case "well":
                return pieces(self.said, request, self.plan.piece)
            case "others":
                others: list[Said] = [(role, f"{text}!") for role, text in self.said]
                return pieces(others, request, self.plan.piece)
            case "in circles":
                return ConversationChunk(more=True, start=request.start)
            case "nonsense":
                return "nonsense"


@workflow.defn
class Mute:
    """Refers to a conversation, but answers no query about it."""

    @workflow.run
    async def run(self, plan: Plan) -> list[str | FailureDetail]:
        ref = ConversationRef(name="writer", length=1, hash="0" * 64)
        try:
            await attempt(plan.request, conversation=ref)
        except ActivityError as error:
            return [failure_of(error)]
        return []


async def attempt(request: AgentRequest, **fields: Any) -> AgentResult:
    result: AgentResult = await workflow.execute_activity(
        request.role,
        request.model_copy(update=fields),
        task_queue=request.route.queue,
        result_type=AgentResult,
        start_to_close_timeout=timedelta(seconds=60),
        retry_policy=RetryPolicy(maximum_attempts=1),
    )
    return result


def failure_of(error: ActivityError) -> FailureDetail:
    assert isinstance(error.cause, ApplicationError)
    return FailureDetail.model_validate(error.cause.details[0])
