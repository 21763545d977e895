"""How a peer's program of `rate_limits.py` and `caps.py` is installed and run."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, Protocol

from _peers import Peer, _Absent, _environment
from _processes import clean_env

__all__ = ["Absent", "run_peer"]

HERE = Path(__file__).parent
MORE_S = 90
"""Time beyond the load's own, for starts and ends."""

Absent = _Absent


class _Ordered(Protocol):
    folder: str
    seconds: float

    def as_json(self) -> str: ...


async def run_peer(peer: Peer, order: _Ordered, cache: Path) -> Any:
    """Let a peer make its load; return what its last line says.

    Raises:
        Absent: if it cannot be installed, or fails.
    """
    program = await asyncio.to_thread(_environment, cache, peer)
    log = Path(order.folder) / "peer.log"
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *(program, str(HERE / f"{peer.program}.py"), order.as_json()),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            env=clean_env({"PYTHONPATH": "", "PYTHONWARNINGS": "ignore"}),
            cwd=order.folder,
            start_new_session=True,
        )
    try:
        within_s = order.seconds + MORE_S
        out, _ = await asyncio.wait_for(process.communicate(), within_s)
    except TimeoutError:
        raise Absent(f"did not end within {within_s:.0f} s") from None
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    try:
        return json.loads(out.splitlines()[-1])
    except (IndexError, ValueError):
        lines = [
            one for one in log.read_text(errors="replace").split("\n") if one.strip()
        ]
        why = lines[-1][:200] if lines else "no message"
        raise Absent(f"failed with status {process.returncode}: {why}") from None
