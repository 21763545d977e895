"""Part A of `recycle.py`: worker processes are killed in the middle of calls."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _fleet_process import FleetProcess, at
from _parts_bench import ENDLESS, Bench, bench_on, services
from _parts_load import Done
from _program import progress
from _recycle_history import Begun, begun_by

__all__ = ["Killed", "Kills", "Terms", "measure_kills"]

HEALTHY_S = 61.0
"""After a minute a process counts as healthy: its successor is started at once."""
LOADS = 8
NOTICED_S = 2.0
"""The provider sees within this time that a killed process has closed its connections."""
QUIET_S = 3.0
"""The supervisor has looked at all processes by then."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How processes are killed."""

    processes: int
    instances: int
    kills: int
    call_s: float
    every_s: float
    """The least time between two kills."""
    healthy_s: float = HEALTHY_S
    """What is killed has been ready for so long."""

    @property
    def slots(self) -> int:
        """Calls that the fleet makes at a time."""
        return self.processes * self.instances


@dataclass(frozen=True, slots=True)
class Killed:
    """One kill; times are seconds since then."""

    calls: int
    """That were under way."""
    started: float | None
    """Until the successor was started; None: there was none."""
    ready: float | None
    """Until it said that it was ready."""
    slots: float | None
    """Until it had made as many requests as calls were killed."""
    again: tuple[float, ...]
    """Until the provider was asked again for the parts that were killed."""


@dataclass(frozen=True, slots=True)
class Kills:
    """All kills, and what was left."""

    terms: Terms
    killed: tuple[Killed, ...]
    done: Done
    busy_at_rest: int
    """Instances that were busy although nothing was to be done."""
    reached: int
    """Most calls at a time of a fresh load at the end."""
    repeats: int
    """Requests for parts that the provider had been asked for before."""

    @property
    def hit(self) -> int:
        """Calls that were killed."""
        return sum(one.calls for one in self.killed)

    @property
    def leaked(self) -> int:
        """Slots that are gone, or too many."""
        return self.busy_at_rest + abs(self.terms.slots - self.reached)


@dataclass(frozen=True, slots=True)
class _Kill:
    pid: int
    index: int
    at: float


async def measure_kills(scratch: Path, terms: Terms) -> Kills:
    """Kill processes under load, then see whether all slots are there."""
    async with (
        services(scratch, terms.call_s) as given,
        bench_on(given, "bench-kills") as bench,
    ):
        fleet = bench.fleet(f"max_instances: {terms.instances}")
        options = ("--processes", str(terms.processes), "--http", "127.0.0.1:0")
        async with bench.worker(fleet, "--pool", "standard", *options) as workers:
            lanes = terms.slots // LOADS + 2
            for _ in range(LOADS):
                await bench.load(ENDLESS, lanes)
            await workers.saw("process.ready", terms.processes)
            kills = await _kill(workers, terms)
            await _until_ready(workers, terms)
            await bench.stop()
            done = await bench.done()
            await asyncio.sleep(QUIET_S)
            busy = sum(one["busy"] for one in (await workers.health())["processes"])
            reached = await _fresh(bench, terms)
            calls = await given.calls()
            followed = [(kill, _successor(kill, workers)) for kill in kills]
            pids = {event["pid"] for _, event in followed if event}
            begun = await begun_by(bench, pids)
            killed = tuple(
                _judge(kill, event, workers, calls, begun) for kill, event in followed
            )
    seen = Counter(call["label"] for call in calls)
    return Kills(terms, killed, done, busy, reached, len(calls) - len(seen))


async def _kill(workers: FleetProcess, terms: Terms) -> list[_Kill]:
    """Kill the oldest process, once it is healthy, again and again."""
    kills: list[_Kill] = []
    while len(kills) < terms.kills:
        gone = {kill.pid for kill in kills}
        ready = [e for e in workers.events("process.ready") if e["pid"] not in gone]
        oldest = min(ready, key=at, default=None)
        now = time.time()
        if oldest is None or now - at(oldest) < terms.healthy_s:
            await asyncio.sleep(0.1)
            continue
        os.kill(oldest["pid"], signal.SIGKILL)
        kills.append(_Kill(oldest["pid"], oldest["index"], now))
        if len(kills) % 10 == 0:
            progress(f"{len(kills)} of {terms.kills} processes killed")
        await asyncio.sleep(terms.every_s)
    return kills


async def _until_ready(workers: FleetProcess, terms: Terms) -> None:
    """Wait until all processes are there again, and killed calls are made again."""
    await workers.saw("process.ready", terms.processes + terms.kills)
    await asyncio.sleep(10)


async def _fresh(bench: Bench, terms: Terms) -> int:
    """Give more to do than can be done at a time; return how much is done at a time."""
    before = time.time()
    await bench.load(3 * terms.slots)
    await bench.done()
    calls = [c for c in await bench.services.calls() if c["started"] > before]
    steps = sorted(
        [(c["started"], 1) for c in calls] + [(c["ended"], -1) for c in calls]
    )
    most = now = 0
    for _, step in steps:
        now += step
        most = max(most, now)
    return most


def _successor(kill: _Kill, workers: FleetProcess) -> dict[str, Any] | None:
    """Find the log line of the process that took the place of a killed one."""
    events = workers.events("process.respawned", index=kill.index)
    return next((event for event in events if at(event) >= kill.at), None)


def _judge(
    kill: _Kill,
    successor: dict[str, Any] | None,
    workers: FleetProcess,
    calls: Sequence[dict[str, Any]],
    begun: Mapping[int, Sequence[Begun]],
) -> Killed:
    """Put together what came of one kill."""
    hit = [
        call["label"]
        for call in calls
        if call["aborted"] and 0 <= call["ended"] - kill.at < NOTICED_S
    ]
    again = [_arrival(calls, part, kill.at) for part in hit]
    if successor is None:
        return Killed(len(hit), None, None, None, _since(kill, again))
    pid = successor["pid"]
    ready = workers.events("process.ready", pid=pid)
    works = _since(
        kill, sorted(_arrival(calls, one.part, one.at) for one in begun[pid])
    )
    needed = max(1, len(hit))
    return Killed(
        calls=len(hit),
        started=at(successor) - kill.at,
        ready=at(ready[0]) - kill.at if ready else None,
        slots=works[needed - 1] if len(works) >= needed else None,
        again=_since(kill, again),
    )


def _arrival(calls: Sequence[dict[str, Any]], part: str, after: float) -> float:
    """Return when the provider was asked for a part; infinity: never."""
    return min(
        (c["started"] for c in calls if c["label"] == part and c["started"] >= after),
        default=math.inf,
    )


def _since(kill: _Kill, times: Sequence[float]) -> tuple[float, ...]:
    return tuple(time - kill.at for time in times)
