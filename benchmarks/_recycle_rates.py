"""Part B of `recycle.py`: calls a second with and without renewal."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from _fleet_process import FleetProcess
from _parts_bench import ENDLESS, Bench, Services, bench_on, services
from _program import progress

__all__ = ["SIDES", "RateTerms", "Rates", "Window", "measure_rates"]

CALL_S = 0.2
LOADS = 4
UNTIL_STEADY_S = 0.7
NEVER = 1_000_000_000


@dataclass(frozen=True, slots=True)
class RateTerms:
    """How throughput is measured."""

    instances: int
    requests: int
    """Calls after which an instance is renewed."""
    process_s: float
    """About how long a process lives that is recycled."""
    rounds: int
    window_s: float

    @property
    def process_requests(self) -> int:
        """Calls after which a process is replaced."""
        return round(self.instances / CALL_S * self.process_s)


SIDES = ("never", "instances", "processes")
"""What is renewed."""


@dataclass(frozen=True, slots=True)
class Window:
    """What one side did within some time."""

    calls: int
    seconds: float
    cpu_s: float
    """Of its worker processes, and of their supervisor."""

    @property
    def rate(self) -> float:
        """Return calls a second."""
        return self.calls / self.seconds

    def __add__(self, other: Window) -> Window:
        """Put two together."""
        return Window(
            self.calls + other.calls,
            self.seconds + other.seconds,
            self.cpu_s + other.cpu_s,
        )


@dataclass(frozen=True, slots=True)
class Rates:
    """Calls a second of each side, round by round."""

    terms: RateTerms
    windows: Mapping[str, Sequence[Window]]
    replaced: int
    """Processes that were replaced."""

    def ratios(self, side: str) -> list[float]:
        """Compare with the rate without renewal, within each round."""
        pairs = zip(self.windows[side], self.windows["never"], strict=True)
        return [one.rate / never.rate for one, never in pairs]

    def overall(self, side: str) -> Window:
        """Return all windows of a side as one."""
        return sum(self.windows[side], Window(0, 0.0, 0.0))


@dataclass(frozen=True, slots=True)
class _Side:
    name: str
    bench: Bench
    workers: FleetProcess


async def measure_rates(scratch: Path, terms: RateTerms) -> Rates:
    """Give one side after the other work; the order turns round each time."""
    windows: dict[str, list[Window]] = {name: [] for name in SIDES}
    async with AsyncExitStack() as stack:
        given = await stack.enter_async_context(services(scratch, CALL_S))
        sides = [await _start(stack, given, name, terms) for name in SIDES]
        for number in range(terms.rounds):
            progress(f"round {number + 1} of {terms.rounds}")
            for side in reversed(sides) if number % 2 else sides:
                windows[side.name].append(await _window(side, terms))
        replaced = len(sides[-1].workers.events("process.ended"))
    return Rates(terms, windows, replaced)


async def _start(
    stack: AsyncExitStack, given: Services, name: str, terms: RateTerms
) -> _Side:
    """Start the one process of a side."""
    bench = await stack.enter_async_context(bench_on(given, f"bench-{name}"))
    requests = terms.requests if name == "instances" else NEVER
    pool = f"max_instances: {terms.instances}, max_requests_per_agent: {requests}"
    options = ["--pool", "standard", "--processes", "1", "--http", "off"]
    if name == "processes":
        options += ["--recycle-requests", str(terms.process_requests)]
    worker = bench.worker(bench.fleet(pool), *options)
    return _Side(name, bench, await stack.enter_async_context(worker))


async def _window(side: _Side, terms: RateTerms) -> Window:
    """Let one side work; the provider counts."""
    bench, workers = side.bench, side.workers
    count = bench.services.count
    bench.loads.clear()
    await _settled(workers)
    lanes = 2 * terms.instances // LOADS
    await asyncio.gather(*(bench.load(ENDLESS, lanes) for _ in range(LOADS)))
    await asyncio.sleep(UNTIL_STEADY_S)
    calls, cpu_s, began = await count(), workers.cpu_seconds(), time.perf_counter()
    await asyncio.sleep(terms.window_s)
    calls, seconds = await count() - calls, time.perf_counter() - began
    cpu_s = workers.cpu_seconds() - cpu_s
    await bench.stop()
    await bench.done()
    await _settled(workers)
    return Window(calls, seconds, cpu_s)


async def _settled(workers: FleetProcess) -> None:
    """Wait until no process is starting: that would be paid by the next side."""
    while True:
        started = workers.children()
        await workers.saw("process.ready", max(1, len(started)))
        if len(workers.children()) == len(started):
            return
