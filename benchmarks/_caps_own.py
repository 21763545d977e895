"""tierpool's side of `caps.py`: items under a role's cap and the fleet's.

Every phase has a provider of its own, so that its books tell of it alone; server
and worker processes are real, and are killed where a phase says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from _books import Books, Served, Terms, accountant
from _limits_fleet import LimitsFile, Machines, machines, server
from _limits_load import Called, Callers, Wanted, callers_queue, callers_worker
from _program import progress
from temporalio.client import Client, WorkflowHandle
from temporalio.common import Priority
from temporalio.service import RPCError

from tierpool import TierpoolPlugin, load_fleet

__all__ = ["FLEET_CAP", "ROLE_CAP", "Fleet", "Size", "faults", "priority", "steady"]

ROLE_CAP = 8
FLEET_CAP = 12
PROCESSES = 4
INSTANCES = 8
"""Of each process: without caps 32 calls would be under way."""
NUMBERS_APART = 1000
SETTLED_S = 5.0
BLOCKED_S = 40.0
DONE_WITHIN_S = 240


@dataclass(frozen=True, slots=True)
class Size:
    """How long and how much."""

    steady_s: float = 45.0
    faults_s: float = 30.0
    kill_every_s: float = 4.0
    waiting: int = 500


@dataclass
class Fleet:
    """One fleet on its server, and the items that it is given."""

    name: str
    client: Client
    books: Books
    processes: Machines
    items: list[WorkflowHandle[Any, Called]] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    async def item(
        self, role: str, calls: int = NUMBERS_APART, urgency: int = 3, words: str = ""
    ) -> WorkflowHandle[Any, Called]:
        """Start an item that makes calls of a role, one after the other."""
        number = next(self._numbers)
        handle = await self.client.start_workflow(
            Callers.run,
            Wanted(role=role, first=number * NUMBERS_APART, calls=calls, words=words),
            id=f"{self.name}-{number}",
            task_queue=callers_queue(self.name),
            priority=Priority(priority_key=urgency),
        )
        self.items.append(handle)
        return handle

    async def end(self) -> None:
        """Terminate all items."""
        for item in self.items:
            with contextlib.suppress(RPCError):
                await item.terminate("the phase is over")


@asynccontextmanager
async def _fleet(name: str, terms: Terms, scratch: Path) -> AsyncIterator[Fleet]:
    folder = scratch / name
    folder.mkdir()
    async with (
        server(folder / "server") as temporal,
        accountant(terms, folder / "provider.log") as books,
    ):
        file = LimitsFile(
            f"bench-{name}",
            books.base_url,
            instances=INSTANCES,
            max_concurrent=FLEET_CAP,
            role_cap=ROLE_CAP,
            timeout_s=max(15, round(2 * terms.slow_s)),
        ).write(folder / "fleet")
        plugin = TierpoolPlugin(load_fleet(file))
        client = await Client.connect(temporal.address, plugins=[plugin])
        async with (
            machines(file, temporal.address, folder / "logs", pools=PROCESSES) as all_,
            callers_worker(client, f"bench-{name}"),
        ):
            fleet = Fleet(f"bench-{name}", client, books, all_)
            try:
                yield fleet
            finally:
                await fleet.end()


@dataclass(frozen=True, slots=True)
class Phase:
    """What a phase showed."""

    calls: Sequence[Served]
    begin: float
    """Unix times between which others always waited."""
    end: float
    kills: int = 0
    stopped: int = 0
    """Items that were cancelled or terminated."""


async def steady(name: str, call_s: tuple[float, float], scratch: Path, size: Size,
                 helpers: int = 3) -> Phase:  # fmt: skip
    """Let more items than the role's cap call, and nothing else happen."""
    progress(name)
    async with _fleet(name, Terms(call_s=call_s), scratch) as fleet:
        for _ in range(helpers):
            await fleet.item("helper")
        for _ in range(4 * ROLE_CAP):
            await fleet.item("clerk")
        await asyncio.sleep(SETTLED_S)
        begin = time.time()
        await asyncio.sleep(size.steady_s)
        return Phase(await fleet.books.calls(), begin, time.time())


async def faults(runs: int, scratch: Path, size: Size) -> list[Phase]:
    """Kill workers, and cancel and terminate items, while both caps bind."""
    phases = []
    async with _fleet("caps-faults", Terms(call_s=(0.5, 4.0)), scratch) as fleet:
        for number in range(1, runs + 1):
            progress(f"faults, run {number}")
            begin = time.time()
            kills, stopped = await _one_run(fleet, size)
            await fleet.end()
            fleet.items.clear()
            await fleet.processes.all_back()
            calls = [c for c in await fleet.books.calls() if c.started >= begin]
            phases.append(Phase(calls, begin, time.time(), kills, stopped))
    return phases


async def _one_run(fleet: Fleet, size: Size) -> tuple[int, int]:
    """Keep 40 items on their way, and stop one every half second."""
    draw = random.Random(1)
    begin = time.monotonic()
    first, stopped, next_kill = fleet.processes.kills, 0, size.kill_every_s
    roles = ["clerk"] * (3 * ROLE_CAP) + ["helper"] * (2 * FLEET_CAP - ROLE_CAP)
    alive = [await fleet.item(role) for role in roles]
    while (passed := time.monotonic() - begin) < size.faults_s:
        await asyncio.sleep(0.5)
        at = draw.randrange(len(alive))
        await _stopped(alive[at], harshly=stopped % 2 == 0)
        stopped += 1
        alive[at] = await fleet.item(roles[at])
        if passed > next_kill and (busy := await fleet.processes.busiest()) is not None:
            fleet.processes.kill(busy)
            next_kill = passed + size.kill_every_s
    return fleet.processes.kills - first, stopped


async def _stopped(item: WorkflowHandle[Any, Called], *, harshly: bool) -> None:
    if harshly:
        await item.terminate("in the middle of a call")
    else:
        await item.cancel()


async def priority(scratch: Path, size: Size) -> tuple[Phase, dict[str, int]]:
    """Let many items of all priorities wait, then serve them.

    Returns:
        What was seen, and the priority of each call by its label.
    """
    progress(f"priority: {size.waiting} wait")
    terms = Terms(call_s=(0.05, 0.05), slow_s=BLOCKED_S)
    async with _fleet("caps-priority", terms, scratch) as fleet:
        for _ in range(ROLE_CAP):
            await fleet.item("clerk", calls=1, urgency=1, words=" slow")
        await _until(lambda: _taken(fleet), ROLE_CAP)
        draw, ranks = random.Random(2), dict[str, int]()
        for number in range(ROLE_CAP + 1, ROLE_CAP + 1 + size.waiting):
            urgency = draw.randint(1, 5)
            ranks[f"part {number * NUMBERS_APART}"] = urgency
            await fleet.item("clerk", calls=1, urgency=urgency)
        begin = time.time()
        await _until(lambda: _taken(fleet), ROLE_CAP + size.waiting)
        calls = await fleet.books.calls()
    return Phase(calls, begin, time.time()), ranks


async def _taken(fleet: Fleet) -> int:
    return int((await fleet.books.sums())["taken"])


async def _until(count: Callable[[], Awaitable[int]], wanted: int) -> None:
    """Wait until there are so many; go on with fewer when that takes too long."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DONE_WITHIN_S):
            while await count() < wanted:  # noqa: ASYNC110 - of another process
                await asyncio.sleep(0.2)
