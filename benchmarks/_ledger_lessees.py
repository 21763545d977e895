"""Lessees of one ledger, as worker processes have them, and the times of their renewals.

A lessee is a lease agent with a client of its own, in this process; the ledger's
worker is a real `tierpool worker --control`. A renewal takes from its first try to
its answer, tries that the server turned away included.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

from _limits_fleet import LimitsFile, machines
from temporalio.client import Client
from temporalio.service import RPCError

from tierpool import TierpoolPlugin, load_fleet
from tierpool.contracts import Usage
from tierpool.contracts.ledger import Renewal, RenewalAnswer
from tierpool.devserver import embedded_server
from tierpool.devserver.program import find_program, serve_command
from tierpool.devserver.state import LOCALHOST, free_port
from tierpool.errors import LeaseShort
from tierpool.fleet import LoadedFleet
from tierpool.leases import Ask, LeaseAgent, keeper
from tierpool.leases.post import send

__all__ = ["Renewed", "Scale", "measure_lessees"]

RAISED = "history.maxInFlightUpdates"
NAME = "bench-ledger"
CALL_S = 0.5
AT_A_TIME = 3
CALL_USD = Decimal("0.01")
START_SPREAD_S = 2.0
SETTLED_S = 6.0
READY_WITHIN_S = 30


@dataclass(frozen=True, slots=True)
class Renewed:
    """One renewal; times are seconds of one clock."""

    sent: float
    answered: float
    valid: float
    """Seconds from the sending on."""


@dataclass
class Scale:
    """What so many lessees showed."""

    lessees: int
    raised: bool
    """Whether the server takes many updates of one workflow at a time."""
    seconds: float
    renewals: list[Sequence[Renewed]] = field(default_factory=list)
    """Of each lessee, since all had settled."""
    begin: float = 0.0
    calls: int = 0
    refused: int = 0
    """Calls that were sent back for want of a lease."""

    @property
    def took(self) -> list[float]:
        """Return the seconds of each renewal."""
        return [r.answered - r.sent for some in self.renewals for r in some]

    @property
    def expired(self) -> int:
        """Count the leases that ran out before the next answer came."""
        return sum(
            after.answered > before.sent + before.valid
            for some in self.renewals
            for before, after in pairwise(some)
        )

    @property
    def stuck(self) -> int:
        """Count the lessees whose renewals no longer came through at the end."""
        end = self.begin + self.seconds
        return sum(
            not some or end > some[-1].sent + some[-1].valid for some in self.renewals
        )


_noted: ContextVar[list[Renewed]] = ContextVar("noted")
"""Of the lessee whose task runs."""
_began: ContextVar[list[float]] = ContextVar("began")
"""When its renewal was sent first; empty while none is under way."""


async def _timed(client: Client, fleet: str, renewal: Renewal) -> RenewalAnswer:
    """Renew, and note how long it took with all tries that were turned away."""
    began = _began.get()
    if not began:
        began.append(time.perf_counter())
    answer = await send(client, fleet, renewal)
    _noted.get().append(Renewed(began.pop(), time.perf_counter(), answer.valid))
    return answer


async def measure_lessees(
    lessees: int, seconds: float, scratch: Path, *, raised: bool
) -> Scale:
    """Let so many lessees renew as they work."""
    folder = scratch / f"{'raised' if raised else 'stock'}-{lessees}"
    folder.mkdir()
    file = LimitsFile(
        NAME,
        "http://127.0.0.1:9",
        instances=AT_A_TIME,
        guardrails={"max_cost_per_hour_usd": 100_000},
        rate_limit={"requests_per_minute": 1_000_000},
    ).write(folder / "fleet")
    serving = _raised(folder) if raised else _stock(folder)
    async with (
        serving as address,
        machines(file, address, folder / "logs", pools=0),
    ):
        return await _renewing(lessees, seconds, load_fleet(file), address, raised)


async def _renewing(
    lessees: int, seconds: float, fleet: LoadedFleet, address: str, raised: bool
) -> Scale:
    scale = Scale(lessees, raised, seconds)
    keeper.send = _timed  # type: ignore[attr-defined]
    notes: list[list[Renewed]] = [[] for _ in range(lessees)]
    tasks = [
        asyncio.create_task(_lessee(scale, fleet, address, noted)) for noted in notes
    ]
    await asyncio.sleep(START_SPREAD_S + SETTLED_S)
    scale.begin = time.perf_counter()
    await asyncio.sleep(seconds)
    scale.renewals = [
        [r for r in noted if r.answered >= scale.begin] for noted in notes
    ]
    for task in tasks:
        task.cancel()
    for ended in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(ended, Exception):
            raise ended
    return scale


async def _lessee(
    scale: Scale, fleet: LoadedFleet, address: str, noted: list[Renewed]
) -> None:
    """Be a worker process that makes calls all the time."""
    _noted.set(noted)
    _began.set([])
    await asyncio.sleep(random.uniform(0, START_SPREAD_S))
    plugin = TierpoolPlugin(fleet)
    client = await Client.connect(address, plugins=[plugin])
    agent = LeaseAgent(fleet)
    async with agent.running(client):
        await asyncio.gather(*(_calls(scale, agent) for _ in range(AT_A_TIME)))


async def _calls(scale: Scale, agent: LeaseAgent) -> None:
    queue = f"{NAME}-standard"
    ask = Ask(
        "Load", "clerk", "standard", queue, "openai:scripted", CALL_USD, 400, 1, 64
    )
    usage = Usage(input_tokens=100, output_tokens=50)
    while True:
        try:
            held = await agent.reserve(ask)
        except LeaseShort:
            scale.refused += 1
            await asyncio.sleep(0.2)
            continue
        await asyncio.sleep(random.uniform(0.5, 1.5) * CALL_S)
        held.settle(usage)
        scale.calls += 1


@asynccontextmanager
async def _raised(folder: Path) -> AsyncIterator[str]:
    async with embedded_server(folder / "server", ui=False) as running:
        yield running.address


@asynccontextmanager
async def _stock(folder: Path) -> AsyncIterator[str]:
    """Run the same server without the raised number of updates in flight."""
    port = free_port()
    command = serve_command(
        await asyncio.to_thread(find_program),
        folder / "temporal.db",
        namespace="default",
        port=port,
        ui_port=None,
    )
    at = next(n for n, part in enumerate(command) if part.startswith(f"{RAISED}="))
    del command[at - 1 : at + 1]
    with (folder / "server.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    address = f"{LOCALHOST}:{port}"
    try:
        async with asyncio.timeout(READY_WITHIN_S):
            while not await _answers(address):
                if process.returncode is not None:
                    raise RuntimeError("the server ended: see server.log")
                await asyncio.sleep(0.1)
        yield address
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def _answers(address: str) -> bool:
    try:
        client = await Client.connect(address)
        await client.count_workflows()
    except (RuntimeError, RPCError):  # not connected; not yet ready
        return False
    return True
