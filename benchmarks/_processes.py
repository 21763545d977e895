"""Child processes of the benchmark: started, watched, and always stopped.

Only processes that were started here are ever signalled.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

__all__ = [
    "Child",
    "clean_env",
    "cpu_seconds",
    "machine_seconds",
    "python",
    "rss_bytes",
]

_READY_WITHIN_S = 60
_STOP_WITHIN_S = 15


class Child:
    """A process and the first JSON document that it printed."""

    def __init__(self, process: asyncio.subprocess.Process, said: Mapping[str, Any]):
        self.pid = process.pid
        self.said = said


@asynccontextmanager
async def python(
    *arguments: str, log: Path, env: Mapping[str, str] | None = None
) -> AsyncIterator[Child]:
    """Run this Python with arguments until the block ends.

    The block begins when the process has printed a JSON line; its standard
    error goes to `log`.

    Raises:
        RuntimeError: if it prints none; shows the end of the log.
    """
    command: Sequence[str] = (sys.executable, *arguments)
    with log.open("ab") as errors:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            env=clean_env(env or {}),
            # Ctrl-C reaches the benchmark, which then stops its children
            start_new_session=True,
        )
    draining: asyncio.Task[None] | None = None
    try:
        said = await _first_line(process)
        draining = asyncio.create_task(_drain(process))
        yield Child(process, said)
    except RuntimeError:
        sys.stderr.write(_end_of(log))
        raise
    finally:
        await _stop(process)
        if draining is not None:
            await draining


def clean_env(more: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without the machine's Temporal profile and keys."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("TEMPORAL_") and not name.endswith("_API_KEY")
    }
    return {
        **kept,
        "TEMPORAL_CONFIG_FILE": os.devnull,
        "OPENAI_API_KEY": "none",
        **more,
    }


async def _first_line(process: asyncio.subprocess.Process) -> Any:
    assert process.stdout is not None
    line = b""
    with contextlib.suppress(TimeoutError):
        line = await asyncio.wait_for(process.stdout.readline(), _READY_WITHIN_S)
    if not line:
        raise RuntimeError(f"process {process.pid} did not get ready")
    return json.loads(line)


def _end_of(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:]


async def _drain(process: asyncio.subprocess.Process) -> None:
    assert process.stdout is not None
    while await process.stdout.read(65536):
        pass


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
    try:
        await asyncio.wait_for(process.wait(), _STOP_WITHIN_S)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used; NaN without /proc."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except FileNotFoundError:
        return float("nan")
    fields = stat.rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    return ticks / float(os.sysconf("SC_CLK_TCK"))


def machine_seconds() -> float:
    """Return the CPU time that the machine has used in all; NaN without /proc.

    What a hypervisor gave to others counts too.
    """
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    except FileNotFoundError:
        return float("nan")
    user, nice, system, _, _, irq, softirq, steal = map(int, fields)
    ticks = user + nice + system + irq + softirq + steal
    return ticks / float(os.sysconf("SC_CLK_TCK"))


def rss_bytes(pid: int) -> float:
    """Return the resident memory of a process; NaN without /proc."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except FileNotFoundError:
        return float("nan")
    return float(pages * os.sysconf("SC_PAGE_SIZE"))
