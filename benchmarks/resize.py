"""How fast and how exactly a live pool follows its limit, under load.

Starts a Temporal server and a scripted provider, gives a pool more calls than
it can make, changes its limit again and again, prints a table, and at last one
line of JSON. See README.md beside this file for what is measured and why.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from _pool_load import OWN_QUEUE, ManyCalls, own_worker, write_pool_fleet
from _processes import python
from _program import (
    MEMORY,
    Target,
    console,
    print_targets,
    progress,
    run_program,
)
from rich.table import Table
from temporalio.client import Client
from temporalio.client import Interceptor as ClientInterceptor
from temporalio.service import RPCError
from temporalio.worker import (
    ActivityInboundInterceptor,
    ExecuteActivityInput,
    Interceptor,
)

from tierpool import TierpoolPlugin, load_fleet
from tierpool.client import pools_of
from tierpool.devserver import embedded_server
from tierpool.worker import Served, run_workers

LIMITS = (2, 32, 4, 0, 8)
CALL_S = 1.0
HOLD_S = 3.0
"""How long each limit lasts: until all calls from before have ended, and longer."""

ON_THE_WAY_S = 0.03
"""What had its instance before the limit changed arrives at the provider by then."""


@dataclass(frozen=True)
class Step:
    """One change of the limit."""

    before: int
    limit: int
    at: float
    """Unix time."""


@dataclass(frozen=True)
class Followed:
    """What became of one change."""

    step: Step
    seconds: tuple[float, ...]
    """From the change to each call that it let start, when it let more start."""
    arrived: tuple[float, ...]
    """The same until the provider has read the request."""
    above: int
    """Calls that were started although as many as allowed were under way."""
    peak: int
    """Calls under way at a time, once those from before had ended."""


async def measure(args: argparse.Namespace) -> list[Followed]:
    """Change the limit under load, and read the provider's log."""
    async with AsyncExitStack() as stack:
        scratch = Path(
            stack.enter_context(
                tempfile.TemporaryDirectory(prefix="tierpool-bench-", dir=MEMORY)
            )
        )
        server = await stack.enter_async_context(
            embedded_server(scratch / "server", ui=False)
        )
        arguments = ("--port", "0", "--delay", str(CALL_S))
        provider = await stack.enter_async_context(
            python("-m", "tierpool.testing.provider", *arguments, log=scratch / "p.log")
        )
        base_url = provider.said["base_url"]
        fleet = load_fleet(
            write_pool_fleet(scratch, base_url, f"max_instances: {LIMITS[0]}")
        )
        noting = Noting()
        client = await Client.connect(
            server.address,
            plugins=[TierpoolPlugin(fleet)],
            interceptors=[noting],
        )
        stop, ready = asyncio.Event(), asyncio.Event()
        working = asyncio.create_task(
            run_workers(
                client,
                Served(pools=("standard",)),
                stop,
                on_ready=lambda _: ready.set(),
            )
        )
        await ready.wait()
        try:
            async with own_worker(client), aiohttp.ClientSession(base_url) as http:
                steps = await change(client, args.rounds)
                async with http.get("/_calls") as answer:
                    calls: list[dict[str, Any]] = await answer.json()
        finally:
            stop.set()
            await working
    return [follow(step, until, calls, noting.begun) for step, until in ends(steps)]


class Noting(ClientInterceptor, Interceptor):
    """Notes when each attempt begins in the worker."""

    def __init__(self) -> None:
        self.begun: list[float] = []

    def intercept_activity(
        self, next: ActivityInboundInterceptor
    ) -> ActivityInboundInterceptor:
        """See base class."""
        begun = self.begun

        class Inbound(ActivityInboundInterceptor):
            async def execute_activity(self, input: ExecuteActivityInput) -> Any:
                begun.append(time.time())
                return await super().execute_activity(input)

        return Inbound(next)


async def change(client: Client, rounds: int) -> list[Step]:
    """Go through all limits under a backlog, several times."""
    pool, steps = pools_of(client)["standard"], []
    handles = [
        await client.start_workflow(
            ManyCalls.run, 200, id=f"load-{number}", task_queue=OWN_QUEUE
        )
        for number in range(1 + rounds)
    ]
    await asyncio.sleep(HOLD_S)
    for number in range(rounds):
        progress(f"round {number + 1} of {rounds}")
        for limit in (*LIMITS[1:], LIMITS[0]):
            steps.append(Step(pool.limit, limit, time.time()))
            pool.resize(limit)
            await asyncio.sleep(HOLD_S)
    for handle in handles:
        with suppress(RPCError):  # the first ones have ended
            await handle.terminate()
    return steps


def ends(steps: Sequence[Step]) -> list[tuple[Step, float]]:
    """Give each step the time of the next one."""
    times = [step.at for step in steps[1:]] + [steps[-1].at + HOLD_S]
    return list(zip(steps, times, strict=True))


def follow(
    step: Step, until: float, calls: Sequence[dict[str, Any]], begun: Sequence[float]
) -> Followed:
    """Judge one step by the provider's log; when attempts began the worker says."""

    def under_way(at: float) -> int:
        return sum(
            c["started"] < at and (c["ended"] is None or c["ended"] > at) for c in calls
        )

    started = sorted(c["started"] for c in calls if step.at <= c["started"] < until)
    more = max(0, step.limit - under_way(step.at))
    late = [at for at in started if at > step.at + ON_THE_WAY_S]
    settled = [at for at in started if at > step.at + CALL_S + ON_THE_WAY_S]
    return Followed(
        step,
        tuple(at - step.at for at in sorted(b for b in begun if b >= step.at)[:more]),
        tuple(at - step.at for at in started[:more]),
        sum(under_way(at) >= step.limit for at in late),
        max((under_way(at) + 1 for at in settled), default=0),
    )


def quantile(values: Sequence[float], share: float) -> float:
    """Return a quantile of what was measured."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def show(found: Sequence[Followed]) -> None:
    """Print what was found; the last line is JSON."""
    table = Table(title="A live pool under load", title_justify="left", box=None)
    for name in (
        "from",
        "to",
        "p50 ms",
        "p95 ms",
        "max ms",
        "arrived p95",
        "above",
        "peak",
    ):
        table.add_column(name, justify="right")
    for pair in dict.fromkeys((one.step.before, one.step.limit) for one in found):
        mine = [one for one in found if (one.step.before, one.step.limit) == pair]
        ms = [1000 * s for one in mine for s in one.seconds]
        arrived = [1000 * s for one in mine for s in one.arrived]
        table.add_row(
            *map(str, pair),
            *(f"{quantile(ms, q):.0f}" if ms else "-" for q in (0.5, 0.95, 1.0)),
            f"{quantile(arrived, 0.95):.0f}" if arrived else "-",
            str(sum(one.above for one in mine)),
            "/".join(str(one.peak) for one in mine),
        )
    console(110).print(table)
    growing = [1000 * s for one in found for s in one.seconds]
    print_targets(
        "resize",
        {
            "follow_p95_ms_growing": Target(quantile(growing, 0.95), 50),
            "calls_above_the_limit": Target(sum(one.above for one in found), 0),
            "limits_not_reached": Target(
                sum(one.peak != one.step.limit for one in found), 0
            ),
        },
    )


def options(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=4, help="through all limits")
    parser.add_argument("--quick", action="store_true", help="a smoke test")
    args = parser.parse_args(argv)
    if args.quick:
        args.rounds = 1
    return args


if __name__ == "__main__":
    chosen = options(sys.argv[1:])
    run_program(lambda: measure(chosen), show)
