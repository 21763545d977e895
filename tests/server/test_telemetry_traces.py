"""Traces of worker processes, taken by a collector on this machine."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import WorkflowHistory
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Replayer
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner
from tests.histories.record import FOLDER

from tierpool import TierpoolPlugin
from tierpool.client import ItemHandle, flow_result
from tierpool.contracts import Usage
from tierpool.testing import RateLimited, Reply
from tierpool.worker import Served

from .collector import Collector
from .conftest import Command, Running, Start, working
from .test_replay import ANOTHER_FLEET
from .worker_process import worker_process

ROLES = """
max_concurrent: 4
agents:
  clerk: {prompt: "SECRET-PROMPT\\n", tier: nano, output: {note: string}}
flows:
  work:
    initial: incoming
    transitions:
      "incoming -> done": {agent: clerk}
"""
USAGE = Usage(
    input_tokens=120, cached_input_tokens=20, output_tokens=30, reasoning_tokens=7
)
TOOLS = Served(tools=True)
"""Everything else runs in processes."""


@asynccontextmanager
async def traced(
    server: WorkflowEnvironment, fleet: Running, collector: Collector, **more: str
) -> AsyncIterator[None]:
    """Run the fleet in two processes that send their traces; ends when all are sent."""
    address = server.client.service_client.config.target_host
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, **more}
    async with AsyncExitStack() as stack:
        workers = [
            await stack.enter_async_context(
                worker_process(address, fleet.fleet, *parts, "--http", "off", **env)
            )
            for parts in (("--flows", "--control"), ("--pool", "nano"))
        ]
        for worker in workers:
            await worker.logged("worker.started")
        yield
        for worker in reversed(workers):
            worker.process.send_signal(signal.SIGTERM)
            assert 0 == await worker.ended()


async def events(handle: ItemHandle) -> list[Any]:
    history = await handle.fetch_history()
    return list(json.loads(history.to_json())["events"])


def kinds(history: list[Any]) -> list[str]:
    """Return what happened, without the turns of workflow tasks, which vary."""
    return [e["eventType"] for e in history if "WORKFLOW_TASK" not in e["eventType"]]


def headers(document: Any) -> set[str]:
    """Return the names of all headers in a history."""
    if isinstance(document, list):
        return {name for one in document for name in headers(one)}
    if not isinstance(document, dict):
        return set()
    own = set(document.get("header", {}).get("fields", {}))
    return own.union(*(headers(one) for one in document.values()))


async def test_a_trace_leads_from_the_item_to_the_model_call(
    running: Start, server: WorkflowEnvironment
) -> None:
    """Over two processes; with the conventions' attributes, and no word of a text."""
    fleet = await running(ROLES, served=TOOLS)
    fleet.provider.script(
        RateLimited(),
        Reply("SECRET-REPLY is no JSON", usage=USAGE),
        Reply('{"note": "SECRET-REPLY"}', usage=USAGE),
    )

    async with Collector() as collector, traced(server, fleet, collector):
        result = await fleet.run("work", "SECRET-ITEM", id="item-traced")
    refused, invalid, answered = collector.named("chat ")

    assert "done" == result.state
    assert {f"{fleet.fleet.name}/tierpool"} == {s.service for s in collector.spans}
    assert [
        "chat small",
        "RunActivity:clerk",
        "StartActivity:clerk",
        "RunWorkflow:work",
    ] == collector.path(answered)
    assert 1 == len({span.trace for span in (refused, invalid, answered)})
    assert {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "small",
        "gen_ai.output.type": "json",
        "gen_ai.agent.name": "clerk",
        "gen_ai.usage.input_tokens": 120,
        "gen_ai.usage.output_tokens": 30,
        "gen_ai.usage.cache_read.input_tokens": 20,
        "gen_ai.usage.reasoning.output_tokens": 7,
        "gen_ai.response.finish_reasons": ["stop"],
        "server.address": "127.0.0.1",
        "tierpool.tier": "nano",
        "tierpool.outcome": "billed",
        "tierpool.attempt": 3,
    }.items() <= answered.attributes.items()
    assert (True, "429") == (refused.failed, refused.attributes["error.type"])
    assert (False, "billed") == (invalid.failed, invalid.attributes["tierpool.outcome"])
    sent = b"".join(collector.bodies)
    assert b"item-traced" in sent
    assert [False] * 3 == [word in sent for word in (b"SECRET-", b"sk-test", b"fine")]


async def test_entities_and_queries_do_not_bury_the_items(
    running: Start, server: WorkflowEnvironment
) -> None:
    """Renewals, claims and looks of workers leave no spans: every trace is an item's."""
    fleet = await running(ROLES, served=TOOLS)
    fleet.provider.default(Reply('{"note": "fine"}', usage=USAGE))

    async with Collector() as collector, traced(server, fleet, collector):
        await fleet.run("work", "text", id="item-alone")
        await asyncio.sleep(3)  # an idle worker renews every second
    roots = [span for span in collector.spans if not span.parent]

    ids = {span.attributes.get("temporalWorkflowID") for span in collector.spans}
    assert {"item-alone", None} == ids
    assert ["RunWorkflow:work"] == [span.name for span in roots]
    assert [] == [s.name for s in collector.spans if "Query" in s.name]


async def test_traces_add_one_header_to_a_history_and_nothing_else(
    running: Start, server: WorkflowEnvironment
) -> None:
    """The same item, traced and not: the same events; and each replays without traces."""
    fleet = await running(ROLES, served=TOOLS)
    fleet.provider.default(Reply('{"note": "fine"}', usage=USAGE))
    rest = Served(flows=True, control=True, pools=("nano",))

    async with Collector() as collector, traced(server, fleet, collector):
        first = await fleet.start("work", "text")
        await flow_result(first)
    async with working(fleet.client, fleet.fleet, rest):
        second = await fleet.start("work", "text")
        await flow_result(second)
    with_traces, without = await events(first), await events(second)

    assert kinds(with_traces) == kinds(without)
    assert {"_tracer-data"} == headers(with_traces) - headers(without)
    replayer = Replayer(
        workflows=[],
        plugins=[TierpoolPlugin(fleet.fleet)],
        workflow_runner=SandboxedWorkflowRunner(),
    )
    history = WorkflowHistory.from_json(first.id, json.dumps({"events": with_traces}))
    await replayer.replay_workflow(history)


async def test_recorded_histories_replay_with_traces(tmp_path: Path) -> None:
    """What began before traces were switched on goes on after it."""
    path = tmp_path / "agents.yaml"
    path.write_text(ANOTHER_FLEET)
    async with Collector() as collector:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.server.traced_replay", str(path)),
            *map(str, sorted(FOLDER.glob("*.json"))),
            env=os.environ | {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()

    lines = [
        line for line in out.decode().splitlines() if "tracing.started" not in line
    ]
    assert (0, []) == (process.returncode, lines), err.decode()
    assert [] == collector.named("chat ")


@pytest.mark.parametrize(
    ("env", "status", "said"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"}, 2, "has to begin with http"),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
             "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            2,
            "OTEL_EXPORTER_OTLP_PROTOCOL='grpc' is not spoken here",
        ),
        (
            {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://u:hidden@", },
            2,
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is no address",
        ),
    ],
)  # fmt: skip
async def test_bad_settings_are_named(
    tmp_path: Path, tierpool: Command, env: dict[str, str], status: int, said: str
) -> None:
    """A worker whose traces cannot be sent says so before it begins."""
    (tmp_path / "agents.yaml").write_text(ANOTHER_FLEET)

    ran = await tierpool("worker", "--pool", "only", **env)

    assert status == ran.status
    assert said in ran.err
    assert "hidden" not in ran.err


async def test_without_the_packages_the_extra_is_named(
    tierpool: Command, tmp_path: Path
) -> None:
    """Traces that are asked for and cannot be made are an error, not a silence."""
    (tmp_path / "agents.yaml").write_text(ANOTHER_FLEET)
    shadow = tmp_path / "shadow" / "opentelemetry"
    shadow.mkdir(parents=True)
    (shadow / "__init__.py").write_text(
        "raise ImportError('gone', name='opentelemetry')\n"
    )
    env = {"PYTHONPATH": str(shadow.parent)}
    there = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}

    ran = await tierpool("worker", "--pool", "only", fresh=True, **env, **there)

    assert 2 == ran.status
    assert "pip install 'tierpool[otel]'" in ran.err


async def test_a_collector_that_is_gone_stops_no_worker(
    running: Start, server: WorkflowEnvironment
) -> None:
    """Items are worked on, and the worker ends, whether or not spans can be sent."""
    fleet = await running(ROLES, served=TOOLS)
    fleet.provider.default(Reply('{"note": "fine"}', usage=USAGE))

    async with Collector() as collector:
        pass
    async with traced(server, fleet, collector, OTEL_EXPORTER_OTLP_TIMEOUT="2"):
        result = await fleet.run("work")

    assert "done" == result.state
    assert [] == collector.spans
