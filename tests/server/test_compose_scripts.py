"""The namespace script of the compose file, run against a real server."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.client import Client

from tierpool.devserver import embedded_server
from tierpool.devserver.program import find_program
from tierpool.telemetry import SEARCH_ATTRIBUTES

SCRIPT = Path(__file__).parents[2] / "deploy" / "temporal" / "init-namespace.sh"


async def run_script(address: str, folder: Path) -> tuple[int | None, str]:
    """Run the script as the one-shot service does; return its status and output."""
    program = Path(find_program().path)
    process = await asyncio.create_subprocess_exec(
        "sh",
        str(SCRIPT),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={
            "PATH": f"{program.parent}:{os.environ['PATH']}",
            "HOME": str(folder),
            "TEMPORAL_ADDRESS": address,
            "TEMPORAL_NAMESPACE": "acme",
        },
    )
    output, _ = await process.communicate()
    return process.returncode, output.decode()


async def test_namespace_script_can_run_twice(tmp_path: Path) -> None:
    """It makes the namespace with its search attributes, and then changes nothing."""
    async with embedded_server(tmp_path / "state", ui=False) as server:
        first = await run_script(server.address, tmp_path)
        second = await run_script(server.address, tmp_path)
        client = await Client.connect(server.address, namespace="acme")
        known = await client.operator_service.list_search_attributes(
            ListSearchAttributesRequest(namespace="acme")
        )

    assert first[0] == 0, first[1]
    assert second == (0, "namespace acme is ready\n")
    assert SEARCH_ATTRIBUTES.keys() <= known.custom_attributes.keys()
