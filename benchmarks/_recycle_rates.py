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

__all__ = ["SIDES", "RateTerms", "Rates", "measure_rates"]

CALL_S = 0.2
LOADS = 4
UNTIL_STEADY_S = 2.0
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
class Rates:
    """Calls a second of each side, round by round."""

    terms: RateTerms
    rates: Mapping[str, Sequence[float]]
    replaced: int
    """Processes that were replaced."""

    def ratios(self, side: str) -> list[float]:
        """Compare with the rate without renewal, within each round."""
        pairs = zip(self.rates[side], self.rates["never"], strict=True)
        return [rate / never for rate, never in pairs]


@dataclass(frozen=True, slots=True)
class _Side:
    name: str
    bench: Bench
    workers: FleetProcess


async def measure_rates(scratch: Path, terms: RateTerms) -> Rates:
    """Give one side after the other work."""
    rates: dict[str, list[float]] = {name: [] for name in SIDES}
    async with AsyncExitStack() as stack:
        given = await stack.enter_async_context(services(scratch, CALL_S))
        sides = [await _start(stack, given, name, terms) for name in SIDES]
        for side in sides:
            await side.workers.saw("process.ready")
        for number in range(terms.rounds):
            progress(f"round {number + 1} of {terms.rounds}")
            for side in sides if number % 2 else reversed(sides):
                rates[side.name].append(await _rate(side, terms))
        replaced = len(sides[-1].workers.events("process.ended"))
    return Rates(terms, rates, replaced)


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


async def _rate(side: _Side, terms: RateTerms) -> float:
    """Return the calls a second that the provider gets within a window."""
    count, bench = side.bench.services.count, side.bench
    bench.loads.clear()
    lanes = 2 * terms.instances // LOADS
    await asyncio.gather(*(bench.load(ENDLESS, lanes) for _ in range(LOADS)))
    await asyncio.sleep(UNTIL_STEADY_S)
    calls, began = await count(), time.perf_counter()
    await asyncio.sleep(terms.window_s)
    rate = (await count() - calls) / (time.perf_counter() - began)
    await bench.stop()
    await bench.done()
    return rate
