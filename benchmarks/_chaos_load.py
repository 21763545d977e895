"""Items of `chaos_budget.py`: always as many on their way, whatever dies."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError

from tierpool import start_flow
from tierpool.client import ItemHandle

__all__ = ["Items"]

FLOW = "work"
AGAIN_S = 0.5
"""After a request that the killed server did not answer."""


@dataclass
class Items:
    """The items of one run."""

    client: Client
    name: str
    """Begins their IDs."""
    handles: dict[str, ItemHandle] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _lanes: list[asyncio.Task[None]] = field(default_factory=list)

    def begin(self, at_a_time: int) -> None:
        """Keep so many items on their way from now on."""
        lanes = (asyncio.create_task(self._lane()) for _ in range(at_a_time))
        self._lanes.extend(lanes)

    async def end(self) -> None:
        """Start no more."""
        for lane in self._lanes:
            lane.cancel()
        await asyncio.gather(*self._lanes, return_exceptions=True)
        self._lanes.clear()

    async def _lane(self) -> None:
        while True:
            number = next(self._numbers)
            handle = await self._start(number)
            while not await self._over(handle):  # noqa: ASYNC110 - of another process
                await asyncio.sleep(AGAIN_S)

    async def _start(self, number: int) -> ItemHandle:
        name = f"{self.name}-{number:05}"
        while True:
            try:
                handle = await start_flow(
                    self.client, FLOW, f"part {number}", id=name, id_conflict="use"
                )
            except RPCError:
                await asyncio.sleep(AGAIN_S)
                continue
            self.handles[name] = handle
            return handle

    async def _over(self, handle: ItemHandle) -> bool:
        try:
            found = await handle.describe()
        except RPCError:
            return False
        return found.status is not WorkflowExecutionStatus.RUNNING

    async def results(self, within_s: float) -> Counter[str]:
        """Wait for all items; return how many ended how, by state or status.

        `running` are those that have not ended in time, `missing` those that the
        server does not know.
        """
        end = asyncio.get_running_loop().time() + within_s
        found: Counter[str] = Counter()
        for handle in self.handles.values():
            while (how := await self._how(handle)) == "running":
                if asyncio.get_running_loop().time() > end:
                    break
                await asyncio.sleep(AGAIN_S)
            found[how] += 1
        return found

    async def _how(self, handle: ItemHandle) -> str:
        try:
            status = (await handle.describe()).status
        except RPCError:
            return "missing"
        if status is WorkflowExecutionStatus.RUNNING:
            return "running"
        if status is not WorkflowExecutionStatus.COMPLETED:
            return status.name.lower() if status else "missing"
        return (await handle.result()).state
