"""Load whose calls can be told apart: each is a part, named by a number.

The provider finds the number in the request (`LABEL`), so that it can say of
every part how often it was asked for it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

from _sandbox import sandbox
from pydantic import BaseModel
from temporalio import workflow
from temporalio.client import Client
from temporalio.worker import Worker

from tierpool.contracts import Attempt, Outcome
from tierpool.errors import AgentCallFailed
from tierpool.workflows import call_agent

__all__ = ["LABEL", "Done", "Load", "Parts", "part_name", "parts_queue", "parts_worker"]

LABEL = r"part [0-9]+"


class Load(BaseModel):
    """What a workflow has to do."""

    first: int
    """Number of its first part."""
    calls: int
    """How many parts it has."""
    lanes: int
    """How many of them are under way at a time."""
    spacing_s: float = 0.0
    """Time between the begins of two lanes."""


class Done(BaseModel):
    """What became of the parts."""

    asked: list[int] = []
    answered: list[int] = []
    attempts: int = 0
    """That tierpool counted."""
    unsure: int = 0
    """Attempts of which it does not know whether the provider made them."""
    failures: list[str] = []

    def __add__(self, other: Done) -> Done:
        """Put two together."""
        return Done(
            asked=self.asked + other.asked,
            answered=self.answered + other.answered,
            attempts=self.attempts + other.attempts,
            unsure=self.unsure + other.unsure,
            failures=self.failures + other.failures,
        )


def parts_queue(fleet: str) -> str:
    """Return the queue of the load of one fleet."""
    return f"{fleet}-parts"


def part_name(number: int) -> str:
    """Name a part as its request does, and the provider's log."""
    return f"part {number}"


@workflow.defn
class Parts:
    """A user's own workflow that has parts made, until all are or it is told to stop."""

    def __init__(self) -> None:
        self._done = Done()
        self._stopped = False

    @workflow.run
    async def run(self, load: Load) -> Done:
        """Make them."""
        numbers = iter(range(load.first, load.first + load.calls))
        lanes = (self._lane(numbers, n * load.spacing_s) for n in range(load.lanes))
        await asyncio.gather(*lanes)
        return self._done

    @workflow.signal
    def stop(self) -> None:
        """Begin no further part."""
        self._stopped = True

    @workflow.query
    def so_far(self) -> Done:
        """Tell what has become of the parts by now."""
        return self._done

    async def _lane(self, numbers: Iterator[int], wait_s: float) -> None:
        if wait_s:
            await asyncio.sleep(wait_s)
        while not self._stopped and (number := next(numbers, None)) is not None:
            await self._part(number)

    async def _part(self, number: int) -> None:
        done, attempts = self._done, list[Attempt]()
        done.asked.append(number)
        try:
            await call_agent("clerk", part_name(number), output=str, attempts=attempts)
            done.answered.append(number)
        except AgentCallFailed as error:
            done.failures.append(f"{part_name(number)}: {error}")
        finally:
            outcomes = Counter(attempt.outcome for attempt in attempts)
            done.attempts += len(attempts)
            done.unsure += outcomes[Outcome.AMBIGUOUS]


@asynccontextmanager
async def parts_worker(client: Client, fleet: str) -> AsyncIterator[None]:
    """Run the user's own worker for the load of one fleet."""
    async with Worker(
        client,
        task_queue=parts_queue(fleet),
        workflows=[Parts],
        workflow_runner=sandbox("_parts_load"),
        build_id="benchmark",
    ):
        yield
