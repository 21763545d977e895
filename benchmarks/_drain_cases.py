"""The cases of `drain.py`: how calls that are under way meet a signal."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from _fleet_process import FleetProcess, at
from _parts_bench import ENDLESS, Bench, busy
from _parts_load import Parts
from _processes import clean_env

__all__ = ["CASES", "Drain", "Size"]


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


POOL = ("--pool", "standard")
ALONE = (*POOL, "--http", "off")
SUPERVISOR = (*POOL, "--http", "127.0.0.1:0")


async def sigterm(bench: Bench, size: Size) -> list[Drain]:
    """One process drains; another one takes what still waits."""
    fleet = bench.fleet(f"max_instances: {size.calls}")
    async with bench.worker(fleet, *ALONE) as first:
        await bench.load(size.calls + size.waiting)
        await bench.services.arrived(size.calls)
        told = first.sigterm()
        async with bench.worker(fleet, *ALONE, name="second"):
            drains = [await _ended(first, size, told)]
            await bench.done()
    return drains


async def arriving(bench: Bench, size: Size) -> list[Drain]:
    """One of two processes drains while more calls arrive that both poll for."""
    fleet = bench.fleet(f"max_instances: {3 * size.calls}")
    async with (
        bench.worker(fleet, *ALONE) as first,
        bench.worker(fleet, *ALONE, name="second") as second,
    ):
        await first.saw("worker.started")
        await second.saw("worker.started")
        await bench.load(2 * size.calls)
        await bench.services.arrived(2 * size.calls)
        await bench.load(2 * size.calls, spacing_s=0.02)
        await bench.services.arrived(5 * size.calls // 2)
        drains = [await _ended(first, size, first.sigterm())]
        await bench.done()
    return drains


async def apply(bench: Bench, size: Size) -> list[Drain]:
    """A live pool is told to make a tenth of its calls at a time."""
    least = max(1, size.calls // 10)
    fleet = bench.fleet(f"max_instances: {size.calls}")
    smaller = bench.fleet(f"min_instances: 0, max_instances: {least}", "smaller")
    async with (
        bench.worker(fleet, *ALONE),
        bench.worker(fleet, "--control", "--http", "off", name="control") as control,
    ):
        await control.saw("worker.started")
        await bench.load(size.calls + 2 * least)
        await bench.services.arrived(size.calls)
        told = time.time()
        await _apply(bench, smaller)
        await bench.done()
    calls = await bench.services.calls()
    over = min(
        c["ended"]
        for c in calls
        if c["ended"] > told and busy(calls, c["ended"]) <= least
    )
    return [Drain(told, over, busy(calls, told))]


async def supervisor(bench: Bench, size: Size) -> list[Drain]:
    """A supervisor is told to end; another worker takes what still waits."""
    fleet = bench.fleet(f"max_instances: {size.calls // 2}")
    async with bench.worker(fleet, *SUPERVISOR, "--processes", "2") as first:
        await first.saw("process.ready", 2)
        await bench.load(size.calls + size.waiting)
        await bench.services.arrived(size.calls)
        told = first.sigterm()
        async with bench.worker(fleet, *ALONE, name="second"):
            drains = [await _ended(first, size, told)]
            await bench.done()
    return drains


async def recycle(bench: Bench, size: Size) -> list[Drain]:
    """Processes are replaced by age, again and again, all of them in the middle of calls."""
    fleet = bench.fleet(f"max_instances: {size.calls}")
    options = ("--processes", "1", "--recycle-age", str(0.8 * size.call_s))
    async with bench.worker(fleet, *SUPERVISOR, *options) as first:
        load = await bench.load(ENDLESS, size.calls + size.waiting)
        await first.saw("process.ended", 2)
        await load.signal(Parts.stop)
        await bench.done()
        drains = await _drained(first)
    return drains


async def shrink(bench: Bench, size: Size) -> list[Drain]:
    """A second process comes with a backlog, and one goes when one is enough."""
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
        drains = await _drained(first)
    return drains


async def _apply(bench: Bench, file: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tierpool", "apply", str(file)),
        env=clean_env({"TEMPORAL_ADDRESS": bench.services.address}),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    said, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"tierpool apply: {said.decode()}")


async def _ended(process: FleetProcess, size: Size, told: float) -> Drain:
    """Wait for the end of a process that was told to drain."""
    status, over = await process.ended(6 * size.call_s)
    calls = sum(event["calls"] for event in process.events("worker.draining"))
    return Drain(told, over, calls, status)


async def _drained(process: FleetProcess) -> list[Drain]:
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


CASES: Mapping[str, Callable[[Bench, Size], Awaitable[list[Drain]]]] = {
    case.__name__: case
    for case in (sigterm, arriving, apply, supervisor, recycle, shrink)
}
