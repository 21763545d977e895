"""`tierpool dev` with the small local model: the whole product in one command."""

import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

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
async def dev(folder: Path, end: signal.Signals = signal.SIGTERM) -> AsyncIterator[Any]:
    """Run `tierpool dev` until it is ready; end it with a signal."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tierpool", "dev", "--json",
        cwd=folder, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        yield json.loads(await asyncio.wait_for(process.stdout.readline(), 60))
    finally:
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
