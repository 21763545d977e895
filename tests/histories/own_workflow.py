"""A user's own workflows whose histories are recorded; they run in the sandbox."""

import asyncio

from pydantic import BaseModel
from temporalio import workflow

from tierpool.errors import BudgetDenied
from tierpool.workflows import Conversation, call_agent, limit_budget


class Essay(BaseModel):
    title: str
    words: int


@workflow.defn
class RoutedWriter:
    @workflow.run
    async def run(self, text: str) -> Essay:
        return await call_agent("writer", text, output=Essay)


@workflow.defn
class Chapter:
    """Talks until its part of the book's budget is used up."""

    @workflow.run
    async def run(self, about: str) -> int:
        talk = Conversation("planner")
        talk.append(about)
        try:
            while True:
                await talk.call("Go on.")
        except BudgetDenied:
            return len(talk.messages)


@workflow.defn
class Book:
    """Shares a small budget among parallel calls and two chapters."""

    @workflow.run
    async def run(self, usd: str) -> list[int]:
        await limit_budget(usd)
        me = workflow.info().workflow_id
        chapters = [
            workflow.execute_child_workflow(
                Chapter.run, f"Chapter {n}.", id=f"{me}-{n}"
            )
            for n in range(2)
        ]
        outline = [call_agent("planner", f"Part {n}") for n in range(3)]
        await asyncio.gather(*outline)
        return list(await asyncio.gather(*chapters))


OWN = (RoutedWriter, Book, Chapter)
