"""`tierpool worker` as a process: started, heard by its log, and always stopped."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
from _processes import clean_env, cpu_seconds

__all__ = ["FleetProcess", "at", "busy_at", "fleet_process"]

_READY_WITHIN_S = 90
_STOP_WITHIN_S = 15
_ABORT_WITHIN_S = 8


class FleetProcess:
    """A running `tierpool worker`, with the log lines of it and of its children."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process, self.log = process, log
        self.pid = process.pid
        self._lines: list[dict[str, Any]] = []
        self._read = 0

    def events(self, name: str, **fields: Any) -> list[dict[str, Any]]:
        """Return all log lines of an event with these fields."""
        with self.log.open("rb") as file:
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._read += len(line)
                if line.startswith(b"{"):
                    self._lines.append(json.loads(line))
        wanted = {"event": name} | fields
        return [one for one in self._lines if wanted.items() <= one.items()]

    async def saw(
        self,
        name: str,
        count: int = 1,
        within_s: float = _READY_WITHIN_S,
        **fields: Any,
    ) -> dict[str, Any]:
        """Wait until an event has come so often; return that one.

        Raises:
            RuntimeError: if it does not; shows the end of the log.
        """
        end = time.monotonic() + within_s
        while len(found := self.events(name, **fields)) < count:
            if self.process.returncode is not None or time.monotonic() > end:
                sys.stderr.write(self.log.read_text(errors="replace")[-3000:])
                raise RuntimeError(
                    f"the event {name} did not come {count} times from {self.pid}"
                )
            await asyncio.sleep(0.02)
        return found[count - 1]

    def children(self) -> list[dict[str, Any]]:
        """Return the log lines that tell of a child's start: its index, PID and port."""
        return sorted(
            self.events("process.started") + self.events("process.respawned"), key=at
        )

    async def busy(self) -> int:
        """Ask all children that run how many calls they make."""
        listens = await self.saw("supervisor.listens")
        health = await _json(listens["url"])
        asked = (busy_at(child["port"]) for child in health["processes"])
        return sum(await asyncio.gather(*asked))

    def cpu_seconds(self) -> float:
        """Return the CPU time of it and of all its children; NaN without /proc."""
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_text(errors="replace")
        except FileNotFoundError:
            return math.nan
        ended = sum(map(int, stat.rpartition(")")[2].split()[13:15]))
        running = (cpu_seconds(child["pid"]) for child in self.children())
        of_children = sum(s for s in running if not math.isnan(s))
        in_ended = ended / float(os.sysconf("SC_CLK_TCK"))
        return cpu_seconds(self.pid) + in_ended + of_children

    def sigterm(self) -> float:
        """Tell it to drain; return the Unix time of that."""
        now = time.time()
        self.process.send_signal(signal.SIGTERM)
        return now

    async def ended(self, within_s: float) -> tuple[int, float]:
        """Wait for its end; return the status and the Unix time."""
        status = await asyncio.wait_for(self.process.wait(), within_s)
        return status, time.time()


async def busy_at(port: int) -> int:
    """Ask one worker process how many calls it makes."""
    health = await _json(f"http://127.0.0.1:{port}")
    return sum(pool["busy"] for pool in health["pools"])


async def _json(url: str) -> Any:
    async with aiohttp.ClientSession() as http, http.get(f"{url}/health") as answer:
        return await answer.json()


def at(event: dict[str, Any]) -> float:
    """Return the Unix time of a log line."""
    return datetime.fromisoformat(event["timestamp"]).timestamp()


@asynccontextmanager
async def fleet_process(
    *arguments: str, fleet: Path, address: str, log: Path, name: str = "worker"
) -> AsyncIterator[FleetProcess]:
    """Run `tierpool worker`, or another command, until the block ends."""
    command = (sys.executable, "-m", "tierpool", name, "--file", str(fleet))
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *(*command, *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=clean_env({"TEMPORAL_ADDRESS": address}),
            # Ctrl-C reaches the benchmark, which then stops its children
            start_new_session=True,
        )
    try:
        yield FleetProcess(process, log)
    finally:
        await _stop(process)


async def _stop(process: asyncio.subprocess.Process) -> None:
    """Let it drain, then abort, which a supervisor passes on, then kill it."""
    patience = ((signal.SIGTERM, _STOP_WITHIN_S), (signal.SIGTERM, _ABORT_WITHIN_S))
    for number, seconds in patience:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), seconds)
            return
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()
