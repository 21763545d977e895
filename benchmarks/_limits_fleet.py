"""A fleet with fleet-wide limits: its file, its server, and its worker processes.

Server and workers can be killed with SIGKILL and are started again in their place.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from _fleet_process import FleetProcess, busy_at, fleet_process
from _rates_load import PROMPT

from tierpool.devserver import EmbeddedServer, embedded_server

__all__ = ["LimitsFile", "Machines", "Server", "machines", "server"]


@dataclass(frozen=True, slots=True)
class LimitsFile:
    """What a fleet file says; keys as there, None or empty leaves them out."""

    name: str
    base_url: str
    """Of the provider, without a path."""
    instances: int
    """Of each worker process."""
    guardrails: Mapping[str, Any] = field(default_factory=dict)
    rate_limit: Mapping[str, int] = field(default_factory=dict)
    max_concurrent: int | None = None
    role_cap: int | None = None
    """Of the clerk; the helper has none."""
    max_output_tokens: int = 64
    input_usd_per_mtok: str = "1"
    output_usd_per_mtok: str = "4"
    timeout_s: int = 15
    """Of a call."""

    def write(self, folder: Path) -> Path:
        """Write the file and its prompts; return its path. JSON is YAML."""
        folder.mkdir(parents=True, exist_ok=True)
        clerk: dict[str, Any] = {"prompt": "clerk.md", "tier": "standard"}
        helper = {**clerk, "prompt": "helper.md", "max_attempts": 20}
        clerk["max_attempts"] = 20
        if self.role_cap is not None:
            clerk["max_instances"] = self.role_cap
        whole: dict[str, Any] = {
            "version": 1,
            "fleet": self.name,
            "tiers": {"standard": self._tier()},
            "agents": {"clerk": clerk, "helper": helper},
            "flows": {"work": _flow()},
        }
        if self.guardrails:
            whole["guardrails"] = dict(self.guardrails)
        if self.max_concurrent is not None:
            whole["max_concurrent"] = self.max_concurrent
        (folder / "clerk.md").write_text(f"{PROMPT}\n")
        (folder / "helper.md").write_text(PROMPT.replace("clerk", "helper") + "\n")
        path = folder / "agents.yaml"
        path.write_text(json.dumps(whole, indent=1))
        return path

    def _tier(self) -> dict[str, Any]:
        tier: dict[str, Any] = {
            "model": "openai:scripted",
            "base_url": f"{self.base_url}/v1",
            "price": {
                "input_usd_per_mtok": self.input_usd_per_mtok,
                "output_usd_per_mtok": self.output_usd_per_mtok,
            },
            "max_output_tokens": self.max_output_tokens,
            "timeout": f"{self.timeout_s}s",
            "pool": {"min_instances": 1, "max_instances": self.instances},
        }
        if self.rate_limit:
            tier["rate_limit"] = dict(self.rate_limit)
        return tier


def _flow() -> dict[str, Any]:
    """Return a flow of three calls."""
    steps = ("incoming -> read", "read -> planned", "planned -> done")
    return {
        "initial": "incoming",
        "transitions": {step: {"agent": "clerk"} for step in steps},
    }


class Server:
    """The embedded Temporal server, which can die."""

    def __init__(self, folder: Path) -> None:
        """Take the folder of its database."""
        self._folder = folder
        self._stack = AsyncExitStack()
        self._running: EmbeddedServer | None = None
        self.kills = 0

    @property
    def address(self) -> str:
        """Return where it listens."""
        assert self._running is not None
        return self._running.address

    async def start(self, port: int | None = None) -> None:
        """Start it on its database."""
        self._running = await self._stack.enter_async_context(
            embedded_server(self._folder, ui=False, port=port)
        )

    async def kill(self) -> None:
        """Kill it with SIGKILL, and start it again on the same port."""
        assert self._running is not None
        os.kill(self._running.pid, signal.SIGKILL)
        self.kills += 1
        await self.close()
        await self.start(int(self.address.rpartition(":")[2]))

    async def close(self) -> None:
        """Stop it."""
        await self._stack.aclose()
        self._stack = AsyncExitStack()


@asynccontextmanager
async def server(folder: Path) -> AsyncIterator[Server]:
    """Run a server until the block ends."""
    one = Server(folder)
    await one.start()
    try:
        yield one
    finally:
        await one.close()


@dataclass
class _Place:
    """A worker process, and what stops it."""

    stack: AsyncExitStack
    process: FleetProcess


class Machines:
    """Worker processes of one fleet; the pools' ones can be killed."""

    def __init__(self, file: Path, address: str, logs: Path) -> None:
        """Take the fleet file, the server's address, and a folder for logs."""
        self._file, self._address, self._logs = file, address, logs
        logs.mkdir(parents=True, exist_ok=True)
        self._pools: list[_Place | None] = []
        self._others: list[_Place] = []
        self._restarts: set[asyncio.Task[None]] = set()
        self._started = 0
        self.kills = 0

    async def start(self, pools: int, others: Sequence[str] = ("--control",)) -> None:
        """Start so many processes for the pool, and one for each other option."""
        for option in others:
            self._others.append(await self._one(option))
        self._pools = list(await asyncio.gather(*(self._pool() for _ in range(pools))))

    async def _pool(self) -> _Place:
        return await self._one("--pool", "standard")

    async def _one(self, *what: str) -> _Place:
        self._started += 1
        stack = AsyncExitStack()
        process = await stack.enter_async_context(
            fleet_process(
                *(*what, "--http", "127.0.0.1:0", "--grace", "3"),
                fleet=self._file,
                address=self._address,
                log=self._logs / f"{what[0].strip('-')}-{self._started:04}.log",
            )
        )
        try:
            await process.saw("worker.started")
        except BaseException:
            await stack.aclose()
            raise
        return _Place(stack, process)

    @property
    def ready(self) -> int:
        """Count the pool processes that poll."""
        return sum(place is not None for place in self._pools)

    async def busiest(self) -> int | None:
        """Return the pool process with the most calls by its place, if any has one."""
        busy = await asyncio.gather(*map(_busy, self._pools))
        most = max(busy, default=0)
        return busy.index(most) if most else None

    def kill(self, number: int) -> float:
        """Kill a pool process with SIGKILL; another one is started there at once.

        Returns:
            The Unix time of the kill.
        """
        place = self._pools[number]
        assert place is not None
        os.kill(place.process.pid, signal.SIGKILL)
        now = time.time()
        self.kills += 1
        self._pools[number] = None
        task = asyncio.create_task(self._restart(number, place))
        self._restarts.add(task)
        task.add_done_callback(self._restarts.discard)
        return now

    async def _restart(self, number: int, place: _Place) -> None:
        await place.stack.aclose()
        while self._pools[number] is None:
            # as a supervisor does: it cannot start while the server is away
            with contextlib.suppress(RuntimeError):
                self._pools[number] = await self._pool()

    async def all_back(self) -> None:
        """Wait until every process that was killed has its successor."""
        await asyncio.gather(*self._restarts)

    async def close(self) -> None:
        """Stop all processes."""
        for task in self._restarts:
            task.cancel()
        await asyncio.gather(*self._restarts, return_exceptions=True)
        places = [one for one in (*self._pools, *self._others) if one is not None]
        await asyncio.gather(*(place.stack.aclose() for place in places))


async def _busy(place: _Place | None) -> int:
    if place is None:
        return 0
    listens = await place.process.saw("worker.listens")
    try:
        return await busy_at(int(listens["url"].rpartition(":")[2]))
    except aiohttp.ClientError:
        return 0  # it is just ending


@asynccontextmanager
async def machines(
    file: Path,
    address: str,
    logs: Path,
    *,
    pools: int,
    others: Sequence[str] = ("--control",),
) -> AsyncIterator[Machines]:
    """Run worker processes until the block ends."""
    running = Machines(file, address, logs)
    try:
        await running.start(pools, others)
        yield running
    finally:
        await running.close()
