"""Workflows of a user's own, which call agents; run in the sandbox."""

import asyncio

from pydantic import BaseModel, Field, RootModel, field_validator
from temporalio import workflow

from tierpool.contracts import Attempt
from tierpool.errors import AgentCallFailed
from tierpool.workflows import call_agent


class Review(BaseModel):
    verdict: str
    score: int

    @field_validator("score")
    @classmethod
    def _in_range(cls, value: int) -> int:
        if not 0 <= value <= 10:
            raise ValueError("a score is from 0 to 10")
        return value


@workflow.defn
class ReviewWorkflow:
    @workflow.run
    async def run(self, diff: str) -> Review:
        return await call_agent("reviewer", diff, output=Review)


@workflow.defn
class ExplainedWorkflow:
    @workflow.run
    async def run(self, text: str) -> list[Attempt]:
        attempts: list[Attempt] = []
        await call_agent("reviewer", text, output=str, attempts=attempts)
        return attempts


class Words(RootModel[list[str]]):
    """No object, so no reply."""


class Letters(BaseModel):
    word: str = Field(pattern=r"^\p{L}+$")


@workflow.defn
class OddWorkflow:
    """Asks for what cannot be asked for."""

    @workflow.run
    async def run(self, what: str) -> None:
        match what:
            case "half a character":
                await call_agent("reviewer", "x \ud800", output=str)
            case "no object":
                await call_agent("reviewer", "x", output=Words)
            case "no regular expression":
                await call_agent("reviewer", "x", output=Letters)


@workflow.defn
class ParallelWorkflow:
    @workflow.run
    async def run(self, count: int) -> list[str]:
        calls = (call_agent("reviewer", f"text {n}", output=str) for n in range(count))
        return list(await asyncio.gather(*calls))


@workflow.defn
class TierWorkflow:
    @workflow.run
    async def run(self, role: str, tier: str) -> str:
        attempts: list[Attempt] = []
        try:
            await call_agent(role, "text", tier=tier, attempts=attempts)
        except AgentCallFailed as error:
            return str(error)
        return attempts[-1].tier


@workflow.defn
class LongWorkflow:
    """Continues as new once, and says what it knows of the fleet each time."""

    @workflow.run
    async def run(self, prompts: list[str]) -> list[str]:
        attempts: list[Attempt] = []
        await call_agent("reviewer", "text", attempts=attempts)
        prompts = [*prompts, attempts[-1].model]
        if len(prompts) < 2:
            workflow.continue_as_new(prompts)
        return prompts
