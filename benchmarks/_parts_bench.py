"""What a benchmark of worker processes has: a server, a provider, and load.

Everything is on this machine, on free ports, and ends with its block.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
from _fleet_process import FleetProcess, fleet_process
from _parts_load import LABEL, Done, Load, Parts, parts_queue, parts_worker
from _pool_load import write_pool_fleet
from _processes import python
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle

from tierpool import TierpoolPlugin, load_fleet
from tierpool.devserver import embedded_server

__all__ = ["ENDLESS", "Bench", "Services", "bench_on", "busy", "services"]

NUMBERS_APART = 1_000_000
ENDLESS = NUMBERS_APART - 1
"""Parts of a load that ends when it is told to."""
ANSWERED_WITHIN_S = 120


@dataclass(frozen=True, slots=True)
class Services:
    """A Temporal server, and a scripted provider."""

    scratch: Path
    """A folder for files of the run."""
    address: str
    """Of the Temporal server."""
    base_url: str
    """Of the provider."""
    http: aiohttp.ClientSession
    """To the provider."""

    async def calls(self) -> list[dict[str, Any]]:
        """Return what the provider was asked, in order of arrival."""
        async with self.http.get("/_calls") as answer:
            found: list[dict[str, Any]] = await answer.json()
            return found

    async def count(self) -> int:
        """Return how often the provider was asked by now."""
        async with self.http.get("/_stats") as answer:
            return int((await answer.json())["calls"])

    async def arrived(self, calls: int) -> None:
        """Wait until the provider has been asked so often."""
        async with asyncio.timeout(60):
            while await self.count() < calls:  # noqa: ASYNC110
                await asyncio.sleep(0.02)


@dataclass
class Bench:
    """One fleet, and the load that it is given."""

    services: Services
    name: str
    """Of the fleet."""
    client: Client
    loads: list[WorkflowHandle[Any, Done]] = field(default_factory=list)
    """Those that may be under way."""
    numbers: Iterator[int] = field(default_factory=partial(itertools.count, 1))

    def fleet(self, pool: str, folder: str = "fleet") -> Path:
        """Write a fleet whose pool has these keys."""
        place = self.services.scratch / self.name / folder
        return write_pool_fleet(place, self.services.base_url, pool, self.name)

    def worker(
        self, fleet: Path, *arguments: str, name: str = "worker"
    ) -> AbstractAsyncContextManager[FleetProcess]:
        """Run `tierpool worker` with these arguments."""
        log = self.services.scratch / self.name / f"{name}.log"
        return fleet_process(
            *arguments, fleet=fleet, address=self.services.address, log=log
        )

    async def load(
        self, calls: int, lanes: int | None = None, spacing_s: float = 0.0
    ) -> WorkflowHandle[Any, Done]:
        """Have calls made, all at the same time unless told otherwise."""
        number = next(self.numbers)
        load = Load(
            first=number * NUMBERS_APART,
            calls=calls,
            lanes=calls if lanes is None else lanes,
            spacing_s=spacing_s,
        )
        handle = await self.client.start_workflow(
            Parts.run,
            load,
            id=f"{self.name}-load-{number}",
            task_queue=parts_queue(self.name),
        )
        self.loads.append(handle)
        return handle

    async def stop(self) -> None:
        """Let no load begin another call."""
        await asyncio.gather(*(load.signal(Parts.stop) for load in self.loads))

    async def done(self) -> Done:
        """Wait for all parts; return what became of them."""
        found = await asyncio.gather(*(_done(handle) for handle in self.loads))
        return sum(found, Done())


async def _done(handle: WorkflowHandle[Any, Done]) -> Done:
    """Wait for a load; one that does not end is asked how far it came."""
    with contextlib.suppress(TimeoutError, WorkflowFailureError):
        return await asyncio.wait_for(handle.result(), ANSWERED_WITHIN_S)
    so_far = await handle.query(Parts.so_far)
    await handle.terminate("it did not end")
    return so_far


@asynccontextmanager
async def services(scratch: Path, call_s: float) -> AsyncIterator[Services]:
    """Start a server, and a provider whose calls take so long."""
    arguments = ("--delay", str(call_s), "--label", LABEL, "--keep-calls", "100000")
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(
            embedded_server(scratch / "server", ui=False)
        )
        provider = await stack.enter_async_context(
            python(
                *("-m", "tierpool.testing.provider", *arguments),
                log=scratch / "provider.log",
            )
        )
        base_url = provider.said["base_url"]
        http = await stack.enter_async_context(aiohttp.ClientSession(base_url))
        yield Services(scratch, server.address, base_url, http)


@asynccontextmanager
async def bench_on(given: Services, name: str) -> AsyncIterator[Bench]:
    """Run a user's own worker for the load of one fleet."""
    file = write_pool_fleet(given.scratch / name / "own", given.base_url, "", name)
    plugin = TierpoolPlugin(load_fleet(file))
    client = await Client.connect(given.address, plugins=[plugin])
    async with parts_worker(client, name):
        yield Bench(given, name, client)


def busy(calls: list[dict[str, Any]], at: float) -> int:
    """Count the calls that were under way at the provider."""
    return sum(
        c["started"] <= at and (c["ended"] is None or c["ended"] > at) for c in calls
    )
