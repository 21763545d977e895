"""One stage of `budget_race.py`: its processes, its races, and what came of them.

All races of a stage run at the same time on the same workers, each with a
budget of its own. Judging a log is done in `_race_log`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
from _judge import BilledCall
from _processes import Child, python
from _race_load import (
    CAPS_USD,
    Faults,
    Mode,
    Race,
    RaceWorkflow,
    own_queue,
    provider_arguments,
    write_race_fleet,
)
from _race_log import Books, Log, audit
from temporalio.client import Client

from tierpool import TierpoolPlugin, load_fleet
from tierpool.contracts import ItemCosts

__all__ = ["LAYOUTS", "Figures", "Stage", "run_stage"]

HERE = Path(__file__).parent
LAYOUTS = ("own", "family")
CHILDREN = 8
FIRST_KILL_S = 1.5
KILL_EVERY_S = 5.0
"""Above the heartbeat timeout of 5 s less what a start takes: work goes on between."""
MOST_KILLS = 6
RACE_WITHIN_S = 120


@dataclass(frozen=True, slots=True)
class Stage:
    """What the races of a stage have in common."""

    number: int
    mode: Mode
    processes: int
    faults: Faults

    @property
    def fleet(self) -> str:
        """Name of its fleet, which prefixes its task queues."""
        return f"bench-race-{self.number:02}"


@dataclass(frozen=True, slots=True)
class Figures:
    """One race, judged."""

    stage: Stage
    layout: str
    callers: int
    cap: Decimal
    worst: Decimal = Decimal(0)
    """Worst case of one call."""
    provider_usd: Decimal = Decimal(0)
    """What the provider bills."""
    charged: Decimal = Decimal(0)
    """What the workflow charges."""
    most_held: Decimal = Decimal(0)
    """Highest settled + reserved at any moment."""
    calls: int = 0
    outcomes: Counter[str] | None = None
    denials: int = 0
    wrongful: tuple[str, ...] = ()
    over: tuple[str, ...] = ()
    failed_calls: int = 0
    problem: str = ""
    """Why the race has no end, or why its books do not agree."""

    @property
    def ratio(self) -> Decimal:
        """Return provider-side dollars / cap."""
        return self.provider_usd / self.cap

    @property
    def unused_calls(self) -> Decimal:
        """Return (cap - charged) / worst case of one call."""
        return (self.cap - self.charged) / self.worst if self.worst else Decimal("NaN")


class Pools:
    """The pool's worker processes, which can be killed and started again."""

    def __init__(self, processes: int, start: Any) -> None:
        """Take how many there are, and what makes the context of one."""
        self._count, self._start = processes, start
        self._slots: list[tuple[AsyncExitStack, Child]] = []
        self.kills = 0

    async def __aenter__(self) -> Pools:
        self._slots = list(
            await asyncio.gather(*(self._one() for _ in range(self._count)))
        )
        return self

    async def __aexit__(self, *error: object) -> None:
        await asyncio.gather(*(stack.aclose() for stack, _ in self._slots))

    async def _one(self) -> tuple[AsyncExitStack, Child]:
        stack = AsyncExitStack()
        return stack, await stack.enter_async_context(self._start())

    async def kill(self) -> None:
        """Kill the process whose turn it is with SIGKILL, and start another one."""
        at = self.kills % self._count
        stack, child = self._slots[at]
        os.kill(child.pid, signal.SIGKILL)
        self.kills += 1
        await stack.aclose()
        self._slots[at] = await self._one()


async def run_stage(
    stage: Stage,
    callers: Sequence[int],
    layouts: Sequence[str],
    address: str,
    scratch: Path,
) -> list[Figures]:
    """Start everything for a stage, run its races, and judge them."""
    folder = scratch / stage.fleet
    folder.mkdir()
    async with _provider(stage, folder) as (base_url, http):
        file = write_race_fleet(folder / "fleet", stage.fleet, stage.mode, base_url)

        def worker(what: str) -> contextlib.AbstractAsyncContextManager[Child]:
            arguments = (what, "--address", address, "--fleet", str(file))
            program = str(HERE / "_race_worker.py")
            return python(program, *arguments, log=folder / f"{what}.log")

        plugin = TierpoolPlugin(load_fleet(file))
        client = await Client.connect(address, plugins=[plugin])
        async with (
            worker("workflows"),
            Pools(stage.processes, lambda: worker("pool")) as pools,
        ):
            over = asyncio.Event()
            killing = asyncio.create_task(_kill(stage, pools, over))
            try:
                races = [(n, layout) for n in callers for layout in layouts]
                return await asyncio.gather(
                    *(_race(stage, client, http, n, layout) for n, layout in races)
                )
            finally:
                over.set()
                await killing


@asynccontextmanager
async def _provider(
    stage: Stage, folder: Path
) -> AsyncIterator[tuple[str, aiohttp.ClientSession]]:
    arguments = provider_arguments(stage.faults)
    program = ("-m", "tierpool.testing.provider", *arguments)
    async with (
        python(*program, log=folder / "provider.log") as provider,
        aiohttp.ClientSession(provider.said["base_url"]) as http,
    ):
        yield provider.said["base_url"], http


async def _kill(stage: Stage, pools: Pools, over: asyncio.Event) -> None:
    """Kill one process after the other while races go on."""
    pause = FIRST_KILL_S
    while stage.faults == "kill" and pools.kills < MOST_KILLS:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(over.wait(), pause)
            return
        await pools.kill()
        pause = KILL_EVERY_S


async def _race(
    stage: Stage,
    client: Client,
    http: aiohttp.ClientSession,
    callers: int,
    layout: str,
) -> Figures:
    label = f"RACE-{stage.number:02}-{layout[0]}-{callers:03}"
    cap = CAPS_USD[callers]
    handle = await client.start_workflow(
        RaceWorkflow.run,
        _terms(label, cap, callers, layout),
        id=label,
        task_queue=own_queue(stage.fleet),
    )
    start = Figures(stage, layout, callers, cap)
    try:
        async with asyncio.timeout(RACE_WITHIN_S):
            logs = await handle.result()
    except TimeoutError:
        costs = await handle.query("costs", result_type=ItemCosts)
        await handle.terminate("the race did not end")
        return _unfinished(start, costs)
    costs = await handle.query("costs", result_type=ItemCosts)
    return _judged(start, logs, costs, await _billed(http, label))


def _terms(label: str, cap: Decimal, callers: int, layout: str) -> Race:
    """Spread the callers; a single one is a child's, and the parent has the second."""
    own_cap = None if callers == max(CAPS_USD) else cap
    if layout == "own":
        return Race(label=label, cap_usd=own_cap, callers=callers)
    order = [1, 0, *range(2, CHILDREN + 1)]
    shares = Counter(order[number % len(order)] for number in range(callers))
    return Race(
        label=label,
        cap_usd=own_cap,
        callers=shares[0],
        children=tuple(shares[child] for child in range(1, CHILDREN + 1)),
    )


async def _billed(http: aiohttp.ClientSession, label: str) -> list[BilledCall]:
    """Ask the provider for a race's calls, when all of them are over."""
    while True:
        async with http.get("/_calls") as answer:
            calls = [c for c in await answer.json() if c["label"] == label]
        if all(call["ended"] is not None for call in calls):
            return [BilledCall.of(call) for call in calls]
        await asyncio.sleep(0.2)


def _unfinished(start: Figures, costs: ItemCosts) -> Figures:
    problem = (
        f"not ended within {RACE_WITHIN_S} s: charged {costs.cost_usd}, reserved "
        f"{costs.reserved_usd} of {costs.budget_usd}, {len(costs.denials)} denials"
    )
    return Figures(start.stage, start.layout, start.callers, start.cap, problem=problem)


def _judged(
    start: Figures, logs: Sequence[Log], costs: ItemCosts, billed: Sequence[BilledCall]
) -> Figures:
    books = [audit(log, start.cap if at == 0 else None) for at, log in enumerate(logs)]
    head = books[0]
    # every new call has as many bytes as the first one, which nothing clamps
    worst = next(e.usd for log in logs for e in log.entries if e.what == "reserved")
    return Figures(
        start.stage,
        start.layout,
        start.callers,
        start.cap,
        worst=worst,
        provider_usd=sum((call.usd for call in billed), Decimal(0)),
        charged=head.settled,
        most_held=head.most_held,
        calls=len(billed),
        outcomes=sum((Counter(log.outcomes) for log in logs), Counter()),
        denials=sum(one.denials for one in books),
        wrongful=tuple(words for one in books for words in one.wrongful),
        over=tuple(words for one in books for words in one.over),
        failed_calls=sum(log.failed_calls for log in logs),
        problem=_disagreement(head, books, costs) or _dear(logs, worst),
    )


def _disagreement(head: Books, books: Sequence[Books], costs: ItemCosts) -> str:
    """Compare what was added up here with what the workflow says."""
    if head.settled != costs.cost_usd:
        return f"charged {costs.cost_usd}, but the log adds up to {head.settled}"
    left = [one.held - one.settled for one in books]
    if costs.reserved_usd or any(left):
        return f"still reserved at the end: {costs.reserved_usd}; by the logs {left}"
    children = sum((one.settled for one in books[1:]), Decimal(0))
    return "" if children <= head.settled else "children cost more than their parent"


def _dear(logs: Sequence[Log], worst: Decimal) -> str:
    """Check what denials claim to need: less than a whole call, repairs included."""
    needs = [e.usd for log in logs for e in log.entries if e.what == "denied"]
    if max(needs, default=worst) <= worst:
        return ""
    return f"a denial says that it needs {max(needs)}; a call needs {worst} at most"
