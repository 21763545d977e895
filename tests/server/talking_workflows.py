"""Workflows of a user's own that hold conversations; run in the sandbox."""

import asyncio

from pydantic import BaseModel, field_validator
from temporalio import workflow

from tierpool.contracts import Speaker
from tierpool.errors import AgentCallFailed
from tierpool.workflows import Conversation, call_agent

Said = tuple[Speaker, str]


def long_text(number: int, characters: int) -> str:
    """Return a text in which no part repeats and some characters take several bytes."""
    line = f"{number} {{:07d}} größer als 5 €; "
    count = characters // len(line.format(0)) + 1
    return "".join(line.format(n) for n in range(count))[:characters]


class Mark(BaseModel):
    verdict: str
    score: int

    @field_validator("score")
    @classmethod
    def _in_range(cls, value: int) -> int:
        if not 0 <= value <= 10:
            raise ValueError("a score is from 0 to 10")
        return value


@workflow.defn
class TalkWorkflow:
    """Says one text after the other; returns the conversation."""

    @workflow.run
    async def run(self, texts: list[str]) -> list[Said]:
        talk = Conversation("writer")
        for text in texts:
            await talk.call(text)
        return list(talk.messages)


@workflow.defn
class LongTalkWorkflow:
    """Starts with long messages, then says texts of so many characters."""

    @workflow.run
    async def run(self, start: list[int], turns: list[int]) -> list[str]:
        talk, numbers = Conversation("writer"), iter(range(1000))
        for size in start:
            talk.append(long_text(next(numbers), size))
        return [
            await talk.call(long_text(next(numbers), size), output=str)
            for size in turns
        ]


@workflow.defn
class AppendingWorkflow:
    """Puts messages of both sides together before it calls."""

    @workflow.run
    async def run(self) -> list[Said]:
        talk = Conversation("writer")
        talk.append("What is the sum?")
        talk.append("Of which numbers?", role="assistant")
        talk.append({"numbers": [2, 3]})
        talk.append("Be brief.")
        await talk.call()
        return list(talk.messages)


@workflow.defn
class SeveralWorkflow:
    """Holds two conversations of one role in turn."""

    @workflow.run
    async def run(self, rounds: int) -> dict[str, list[Said]]:
        talks = [Conversation("writer", name=name) for name in ("left", "right")]
        for number in range(rounds):
            for talk in talks:
                await talk.call(f"{talk.name} {number}")
        return {talk.name: list(talk.messages) for talk in talks}


@workflow.defn
class TypedTalkWorkflow:
    """Asks for a mark, then for plain text, in one conversation."""

    @workflow.run
    async def run(self) -> tuple[Mark, str, list[Said]]:
        talk = Conversation("writer")
        mark = await talk.call("Mark this.", output=Mark)
        why = await talk.call("Why?", output=str)
        return mark, why, list(talk.messages)


@workflow.defn
class StubbornWorkflow:
    """Calls again, with nothing new, when a call fails."""

    @workflow.run
    async def run(self, text: str) -> tuple[str, list[Said]]:
        talk = Conversation("writer")
        try:
            await talk.call(text)
        except AgentCallFailed as error:
            await talk.call()
            return str(error), list(talk.messages)
        return "", list(talk.messages)


@workflow.defn
class ParallelTalkWorkflow:
    """Says all texts at once, in one conversation."""

    @workflow.run
    async def run(self, count: int) -> list[Said]:
        talk = Conversation("writer")
        calls = [talk.call(f"text {n}") for n in range(count)]
        await asyncio.gather(*calls)
        return list(talk.messages)


@workflow.defn
class CrowdWorkflow:
    """Holds many conversations at once, each with so many characters of new text."""

    @workflow.run
    async def run(self, count: int, size: int) -> list[str]:
        talks = [Conversation("writer", name=f"talk {n}") for n in range(count)]
        calls = [
            talk.call(long_text(number, size), output=str)
            for number, talk in enumerate(talks)
        ]
        return list(await asyncio.gather(*calls))


@workflow.defn
class EscapesWorkflow:
    """Says so many characters that take six bytes each as JSON."""

    @workflow.run
    async def run(self, count: int) -> str:
        return await Conversation("writer").call("\x01" * count, output=str)


@workflow.defn
class RelayWorkflow:
    """Continues as new after each of its turns; returns the conversation."""

    @workflow.run
    async def run(self, turns: int) -> list[Said]:
        talk = Conversation("writer")
        await talk.call(f"{turns} to go")
        talk.append(f"{turns} is over")
        if turns > 1:
            workflow.continue_as_new(turns - 1)
        return list(talk.messages)


@workflow.defn
class HandingOverWorkflow:
    """Continues as new before its first call."""

    @workflow.run
    async def run(self, again: bool) -> list[Said]:
        talk = Conversation("writer")
        if not again:
            talk.append("From the run before.")
            workflow.continue_as_new(True)
        await talk.call("From this run.")
        return list(talk.messages)


@workflow.defn
class ListeningWorkflow:
    """Says what it is told to by update, until it is told to end."""

    def __init__(self) -> None:
        self._talk: Conversation | None = None
        self._ended = False

    @workflow.run
    async def run(self, start: int) -> list[Said]:
        self._talk = Conversation("writer")
        if start:
            self._talk.append(long_text(0, start))
        await workflow.wait_condition(lambda: self._ended)
        await workflow.wait_condition(workflow.all_handlers_finished)
        return list(self._talk.messages)

    @workflow.update
    async def say(self, text: str) -> str:
        await workflow.wait_condition(lambda: self._talk is not None)
        assert self._talk is not None
        return await self._talk.call(text, output=str)

    @workflow.update
    async def interrupt(self, text: str) -> None:
        assert self._talk is not None
        self._talk.append(text)

    @workflow.signal
    def end(self) -> None:
        self._ended = True


@workflow.defn
class BothWaysWorkflow:
    """Calls a role with `conversation: true` in both ways."""

    @workflow.run
    async def run(self) -> list[Said]:
        await call_agent("editor", "first")
        talk = Conversation("editor")
        await talk.call("second")
        await call_agent("editor", "third")
        return list(talk.messages)


@workflow.defn
class EarlyWorkflow:
    """Makes its conversation in `__init__`; appends there, too, if told so."""

    @workflow.init
    def __init__(self, appends: bool) -> None:
        self._talk = Conversation("writer")
        if appends:
            self._talk.append("too early")

    @workflow.run
    async def run(self, appends: bool) -> list[Said]:
        await self._talk.call("hello")
        return list(self._talk.messages)


@workflow.defn
class HalfWorkflow:
    """Says half a character, which no encoding has."""

    @workflow.run
    async def run(self) -> str:
        return await Conversation("writer").call("half: \ud83d", output=str)


@workflow.defn
class TooLongWorkflow:
    """Continues as new with what does not fit."""

    @workflow.run
    async def run(self, characters: int) -> None:
        talk, random = Conversation("writer"), workflow.random()
        await talk.call("hello")
        talk.append(random.randbytes(characters // 2).hex())
        workflow.continue_as_new(characters)


@workflow.defn
class SilentWorkflow:
    """Calls without a word of the user."""

    @workflow.run
    async def run(self, role: str) -> None:
        await Conversation(role).call()


TALKING = (
    TalkWorkflow,
    LongTalkWorkflow,
    AppendingWorkflow,
    SeveralWorkflow,
    TypedTalkWorkflow,
    StubbornWorkflow,
    ParallelTalkWorkflow,
    CrowdWorkflow,
    EscapesWorkflow,
    RelayWorkflow,
    HandingOverWorkflow,
    ListeningWorkflow,
    BothWaysWorkflow,
    EarlyWorkflow,
    HalfWorkflow,
    TooLongWorkflow,
    SilentWorkflow,
)
