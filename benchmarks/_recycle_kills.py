"""Part A of `recycle.py`: worker processes are killed in the middle of calls."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _fleet_process import FleetProcess, at, busy_at
from _parts_bench import ENDLESS, Bench, bench_on, services
from _parts_load import Done
from _program import progress
from _recycle_history import begun_by

__all__ = ["Killed", "Kills", "Terms", "measure_kills"]

HEALTHY_S = 61.0
"""After a minute a process counts as healthy: its successor is started at once."""
LOADS = 8
NOTICED_S = 2.0
"""The provider sees within this time that a killed process has closed its connections."""
SETTLED_S = 3.0
"""The last successor is as busy as the others by then."""


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
    """One kill; times are seconds since then.

    What has not come by the end of the run counts as if it had come then.
    """

    calls: int
    """That were under way at the provider."""
    started: float
    """Until the successor was started."""
    slots: float
    """Until that had made as many requests as calls were killed."""
    again: tuple[float, ...]
    """Until the provider was asked again for each part that was killed."""


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
            await workers.saw("process.ready", terms.processes)
            for _ in range(LOADS):
                await bench.load(ENDLESS, terms.slots // LOADS + 2)
            kills = await _kill(workers, terms)
            await _until_ready(workers, terms)
            await bench.stop()
            done = await bench.done()
            busy = await workers.busy()
            reached = await _fresh(bench, terms)
            killed = await _judged(kills, workers, bench)
            calls = await given.calls()
    repeats = len(calls) - len({call["label"] for call in calls})
    return Kills(terms, tuple(killed), done, busy, reached, repeats)


async def _kill(workers: FleetProcess, terms: Terms) -> list[_Kill]:
    """Kill the oldest process that is healthy and has calls, again and again."""
    kills: list[_Kill] = []
    while len(kills) < terms.kills:
        next_at = kills[-1].at + terms.every_s if kills else 0.0
        await asyncio.sleep(max(0.05, next_at - time.time()))
        gone = {kill.pid for kill in kills}
        ready = [e for e in workers.events("process.ready") if e["pid"] not in gone]
        oldest = min(ready, key=at, default=None)
        if oldest is None or time.time() - at(oldest) < terms.healthy_s:
            continue
        pid = oldest["pid"]
        port = next(c["port"] for c in workers.children() if c["pid"] == pid)
        if not await busy_at(port):
            continue
        kills.append(_Kill(pid, oldest["index"], time.time()))
        os.kill(pid, signal.SIGKILL)
        if len(kills) % 10 == 0:
            progress(f"{len(kills)} of {terms.kills} processes killed")
    return kills


async def _until_ready(workers: FleetProcess, terms: Terms) -> None:
    """Wait until all processes are there again, and work."""
    await workers.saw("process.ready", terms.processes + terms.kills)
    await asyncio.sleep(SETTLED_S)


async def _fresh(bench: Bench, terms: Terms) -> int:
    """Give more to do than can be done at a time; return how much is done at a time."""
    before = time.time()
    await bench.load(terms.slots + terms.slots // 4)
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


async def _judged(
    kills: Sequence[_Kill], workers: FleetProcess, bench: Bench
) -> list[Killed]:
    """Put together what came of each kill."""
    followed = [_successor(kill, workers) for kill in kills]
    begun = await begun_by(bench, {pid for pid, _ in followed})
    log = _Log(await bench.services.calls(), time.time())
    found = []
    for kill, (pid, started) in zip(kills, followed, strict=True):
        hit = log.aborted(kill.at)
        works = sorted(log.arrival(one.part, one.at) for one in begun[pid])
        needed = max(1, len(hit))
        slots = works[needed - 1] if len(works) >= needed else log.end
        again = tuple(log.arrival(part, kill.at) - kill.at for part in hit)
        found.append(Killed(len(hit), started - kill.at, slots - kill.at, again))
    return found


def _successor(kill: _Kill, workers: FleetProcess) -> tuple[int, float]:
    """Find the process that took the place of a killed one, and when it was started."""
    for event in workers.events("process.respawned", index=kill.index):
        if at(event) >= kill.at:
            return event["pid"], at(event)
    raise RuntimeError(f"the killed process {kill.pid} has no successor")


class _Log:
    """What the provider has seen."""

    def __init__(self, calls: Sequence[dict[str, Any]], end: float) -> None:
        self._calls, self.end = calls, end
        self._by_part: dict[str, list[float]] = defaultdict(list)
        for call in calls:
            self._by_part[call["label"]].append(call["started"])

    def aborted(self, after: float) -> list[str]:
        """Return the parts whose connections went away with a process."""
        return [
            call["label"]
            for call in self._calls
            if call["aborted"] and 0 <= call["ended"] - after < NOTICED_S
        ]

    def arrival(self, part: str, after: float) -> float:
        """Return when it was asked for a part, by now at the latest."""
        return min((t for t in self._by_part[part] if t >= after), default=self.end)
