"""One run of `chaos_budget.py`: its processes, its kills, and what came of them."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

from _books import Books, Served, Terms, accountant, highest
from _chaos_load import Items
from _limits_fleet import LimitsFile, Machines, Server, machines, server
from _processes import clean_env
from _program import progress
from temporalio.client import Client

from tierpool import TierpoolPlugin, load_fleet

__all__ = ["HOUR_ENV", "Plan", "Ran", "run_plan"]

HOUR_ENV = "TIERPOOL_LEDGER_HOUR_SECONDS"
HOUR_S = 3600.0
GRACE_S = 35.0
"""After its window, what a dead process held is free at the latest: the calls'
timeout, what a worker adds to it, and the last renewal's validity."""
IN_FLIGHT = 60
QUIET_S = 5.0
"""The cap is used up when no call has begun for so long."""
RUN_WITHIN_S = 200
END_WITHIN_S = 150
"""An item may have been told to look again in two minutes."""
NOTICED_S = 2.0

MAX_OUTPUT_TOKENS = 1000
TERMS = Terms(
    call_s=(1.0, 3.0),
    output_tokens=(600, 1000),
    # low: input is reserved by its bytes, of which a token has several
    input_usd_per_mtok="0.05",
    output_usd_per_mtok="10",
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What happens in a run."""

    name: str
    cap_usd: Decimal
    kills: int = 0
    """Of workers."""
    server_kills: int = 0
    hour_s: float = HOUR_S
    checks_leaks: bool = False
    """Whether a fresh load comes once the window has passed."""
    processes: int = 4
    instances: int = 8

    @property
    def rolls(self) -> bool:
        """Whether the window is so short that the cap comes back within the run."""
        return self.hour_s < HOUR_S


@dataclass
class Ran:
    """What came of it."""

    plan: Plan
    calls: Sequence[Served] = ()
    """Those under the cap: before it was raised."""
    fresh: Sequence[Served] = ()
    """Those after the window had passed."""
    mid_call: int = 0
    """Kills that broke off at least one call."""
    kills: int = 0
    server_kills: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    """Items, by how they ended."""

    @property
    def ratio(self) -> Decimal:
        """Return the most USD of any window at the provider / cap."""
        most = Decimal(0)
        for calls in (self.calls, self.fresh):
            for by_end in (False, True):
                spent = highest(calls, _usd, self.plan.hour_s, by_end=by_end)
                most = max(most, Decimal(spent))
        return most / self.plan.cap_usd

    @property
    def unused(self) -> float:
        """Return the share of the cap that was left when it was used up."""
        spent = Decimal(highest(self.calls, _usd, self.plan.hour_s))
        return float(1 - spent / self.plan.cap_usd)

    @property
    def unknown(self) -> float:
        """Return the share of the cap that killed calls are charged for nothing.

        Nobody knows what they came to, so they are charged their worst case.
        """
        worst = TERMS.cost(0, MAX_OUTPUT_TOKENS)
        extra = sum((worst - c.usd for c in self.calls if c.aborted), Decimal(0))
        return float(extra / self.plan.cap_usd)

    @property
    def unused_after(self) -> float:
        """Return the same for the load after the window."""
        spent = Decimal(highest(self.fresh, _usd, self.plan.hour_s))
        return float(1 - spent / self.plan.cap_usd)

    @property
    def lost(self) -> int:
        """Count the items that are not done."""
        return sum(self.ended.values()) - self.ended["done"]


def _usd(call: Served) -> Decimal:
    return call.usd


async def run_plan(plan: Plan, scratch: Path, calm: asyncio.Event) -> Ran:
    """Start everything, let it happen, and look at what is left.

    Args:
        plan: What happens.
        scratch: Folder for files.
        calm: Set when nothing is left to be done but to wait for items, so that
            the next run can begin.
    """
    try:
        return await _run_plan(plan, scratch, calm)
    finally:
        calm.set()


async def _run_plan(plan: Plan, scratch: Path, calm: asyncio.Event) -> Ran:
    progress(f"{plan.name}: {plan.kills} kills, {plan.server_kills} of the server")
    folder = scratch / plan.name
    folder.mkdir()
    with _hour(plan):
        async with (
            server(folder / "server") as temporal,
            accountant(TERMS, folder / "provider.log") as books,
        ):
            file = _file(plan, books, plan.cap_usd).write(folder / "fleet")
            plugin = TierpoolPlugin(load_fleet(file))
            client = await Client.connect(temporal.address, plugins=[plugin])
            async with machines(
                file,
                temporal.address,
                folder / "logs",
                pools=plan.processes,
                others=("--control", "--flows"),
            ) as fleet:
                run = _Run(plan, folder, temporal, books, fleet, client, calm)
                ran = await run.through()
    progress(f"{plan.name}: {ran.ratio:.4f} of the cap, items {dict(ran.ended)}")
    return ran


@dataclass
class _Run:
    """A run and all that it has."""

    plan: Plan
    folder: Path
    temporal: Server
    books: Books
    fleet: Machines
    client: Client
    calm: asyncio.Event

    async def through(self) -> Ran:
        """Go through the phases."""
        ran, plan = Ran(self.plan), self.plan
        items = Items(self.client, plan.name)
        items.begin(IN_FLIGHT)
        killed = await self._kill(ran)
        if not plan.rolls:
            await self._quiet()
        await items.end()
        progress(f"{plan.name}: {len(killed)} killed; the cap is raised")
        ran.calls = await self.books.calls()
        ran.mid_call = sum(1 for at in killed if _broke_off(ran.calls, at))
        await self._apply(100 * plan.cap_usd, "raised")
        if not plan.checks_leaks:
            self.calm.set()
        ran.ended = await items.results(END_WITHIN_S)
        if plan.checks_leaks:
            ran.fresh, more = await self._after_the_window()
            ran.ended += more
        return ran

    async def _kill(self, ran: Ran) -> list[float]:
        """Kill the busiest worker again and again, and now and then the server."""
        plan, killed = self.plan, list[float]()
        every = plan.kills // (plan.server_kills + 1) if plan.server_kills else 0
        end = time.monotonic() + RUN_WITHIN_S
        while len(killed) < plan.kills and time.monotonic() < end:
            await asyncio.sleep(0.3)
            if self.fleet.ready < plan.processes // 2:
                continue
            busiest = await self.fleet.busiest()
            if busiest is None:
                continue
            killed.append(self.fleet.kill(busiest))
            if (
                every
                and len(killed) % every == 0
                and ran.server_kills < (plan.server_kills)
            ):
                await self.temporal.kill()
                ran.server_kills += 1
        await self.fleet.all_back()
        ran.kills = len(killed)
        return killed

    async def _quiet(self) -> None:
        """Wait until the cap is used up."""
        end = time.monotonic() + RUN_WITHIN_S
        last, since = -1, time.monotonic()
        while time.monotonic() < end and time.monotonic() - since < QUIET_S:
            await asyncio.sleep(0.2)
            sums = await self.books.sums()
            if sums["taken"] != last or sums["in_flight"]:
                last, since = sums["taken"], time.monotonic()

    async def _after_the_window(self) -> tuple[Sequence[Served], Counter[str]]:
        """Give a fresh load to a fleet whose last call is a window ago."""
        await self._apply(self.plan.cap_usd, "lowered")
        await asyncio.sleep(self.plan.hour_s + GRACE_S)
        before = len(await self.books.calls())
        items = Items(self.client, f"{self.plan.name}-fresh")
        items.begin(IN_FLIGHT)
        await asyncio.sleep(self.plan.hour_s)
        await items.end()
        fresh = (await self.books.calls())[before:]
        await self._apply(100 * self.plan.cap_usd, "raised-again")
        return fresh, await items.results(END_WITHIN_S)

    async def _apply(self, cap_usd: Decimal, name: str) -> None:
        """Bring another cap to the fleet by `tierpool apply`."""
        file = _file(self.plan, self.books, cap_usd).write(self.folder / name)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tierpool", "apply", str(file)),
            env=clean_env({"TEMPORAL_ADDRESS": self.temporal.address}),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        said, _ = await process.communicate()
        # status 1 also says that workers do not follow, as the killed ones cannot
        if b"applied (generation" not in said:
            raise RuntimeError(f"tierpool apply: {said.decode()}")


def _file(plan: Plan, books: Books, cap_usd: Decimal) -> LimitsFile:
    return LimitsFile(
        f"bench-chaos-{plan.name}",
        books.base_url,
        instances=plan.instances,
        guardrails={
            "max_cost_per_hour_usd": float(cap_usd),
            "max_cost_per_workflow_usd": 100,
            "on_exhausted": "wait",
        },
        max_output_tokens=MAX_OUTPUT_TOKENS,
        input_usd_per_mtok=TERMS.input_usd_per_mtok,
        output_usd_per_mtok=TERMS.output_usd_per_mtok,
    )


def _broke_off(calls: Sequence[Served], at: float) -> bool:
    return any(c.aborted and 0 <= c.ended - at < NOTICED_S for c in calls)


@contextmanager
def _hour(plan: Plan) -> Iterator[None]:
    """Let the processes of a run count in a shorter window than an hour."""
    if not plan.rolls:
        yield
        return
    os.environ[HOUR_ENV] = str(plan.hour_s)
    try:
        yield
    finally:
        del os.environ[HOUR_ENV]
