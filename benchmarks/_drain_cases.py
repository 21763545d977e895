"""The cases of `drain.py`: how calls that are under way meet a signal."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from _fleet_process import FleetProcess, at, fleet_process
from _parts_load import LABEL, PARTS_QUEUE, Done, Load, Parts, parts_worker
from _pool_load import write_pool_fleet
from _processes import clean_env, python
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle

from tierpool import TierpoolPlugin, load_fleet
from tierpool.devserver import embedded_server

__all__ = ["CASES", "Bench", "Drain", "Size", "bench_for", "busy"]

NUMBERS_APART = 1_000_000
ENDLESS = NUMBERS_APART - 1
ANSWERED_WITHIN_S = 120


@dataclass(frozen=True, slots=True)
class Size:
    """How much is under way when a signal comes."""

    calls: int = 50
    call_s: float = 10.0
    waiting: int = 20
    """Calls beyond that wait in the queue."""


@dataclass(frozen=True, slots=True)
class Drain:
    """One thing that was told to drain, or to do with less."""

    told: float
    """Unix time."""
    over: float
    """When it was over."""
    calls: int
    """That it had under way when it was told."""
    status: int | None = None
    """Exit status; None: nothing had to end."""


@dataclass
class Bench:
    """What a case has: a server, a provider, and a client with load."""

    size: Size
    scratch: Path
    address: str
    base_url: str
    http: aiohttp.ClientSession
    client: Client
    loads: list[WorkflowHandle[Any, Done]] = field(default_factory=list)

    async def calls(self) -> list[dict[str, Any]]:
        """Return what the provider was asked, in order of arrival."""
        async with self.http.get("/_calls") as answer:
            found: list[dict[str, Any]] = await answer.json()
            return found

    async def arrived(self, calls: int) -> None:
        """Wait until the provider has been asked so often."""
        async with asyncio.timeout(60):
            while True:
                async with self.http.get("/_stats") as answer:
                    if (await answer.json())["calls"] >= calls:
                        return
                await asyncio.sleep(0.02)

    def fleet(self, pool: str, name: str = "fleet") -> Path:
        """Write a fleet whose pool has these keys."""
        return write_pool_fleet(self.scratch / name, self.base_url, pool)

    def worker(
        self, fleet: Path, *arguments: str, name: str = "worker"
    ) -> AbstractAsyncContextManager[FleetProcess]:
        """Run `tierpool worker` with these arguments."""
        log = self.scratch / f"{name}.log"
        grace = ("--grace", str(3 * self.size.call_s))
        return fleet_process(
            *arguments, *grace, fleet=fleet, address=self.address, log=log
        )

    async def load(
        self, calls: int, lanes: int | None = None, spacing_s: float = 0.0
    ) -> WorkflowHandle[Any, Done]:
        """Have calls made, all at the same time unless told otherwise."""
        number = len(self.loads) + 1
        load = Load(
            first=number * NUMBERS_APART,
            calls=calls,
            lanes=calls if lanes is None else lanes,
            spacing_s=spacing_s,
        )
        handle = await self.client.start_workflow(
            Parts.run, load, id=f"load-{number}", task_queue=PARTS_QUEUE
        )
        self.loads.append(handle)
        return handle

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
async def bench_for(scratch: Path, size: Size) -> AsyncIterator[Bench]:
    """Start what all cases need."""
    arguments = ("--delay", str(size.call_s), "--label", LABEL)
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
        fleet = load_fleet(write_pool_fleet(scratch / "own", base_url, ""))
        client = await Client.connect(server.address, plugins=[TierpoolPlugin(fleet)])
        await stack.enter_async_context(parts_worker(client))
        yield Bench(size, scratch, server.address, base_url, http, client)


POOL = ("--pool", "standard")
ALONE = (*POOL, "--http", "off")
SUPERVISOR = (*POOL, "--http", "127.0.0.1:0")


async def sigterm(bench: Bench) -> list[Drain]:
    """One process drains; another one takes what still waits."""
    size = bench.size
    fleet = bench.fleet(f"max_instances: {size.calls}")
    async with bench.worker(fleet, *ALONE) as first:
        await bench.load(size.calls + size.waiting)
        await bench.arrived(size.calls)
        told = first.sigterm()
        async with bench.worker(fleet, *ALONE, name="second"):
            drains = [await _ended(bench, first, told)]
            await bench.done()
    return drains


async def arriving(bench: Bench) -> list[Drain]:
    """One of two processes drains while more calls arrive that both poll for."""
    size = bench.size
    fleet = bench.fleet(f"max_instances: {3 * size.calls}")
    async with (
        bench.worker(fleet, *ALONE) as first,
        bench.worker(fleet, *ALONE, name="second") as second,
    ):
        await first.saw("worker.started")
        await second.saw("worker.started")
        await bench.load(2 * size.calls)
        await bench.arrived(2 * size.calls)
        await bench.load(2 * size.calls, spacing_s=0.02)
        await bench.arrived(5 * size.calls // 2)
        drains = [await _ended(bench, first, first.sigterm())]
        await bench.done()
    return drains


async def apply(bench: Bench) -> list[Drain]:
    """A live pool is told to make a tenth of its calls at a time."""
    size = bench.size
    least = max(1, size.calls // 10)
    fleet = bench.fleet(f"max_instances: {size.calls}")
    smaller = bench.fleet(f"min_instances: 0, max_instances: {least}", "smaller")
    async with (
        bench.worker(fleet, *ALONE),
        bench.worker(fleet, "--control", "--http", "off", name="control") as control,
    ):
        await control.saw("worker.started")
        await bench.load(size.calls + 2 * least)
        await bench.arrived(size.calls)
        told = time.time()
        await _apply(bench, smaller)
        await bench.done()
    calls = await bench.calls()
    over = min(
        c["ended"]
        for c in calls
        if c["ended"] > told and busy(calls, c["ended"]) <= least
    )
    return [Drain(told, over, busy(calls, told))]


async def supervisor(bench: Bench) -> list[Drain]:
    """A supervisor is told to end; another worker takes what still waits."""
    size = bench.size
    fleet = bench.fleet(f"max_instances: {size.calls // 2}")
    async with bench.worker(fleet, *SUPERVISOR, "--processes", "2") as first:
        await first.saw("process.ready", 2)
        await bench.load(size.calls + size.waiting)
        await bench.arrived(size.calls)
        told = first.sigterm()
        async with bench.worker(fleet, *ALONE, name="second"):
            drains = [await _ended(bench, first, told)]
            await bench.done()
    return drains


async def recycle(bench: Bench) -> list[Drain]:
    """Processes are replaced by age, again and again, all of them in the middle of calls."""
    size = bench.size
    fleet = bench.fleet(f"max_instances: {size.calls}")
    options = ("--processes", "1", "--recycle-age", str(0.8 * size.call_s))
    async with bench.worker(fleet, *SUPERVISOR, *options) as first:
        load = await bench.load(ENDLESS, size.calls + size.waiting)
        await first.saw("process.ended", 2)
        await load.signal(Parts.stop)
        await bench.done()
        drains = await _drained(bench, first)
    return drains


async def shrink(bench: Bench) -> list[Drain]:
    """A second process comes with a backlog, and one goes when one is enough."""
    size = bench.size
    # one process is enough for 70 % of its instances
    most = size.calls * 10 // 7 + 1
    fleet = bench.fleet(
        f"max_instances: {most}, scale_up_threshold: 1, scale_down_idle_secs: 3"
    )
    async with bench.worker(fleet, *SUPERVISOR, "--processes", "1..2") as first:
        much = await bench.load(ENDLESS, most + size.waiting)
        await first.saw("process.ready", 2)
        enough = await bench.load(ENDLESS, size.calls)
        await much.signal(Parts.stop)
        await first.saw("process.draining")
        await enough.signal(Parts.stop)
        await first.saw("process.ended")
        await bench.done()
        drains = await _drained(bench, first)
    return drains


async def _apply(bench: Bench, file: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tierpool", "apply", str(file)),
        env=clean_env({"TEMPORAL_ADDRESS": bench.address}),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    said, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"tierpool apply: {said.decode()}")


async def _ended(bench: Bench, process: FleetProcess, told: float) -> Drain:
    """Wait for the end of a process that was told to drain."""
    status, over = await process.ended(6 * bench.size.call_s)
    calls = sum(event["calls"] for event in process.events("worker.draining"))
    return Drain(told, over, calls, status)


async def _drained(bench: Bench, process: FleetProcess) -> list[Drain]:
    """Return which processes of a supervisor have drained, by its log."""
    told = process.events("process.draining")
    for event in told:
        await process.saw("process.ended", pid=event["pid"])
    begun = process.events("worker.draining")
    return [
        Drain(at(one), at(end), its["calls"], end["status"])
        for one, its in zip(told, begun, strict=False)
        for end in process.events("process.ended", pid=one["pid"])
        if its["calls"]
    ]


def busy(calls: list[dict[str, Any]], at: float) -> int:
    """Count the calls that were under way at the provider."""
    return sum(
        c["started"] <= at and (c["ended"] is None or c["ended"] > at) for c in calls
    )


CASES: Mapping[str, Callable[[Bench], Awaitable[list[Drain]]]] = {
    case.__name__: case
    for case in (sigterm, arriving, apply, supervisor, recycle, shrink)
}
