"""Load under fleet-wide limits: callers in a user's own workflow.

A part is one call, named by its number; a caller makes one part after the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

from _rates_load import text_of
from _sandbox import sandbox
from pydantic import BaseModel
from temporalio import workflow
from temporalio.client import Client
from temporalio.worker import Worker

from tierpool.errors import AgentCallFailed
from tierpool.workflows import call_agent

__all__ = ["Called", "Callers", "Wanted", "callers_queue", "callers_worker"]


class Wanted(BaseModel):
    """What a workflow has to do."""

    role: str = "clerk"
    first: int
    """Number of its first part."""
    calls: int
    """How many parts it has."""
    lanes: int = 1
    """How many of them are under way at a time."""
    sized: bool = False
    """Whether parts differ in size."""
    words: str = ""
    """Added to each part's text."""


class Called(BaseModel):
    """What became of it."""

    answered: int = 0
    failures: list[str] = []


@workflow.defn
class Callers:
    """Makes its parts, or calls until it is told to stop."""

    def __init__(self) -> None:
        self._called = Called()
        self._stopped = False

    @workflow.run
    async def run(self, wanted: Wanted) -> Called:
        """Call."""
        numbers = iter(range(wanted.first, wanted.first + wanted.calls))
        await asyncio.gather(
            *(self._lane(wanted, numbers) for _ in range(wanted.lanes))
        )
        return self._called

    @workflow.signal
    def stop(self) -> None:
        """Begin no further part."""
        self._stopped = True

    @workflow.query
    def so_far(self) -> Called:
        """Tell what has become of it by now."""
        return self._called

    async def _lane(self, wanted: Wanted, numbers: Iterator[int]) -> None:
        while not self._stopped and (number := next(numbers, None)) is not None:
            text = text_of(number) if wanted.sized else f"part {number}{wanted.words}"
            try:
                await call_agent(wanted.role, text, output=str)
                self._called.answered += 1
            except AgentCallFailed as error:
                self._called.failures.append(f"part {number}: {error}")


def callers_queue(fleet: str) -> str:
    """Return the task queue of a fleet's callers."""
    return f"{fleet}-callers"


@asynccontextmanager
async def callers_worker(client: Client, fleet: str) -> AsyncIterator[None]:
    """Run the user's own worker."""
    async with Worker(
        client,
        task_queue=callers_queue(fleet),
        workflows=[Callers],
        workflow_runner=sandbox("_limits_load", "_rates_load"),
        build_id="benchmark",
    ):
        yield
