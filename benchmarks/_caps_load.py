"""The load of `caps.py` as its peers make it: processes that make capped calls.

Runs in the environments of the peers too, so it needs nothing but the standard
library. Process 0 starts the others, kills one now and then, and starts it again.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
import urllib.request
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace

__all__ = ["PROMPT", "Order", "ask", "ask_async", "drive", "end_with_input", "ready"]

PROMPT = "role: clerk. Say in a few words what is to be done."
CALL_WITHIN_S = 30
_threads = ThreadPoolExecutor(128)


@dataclass(frozen=True)
class Order:
    """What a peer is told; comes as JSON in the first argument."""

    base_url: str
    address: str
    """Of the Temporal server."""
    folder: str
    processes: int
    cap: int
    """Calls at a time, over all processes."""
    waiting: int
    """Callers in all, of which `cap` may be served."""
    seconds: float
    kill_every_s: float = 0.0
    """0: nothing is killed."""
    number: int = 0
    """Of this process, from 1."""
    extra: str = ""
    """Between the processes of one peer."""

    @staticmethod
    def read(text: str) -> Order:
        """Read the argument."""
        return Order(**json.loads(text))

    def as_json(self) -> str:
        """Write the argument."""
        return json.dumps(asdict(self))


def ask(base_url: str, label: str) -> str:
    """Make one call."""
    body = {
        "model": "scripted",
        "max_tokens": 64,
        "messages": [
            {"role": "system", "content": PROMPT},
            {"role": "user", "content": label},
        ],
    }
    request = urllib.request.Request(
        f"{base_url}/v1/chat/completions",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=CALL_WITHIN_S) as answer:
        said = json.load(answer)
    return str(said["choices"][0]["message"]["content"])


async def ask_async(base_url: str, label: str) -> str:
    """Make one call without blocking the loop."""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_threads, ask, base_url, label)


def ready() -> None:
    """Tell process 0 that this one works, and end when that is gone."""
    threading.Thread(target=end_with_input, daemon=True).start()
    print("ready", flush=True)


def end_with_input() -> None:
    """End the process when whoever started it has ended."""
    sys.stdin.buffer.read()
    os._exit(0)


async def drive(
    order: Order, program: str, load: Callable[[], Awaitable[None]] | None = None
) -> None:
    """Be process 0: start the others, kill them as told, stop when the time is over.

    Args:
        order: What was told.
        program: The peer's own file.
        load: Gives out the load once the processes are there; ends by being cancelled.
    """
    running = [await _start(order, program, n) for n in range(1, order.processes + 1)]
    end = time.monotonic() + order.seconds
    giving = None if load is None else asyncio.ensure_future(load())
    turn = 0
    while (left := end - time.monotonic()) > 0:
        if giving is not None and giving.done():
            giving.result()
            giving = None
        if not order.kill_every_s or left < order.kill_every_s:
            await asyncio.sleep(min(left, 0.5))
            continue
        await asyncio.sleep(order.kill_every_s)
        running[turn].kill()
        await running[turn].wait()
        running[turn] = await _start(order, program, turn + 1)
        turn = (turn + 1) % order.processes
    if giving is not None:
        giving.cancel()
    for process in running:
        process.kill()
        await process.wait()


async def _start(order: Order, program: str, number: int) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, program, replace(order, number=number).as_json()),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    while line := await process.stdout.readline():
        if line.strip() == b"ready":
            return process
    raise RuntimeError(f"process {number} did not get ready")
