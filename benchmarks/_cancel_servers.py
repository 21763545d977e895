"""The two Temporal servers of `cancel.py`: with worker commands, and without.

Both are configured as `tierpool dev` configures its server, but for the two
values that let the server push a cancel to a worker.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal, TypeAlias

from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.service import RPCError

from tierpool.devserver import embedded_server
from tierpool.devserver.program import find_program, serve_command
from tierpool.devserver.state import LOCALHOST, free_port

__all__ = ["MODES", "Mode", "serving"]

Mode: TypeAlias = Literal["worker_commands", "heartbeats"]
MODES: tuple[Mode, ...] = ("worker_commands", "heartbeats")

PUSH = ("frontend.WorkerCommandsEnabled", "system.enableCancelActivityWorkerCommand")
READY_WITHIN_S = 30


@asynccontextmanager
async def serving(mode: Mode, folder: Path) -> AsyncIterator[str]:
    """Run a server of this mode until the block ends; yield its address.

    Raises:
        RuntimeError: if the server does not start, or is not of this mode.
    """
    async with contextlib.AsyncExitStack() as stack:
        if mode == "worker_commands":
            embedded = embedded_server(folder, ui=False)
            address = (await stack.enter_async_context(embedded)).address
        else:
            address = await stack.enter_async_context(_without_push(folder))
        pushes = await _has_worker_commands(address)
        if pushes is not (mode == "worker_commands"):
            raise RuntimeError(f"{mode}: the server says worker_commands={pushes}")
        yield address


def without_push(command: Sequence[str]) -> list[str]:
    """Return the server's command line without the values that enable the push."""
    kept: list[str] = []
    for part in command:
        if part.partition("=")[0] in PUSH:
            kept.pop()  # --dynamic-config-value
        else:
            kept.append(part)
    if len(command) - len(kept) != 2 * len(PUSH):
        raise RuntimeError(f"the command has not exactly one of each of {PUSH}")
    return kept


@asynccontextmanager
async def _without_push(folder: Path) -> AsyncIterator[str]:
    address = f"{LOCALHOST}:{free_port()}"
    command = without_push(
        serve_command(
            await asyncio.to_thread(find_program),
            folder / "temporal.db",
            namespace="default",
            port=int(address.rpartition(":")[2]),
            ui_port=None,
        )
    )
    with (folder / "server.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        async with asyncio.timeout(READY_WITHIN_S):
            while not await _answers(address):
                if process.returncode is not None:
                    text = (folder / "server.log").read_text(errors="replace")
                    raise RuntimeError(f"the server ended: {text[-2000:]}")
                await asyncio.sleep(0.1)
        yield address
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _answers(address: str) -> bool:
    try:
        await _has_worker_commands(address)
    except (RuntimeError, RPCError):  # not connected; not yet ready
        return False
    return True


async def _has_worker_commands(address: str) -> bool:
    client = await Client.connect(address)
    described = await client.workflow_service.describe_namespace(
        DescribeNamespaceRequest(namespace="default")
    )
    return described.namespace_info.capabilities.worker_commands
