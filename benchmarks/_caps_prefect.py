"""Prefect in `caps.py`: a global concurrency limit of its own server, on SQLite.

Runs in an environment of its own. Callers are spread over the processes; each takes
a slot of the limit for each of its calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import socket
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from _caps_load import Order, ask_async, drive, ready

order = Order.read(sys.argv[1])
os.environ |= {
    "PREFECT_HOME": str(Path(order.folder) / "prefect"),
    "PREFECT_API_URL": order.extra,
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_LOGGING_LEVEL": "ERROR",
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
}

from prefect.client.orchestration import get_client  # noqa: E402 - reads them
from prefect.client.schemas.actions import (  # noqa: E402
    GlobalConcurrencyLimitCreate,
)
from prefect.concurrency.asyncio import concurrency  # noqa: E402

LIMIT = "clerk"
READY_WITHIN_S = 120


async def work() -> None:
    """Be one of the processes with callers."""
    ready()
    mine = order.waiting // order.processes
    first = (1000 * order.number + os.getpid()) * 100_000
    numbers = itertools.count(first)

    async def caller() -> None:
        while True:
            with contextlib.suppress(OSError):
                async with concurrency(LIMIT, occupy=1):
                    await ask_async(order.base_url, f"part {next(numbers)}")

    await asyncio.gather(*(caller() for _ in range(mine)))


SERVER = """
import sys, threading, uvicorn
from _caps_load import end_with_input
threading.Thread(target=end_with_input, daemon=True).start()
uvicorn.run(
    "prefect.server.api.server:create_app",
    factory=True, host="127.0.0.1", port=int(sys.argv[1]), log_level="error",
)
"""


async def serve() -> None:
    """Run Prefect's server, and the processes beside it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    os.environ["PREFECT_API_URL"] = url
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SERVER, str(port)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )
    async with asyncio.timeout(READY_WITHIN_S):
        while not await made():
            if process.returncode is not None:
                raise RuntimeError("Prefect's server ended")
            await asyncio.sleep(0.5)
    await drive(replace(order, extra=url), __file__)
    process.kill()
    await process.wait()


async def made() -> bool:
    """Make the limit; False while the server does not answer."""
    try:
        async with get_client() as client:
            await client.create_global_concurrency_limit(
                GlobalConcurrencyLimitCreate(name=LIMIT, limit=order.cap, active=True)
            )
    except Exception:  # noqa: BLE001 - whatever it is, the server is not there yet
        return False
    return True


if __name__ == "__main__":
    if order.number:
        asyncio.run(work())
    asyncio.run(serve())
    print(json.dumps({"version": version("prefect")}), flush=True)
    os._exit(0)
