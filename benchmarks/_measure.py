"""How throughput, latency and history of a variant are measured.

All from outside: items are started and awaited with Temporal's client, calls
are counted by the provider, CPU time by the operating system.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from _bare import BareWorkflow
from _load import CALLS, ITEM_TEXT, Item, Variant, flow_of
from _own import OwnWorkflow
from _processes import cpu_seconds, machine_seconds
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowHandle
from temporalio.service import RPCError

from tierpool import flow_result, start_flow

__all__ = ["Bench", "History", "Window", "history_of", "latency_of", "window_of"]

_LIMIT_S = 120
"""A window that takes longer than this has failed."""

_numbers = itertools.count()


@dataclass
class Bench:
    """Everything that runs while variants are measured."""

    provider: str
    """Base URL of the scripted provider."""
    http: aiohttp.ClientSession
    pids: Mapping[str, tuple[int, ...]]
    """Of `server` and `provider`, and of each variant's own processes by its name."""
    clients: Mapping[str, Client]
    """A client for each variant, by name."""

    async def stats(self) -> dict[str, Any]:
        """Ask the provider what it has counted."""
        async with self.http.get(f"{self.provider}/_stats") as answer:
            found: dict[str, Any] = await answer.json()
            return found

    def cpu(self, variant: Variant) -> dict[str, float]:
        """Return the CPU seconds used so far by each part, and by the machine."""
        parts = {
            "server": self.pids["server"],
            "worker": self.pids[variant.name],
            "provider": self.pids["provider"],
            "driver": (os.getpid(),),
        }
        used = {part: sum(map(cpu_seconds, pids)) for part, pids in parts.items()}
        return {**used, "machine": machine_seconds()}

    async def start(
        self, variant: Variant, calls: int = CALLS
    ) -> WorkflowHandle[Any, Any]:
        """Start one item that makes so many calls."""
        client = self.clients[variant.name]
        name = f"{variant.fleet}-{os.getpid()}-{next(_numbers):06}"
        if variant.kind == "flow":
            return await start_flow(client, flow_of(calls), ITEM_TEXT, id=name)
        run = BareWorkflow.run if variant.kind == "bare" else OwnWorkflow.run
        return await client.start_workflow(
            run, Item(calls=calls), id=name, task_queue=variant.queue
        )

    async def finish(self, variant: Variant, handle: WorkflowHandle[Any, Any]) -> None:
        """Wait for an item's end.

        Raises:
            RuntimeError: if it ended with anything but the provider's reply.
        """
        if variant.kind == "flow":
            flowed = await flow_result(handle)
            last, good = flowed.reply.get("text"), flowed.state == "done"
        else:
            last, good = await handle.result(), True
        if last != "ok" or not good:
            raise RuntimeError(f"item {handle.id} ended with {last!r}")


@dataclass
class Window:
    """What was seen of a variant while the number of items in flight was steady."""

    items_per_s: float
    cpu_ms: Mapping[str, float]
    """CPU milliseconds of each part for one call."""
    provider_cores: float
    other_cores: float
    """Cores that were busy with anything but this benchmark."""
    finished: int
    """Items that ended, with the right result."""

    @property
    def speed(self) -> float:
        """Items per second and core that other programs left to this benchmark.

        On a machine that does nothing else it is in proportion to `items_per_s`.
        """
        free = (os.cpu_count() or 1) - self.other_cores
        return self.items_per_s / (1 if math.isnan(free) else max(free, 0.1))

    @property
    def total_ms(self) -> float:
        """CPU milliseconds of all parts for one call."""
        return sum(self.cpu_ms.values())


@dataclass
class _Load:
    """Items in flight: each that ends is replaced by another."""

    bench: Bench
    variant: Variant
    open: dict[str, WorkflowHandle[Any, Any]] = field(default_factory=dict)
    finished: int = 0

    async def lane(self, calls: int) -> None:
        """Run items one after the other, the first with fewer calls."""
        while True:
            handle = await self.bench.start(self.variant, calls)
            self.open[handle.id] = handle
            await self.bench.finish(self.variant, handle)
            del self.open[handle.id]
            self.finished += 1
            calls = CALLS

    async def end(self) -> None:
        """Terminate what is still in flight, and wait until nothing moves."""
        left = list(self.open.values())
        ends = (handle.terminate("the window is over") for handle in left)
        for failed in await asyncio.gather(*ends, return_exceptions=True):
            # an item may have come to its own end meanwhile
            if failed is not None and not isinstance(failed, RPCError):
                raise failed
        await asyncio.sleep(1)  # the calls under way, and the server's own work


async def window_of(
    bench: Bench, variant: Variant, *, in_flight: int, items: int
) -> Window:
    """Keep items in flight and measure while the calls of `items` items are made.

    Items that start together would stay in step, and a window would see too
    few or too many starts and ends. So the first items have 1 to 5 calls:
    from then on starts, calls and ends are mixed as they are in the long run.
    Calls are counted, because their number is known exactly at every moment.
    """
    load = _Load(bench, variant)
    lanes: list[asyncio.Task[None]] = []
    first = (await bench.stats())["calls"]
    try:
        async with asyncio.timeout(_LIMIT_S):
            for number in range(in_flight):
                lanes.append(asyncio.create_task(load.lane(1 + number % CALLS)))
                await asyncio.sleep(0.005)
            begun, calls = await _reach(bench, first + in_flight, lanes)
            before = bench.cpu(variant)
            ended, more = await _reach(bench, calls + items * CALLS, lanes)
            after = bench.cpu(variant)
    finally:
        for lane in lanes:
            lane.cancel()
        await asyncio.gather(*lanes, return_exceptions=True)
        await load.end()
    made, took = more - calls, ended - begun
    used = {part: after[part] - before[part] for part in after}
    machine = used.pop("machine")
    return Window(
        items_per_s=made / CALLS / took,
        cpu_ms={part: 1000 * seconds / made for part, seconds in used.items()},
        provider_cores=used["provider"] / took,
        other_cores=(machine - sum(used.values())) / took,
        finished=load.finished,
    )


async def _reach(
    bench: Bench, calls: int, lanes: list[asyncio.Task[None]]
) -> tuple[float, int]:
    """Wait until the provider has counted so many calls; return when, and how many."""
    while True:
        counted = (await bench.stats())["calls"]
        if counted >= calls:
            return time.perf_counter(), counted
        for lane in lanes:
            if lane.done():
                lane.result()
        await asyncio.sleep(0.05)


async def latency_of(bench: Bench, variant: Variant) -> float:
    """Return the seconds from starting one item to knowing its result."""
    begun = time.perf_counter()
    await bench.finish(variant, await bench.start(variant))
    return time.perf_counter() - begun


@dataclass(frozen=True, slots=True)
class History:
    """The history of one item."""

    events: int
    bytes: int
    """Without the event that carries the start input."""
    start_bytes: int
    kinds: Mapping[str, int]


async def history_of(bench: Bench, variant: Variant) -> History:
    """Run one item alone and weigh its history."""
    handle = await bench.start(variant)
    await bench.finish(variant, handle)
    kinds: dict[str, int] = {}
    weights: dict[str, int] = {}
    async for event in handle.fetch_history_events():
        kind = EventType.Name(event.event_type).removeprefix("EVENT_TYPE_")
        kinds[kind] = kinds.get(kind, 0) + 1
        weights[kind] = weights.get(kind, 0) + event.ByteSize()
    start = weights["WORKFLOW_EXECUTION_STARTED"]
    return History(sum(kinds.values()), sum(weights.values()) - start, start, kinds)
