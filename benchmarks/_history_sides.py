"""Who holds the conversations of `history.py`, and how a side's program is run.

Our own sides run in this Python, a peer in an environment of its own; a peer that
cannot be installed or fails is absent, with the reason.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from _history_load import Case, Order, Run
from _peers import Peer, _Absent, _environment
from _processes import clean_env

__all__ = ["SIDES", "Bench", "Said", "Side", "run_side"]

HERE = Path(__file__).parent
_START_WITHIN_S = 60


@dataclass(frozen=True, slots=True)
class Side:
    """A program, and what it is told."""

    name: str
    program: str
    options: Mapping[str, Any]
    peer: Peer | None = None

    @property
    def is_peer(self) -> bool:
        """Whether it is somebody else's."""
        return self.peer is not None


_AGENTS_SDK = Peer(
    "OpenAI Agents plugin",
    "_history_agents_sdk",
    ("temporalio-openai-agents>=1.1,<2",),
    environment="openai_agents",
)
SIDES = (
    Side("tierpool", "_history_own", {"compress": True}),
    Side("tierpool, compress=False", "_history_own", {"compress": False}),
    Side(
        "OpenAI Agents plugin", "_history_agents_sdk", {"external": False}, _AGENTS_SDK
    ),
    Side(
        "the same, external storage",
        "_history_agents_sdk",
        {"external": True},
        _AGENTS_SDK,
    ),
)


@dataclass(frozen=True, slots=True)
class Bench:
    """What runs while the sides hold their conversations."""

    address: str
    """Of the Temporal server."""
    provider: str
    scratch: Path
    peer_cache: Path


@dataclass
class Said:
    """What a side's program said."""

    runs: list[Run] = field(default_factory=list)
    version: str = ""
    absent: str = ""
    """Why it said nothing, or not everything."""


async def run_side(
    bench: Bench, side: Side, cases: Sequence[Case], limit_s: float
) -> Said:
    """Let a side hold its conversations.

    Raises:
        RuntimeError: if a program of our own fails.
    """
    said = Said()
    try:
        program = sys.executable
        if side.peer is not None:
            program = await asyncio.to_thread(_environment, bench.peer_cache, side.peer)
        with tempfile.TemporaryDirectory(dir=bench.scratch) as folder:
            order = Order(
                address=bench.address,
                provider=bench.provider,
                folder=folder,
                cases=list(cases),
                limit_s=limit_s,
                options=dict(side.options),
            )
            await _run(program, side, order, said)
    except _Absent as why:
        if not side.is_peer:
            raise RuntimeError(f"{side.name}: {why}") from None
        said.absent = str(why)
    return said


async def _run(program: str, side: Side, order: Order, said: Said) -> None:
    log = Path(order.folder).parent / f"{Path(order.folder).name}.log"
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *(program, str(HERE / f"{side.program}.py"), json.dumps(asdict(order))),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            env=clean_env({"PYTHONPATH": "", "PYTHONWARNINGS": "ignore"}),
            start_new_session=True,
        )
    try:
        await _listen(process, order, said)
        status = await process.wait()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    if status or len(said.runs) < len(order.cases):
        lines = log.read_text(errors="replace").split("\n")
        words = next((line for line in reversed(lines) if line.strip()), "no message")
        raise _Absent(f"ended with status {status}: {words[:200]}")


async def _listen(
    process: asyncio.subprocess.Process, order: Order, said: Said
) -> None:
    """Read a line of JSON for each run, and perhaps one with a version."""
    assert process.stdout is not None
    while True:
        try:
            async with asyncio.timeout(_START_WITHIN_S + order.limit_s):
                line = await process.stdout.readline()
        except TimeoutError:
            raise _Absent("said nothing for too long") from None
        if not line:
            return
        try:
            found = json.loads(line)
        except ValueError:
            continue  # a log line of a library
        if "version" in found:
            said.version = found["version"]
        else:
            said.runs.append(run := Run(**found))
            print(
                f"  {run.turns} turns on {run.start_bytes // 1000} KB: {run.outcome}, "
                f"{run.bytes / 1e6:.2f} MB, {run.seconds:.1f} s",
                file=sys.stderr,
                flush=True,
            )
