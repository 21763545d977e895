"""A real Temporal server, a scripted provider over real HTTP, a fleet's workers."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from tierpool import TierpoolPlugin, flow_result, load_fleet, start_flow
from tierpool.client import ItemHandle, pools_of
from tierpool.contracts import FlowResult
from tierpool.fleet import LoadedFleet
from tierpool.pools.instances import Pool
from tierpool.testing import ScriptedProvider, dev_server, time_skipping_server
from tierpool.worker import Served, run_workers

from .commands import Commands, Ran, commands

FLEET = """
version: 1
fleet: FLEET_NAME
tiers:
  nano:
    model: openai:small
    base_url: BASE_URL/v1
    price: {input_usd_per_mtok: 1, output_usd_per_mtok: 2}
    pool: {max_instances: 4}
  standard:
    model: anthropic:middle
    base_url: BASE_URL
    price: {input_usd_per_mtok: 10, output_usd_per_mtok: 20}
    pool: {max_instances: 4}
  premium:
    model: openai:large
    base_url: BASE_URL/v1
    price: {input_usd_per_mtok: 100, output_usd_per_mtok: 200}
    pool: {max_instances: 2}
"""


REVIEW = """
agents:
  reviewer: {prompt: "Review.\\n", tier: nano}
flows:
  review:
    initial: incoming
    transitions:
      "incoming -> done": {agent: reviewer}
"""
"""One call of one role on the tier nano; for a file's `base`."""


@pytest.fixture(scope="session")
async def server() -> AsyncIterator[WorkflowEnvironment]:
    async with dev_server() as environment:
        yield environment


@pytest.fixture(scope="session")
async def skipping() -> AsyncIterator[WorkflowEnvironment]:
    async with time_skipping_server() as environment:
        yield environment


@pytest.fixture
async def provider() -> AsyncIterator[ScriptedProvider]:
    async with ScriptedProvider() as scripted:
        yield scripted


@dataclass
class Running:
    """A fleet with its workers, and short ways to use it."""

    fleet: LoadedFleet
    client: Client
    provider: ScriptedProvider
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def start(self, flow: str, item: Any = "text", **more: Any) -> ItemHandle:
        more.setdefault("id", f"item-{uuid4().hex[:8]}")
        return await start_flow(self.client, flow, item, **more)

    async def run(self, flow: str, item: Any = "text", **more: Any) -> FlowResult:
        return await flow_result(await self.start(flow, item, **more))

    @asynccontextmanager
    async def worker(self, *workflows: type, **more: Any) -> AsyncIterator[str]:
        """Run a user's own worker with these workflows; yields its task queue."""
        queue = f"own-{uuid4().hex[:8]}"
        async with Worker(self.client, task_queue=queue, workflows=workflows, **more):
            yield queue


def nano(fleet: Running) -> Pool[Any]:
    """Return the pool of the tier nano in this process."""
    return pools_of(fleet.client)["nano"]


Start = Callable[..., Awaitable[Running]]
Connect = Callable[[Client, LoadedFleet], Client]


def client_of(base: Client, *plugins: Any, **options: Any) -> Client:
    """Make a client of the same server, with these plugins and options."""
    config: Any = base.config()
    return Client(**(config | options | {"plugins": list(plugins)}))


def plugged(base: Client, fleet: LoadedFleet) -> Client:
    return client_of(base, TierpoolPlugin(fleet))


@pytest.fixture
async def running(
    server: WorkflowEnvironment,
    provider: ScriptedProvider,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Start]:
    """Start a fleet from the YAML of its agents and flows; its workers end with the test."""
    async with AsyncExitStack() as stack:

        async def start(
            yaml: str,
            *,
            base: str = FLEET,
            environment: WorkflowEnvironment = server,
            served: Served | None = None,
            connect: Connect = plugged,
            **files: str,
        ) -> Running:
            monkeypatch.setenv("OPENAI_API_KEY", "sk-test-0123456789abcdef")
            monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-test-0123456789abcdef")
            text = (base + yaml).replace("BASE_URL", provider.base_url)
            text = text.replace("FLEET_NAME", f"t{uuid4().hex[:8]}")
            for name, content in files.items():
                (tmp_path / name.replace("__", ".")).write_text(content)
            path = tmp_path / "agents.yaml"
            path.write_text(text)
            fleet = load_fleet(path)
            client = connect(environment.client, fleet)
            await stack.enter_async_context(working(client, fleet, served))
            return Running(fleet, client, provider)

        yield start


@asynccontextmanager
async def working(
    client: Client, fleet: LoadedFleet, served: Served | None = None
) -> AsyncIterator[None]:
    """Run workers of the fleet, all by default, for as long as the block lasts."""
    parts = served or Served.everything(fleet)
    stop, ready = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(
        run_workers(client, parts, stop, on_ready=lambda _: ready.set())
    )
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
    try:
        if task.done():
            task.result()
        yield
    finally:
        stop.set()
        await task


@pytest.fixture
def soon_looked_after(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the claims look and show more often; the time of grace stays."""
    monkeypatch.setattr("tierpool.workflows.claims._LOOK", 0.5)
    monkeypatch.setattr("tierpool.workflows.claims._HEARD", 1.0)
    monkeypatch.setattr("tierpool.workflows.claims._SHOWN_AGAIN", 0.5)


Command = Callable[..., Awaitable[Ran]]


@pytest.fixture(scope="session")
async def forking() -> AsyncIterator[Commands]:
    async with commands() as made:
        yield made


@pytest.fixture
async def tierpool(
    server: WorkflowEnvironment, tmp_path: Path, forking: Commands
) -> Command:
    """Run the command in the fleet's folder, against the test's server."""
    address = server.client.service_client.config.target_host

    async def run(*args: str, stdin: str = "", fresh: bool = False, **env: str) -> Ran:
        """Run it; `fresh`: with an interpreter of its own."""
        env = {**os.environ, "TEMPORAL_ADDRESS": address, **env}
        if not fresh:
            return await forking.run(args, tmp_path, env, stdin)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tierpool", *args,
            cwd=tmp_path,
            env=env,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate(stdin.encode())
        return Ran(process.returncode or 0, out.decode(), err.decode())

    return run
