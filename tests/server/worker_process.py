"""`tierpool worker` as a process of its own, as it runs in production."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import urllib.request
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tierpool.fleet import LoadedFleet


@dataclass
class WorkerProcess:
    """A running `tierpool worker` and what it has written."""

    process: asyncio.subprocess.Process
    output: list[str] = field(default_factory=list)
    """Lines of standard error and output."""
    _new: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def logged(self, event: str) -> dict[str, Any]:
        """Wait for a log line of this event and return it."""
        async with asyncio.timeout(20), self._new:
            await self._new.wait_for(lambda: self._find(event) is not None)
        return self._find(event) or {}

    async def ended(self) -> int:
        """Wait for the end of the process and return its exit status."""
        async with asyncio.timeout(20):
            return await self.process.wait()

    async def read(self) -> None:
        stream = self.process.stdout
        assert stream is not None
        while line := await stream.readline():
            async with self._new:
                self.output.append(line.decode())
                self._new.notify_all()

    def _find(self, event: str) -> dict[str, Any] | None:
        for line in self.output:
            if line.startswith("{") and json.loads(line).get("event") == event:
                return json.loads(line)
        return None


@asynccontextmanager
async def worker_process(
    address: str, fleet: LoadedFleet, *arguments: str, **env: str
) -> AsyncIterator[WorkerProcess]:
    """Start `tierpool worker` with these arguments; it is killed with the block."""
    started = tierpool_process("worker", address, fleet, *arguments, **env)
    async with started as process:
        yield process


@asynccontextmanager
async def tierpool_process(
    command: str, address: str, fleet: LoadedFleet, *arguments: str, **env: str
) -> AsyncIterator[WorkerProcess]:
    """Start a command that runs until it is killed."""
    line = (command, "--file", str(fleet.path), *arguments)
    around = os.environ | {"TEMPORAL_ADDRESS": address} | env
    async with process_of(line, around) as process:
        yield process


@asynccontextmanager
async def process_of(
    line: Sequence[str], env: Mapping[str, str]
) -> AsyncIterator[WorkerProcess]:
    """Run `tierpool` with these arguments in this environment; it ends with the block."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tierpool", *line),
        env=env,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    worker = WorkerProcess(process)
    reading = asyncio.create_task(worker.read())
    try:
        yield worker
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await reading


async def fetched(url: str) -> str:
    def fetch() -> str:
        with urllib.request.urlopen(url, timeout=10) as response:
            return str(response.read().decode())

    return await asyncio.to_thread(fetch)
