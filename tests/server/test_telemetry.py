"""What real workers export, against what dashboards and alert rules ask for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from urllib.request import urlopen
from uuid import uuid4

import pytest
from prometheus_client.parser import text_string_to_metric_families
from temporalio.testing import WorkflowEnvironment
from tests.expressions import asked, expressions

from tierpool import load_fleet, telemetry
from tierpool.contracts import Usage
from tierpool.fleet import LoadedFleet
from tierpool.testing import RateLimited, Reply, ScriptedProvider

from .conftest import Running, plugged
from .worker_process import tierpool_process

FLEET = """
version: 1
fleet: FLEET_NAME
max_concurrent: 2
guardrails:
  max_cost_per_hour_usd: 1.00
  max_cost_per_workflow_usd: 2.00
  alert_threshold_usd: 0.50
  on_exhausted: fail
tiers:
  nano:
    model: openai:small
    base_url: BASE_URL/v1
    price: {input_usd_per_mtok: 1, output_usd_per_mtok: 2}
    pool: {max_instances: 4}
    rate_limit: {requests_per_minute: 1000, tokens_per_minute: 1000000}
  standard:
    model: anthropic:middle
    base_url: BASE_URL
    price: {input_usd_per_mtok: 10, output_usd_per_mtok: 20}
    pool: {max_instances: 4}
    fallback:
      - model: openai:spare
        base_url: BASE_URL/v1
        price: {input_usd_per_mtok: 10, output_usd_per_mtok: 20}
  premium:
    model: openai:large
    base_url: BASE_URL/v1
    price: {input_usd_per_mtok: 1000, output_usd_per_mtok: 2000}
    pool: {max_instances: 2}
agents:
  clerk: {prompt: "Work.\\n", tier: {min: nano, max: standard}, output: {ok: boolean}}
  judge: {prompt: "Judge.\\n", tier: standard}
  sage: {prompt: "Think.\\n", tier: premium}
flows:
  work:
    initial: incoming
    transitions:
      "incoming -> done": {agent: clerk}
  judged:
    initial: incoming
    transitions:
      "incoming -> done": {agent: judge}
  deep:
    initial: incoming
    transitions:
      "incoming -> done": {agent: sage}
"""
SIMPLE = "Translate to German: good morning."
USAGE = Usage(input_tokens=120, output_tokens=30)
ALL = ("--flows", "--control", "--pool", "nano", "standard", "premium")

Samples = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


def read(url: str) -> str:
    with urlopen(f"{url}/metrics", timeout=10) as response:
        return str(response.read().decode())


async def read_until(url: str, metric: str) -> str:
    """Read a process's metrics once this one has a value."""
    for _ in range(100):
        text = await asyncio.to_thread(read, url)
        if f"\n{metric}{{" in text:
            return text
        await asyncio.sleep(0.2)
    raise AssertionError(f"{metric} has no value: {text}")


def samples(text: str) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def total(found: Samples, name: str, **labels: str) -> float:
    """Sum what has these labels."""
    wanted = labels.items()
    return sum(v for (n, has), v in found.items() if n == name and wanted <= has)


@asynccontextmanager
async def processes(
    server: WorkflowEnvironment, fleet: LoadedFleet
) -> AsyncIterator[list[str]]:
    """Run a worker and an autoscaler; yields where they listen."""
    address = server.client.service_client.config.target_host
    port = ("--http", "127.0.0.1:0")
    scale = ("--advise", "--every", "1")
    async with (
        tierpool_process("worker", address, fleet, *ALL, *port) as worker,
        tierpool_process("autoscale", address, fleet, *scale, *port, "-v") as scaler,
    ):
        await worker.logged("worker.started")
        listens = [await worker.logged("worker.listens")]
        listens.append(await scaler.logged("autoscaler.listens"))
        yield [line["url"] for line in listens]


async def worked(fleet: Running) -> None:
    """Let calls be answered, refused, repaired, escalated, failed over and denied."""
    script = fleet.provider
    script.script(Reply("no", usage=USAGE), Reply("no", usage=USAGE))
    script.default(Reply('{"ok": true}', usage=USAGE))
    await fleet.run("work", SIMPLE)
    script.script(RateLimited(), RateLimited())
    await fleet.run("judged")
    # the hour has 1 USD, a workflow 2: the output is cut down to what costs 2
    assert "failed" == (await fleet.run("deep")).state
    # its input alone is above that
    assert "failed" == (await fleet.run("deep", "x" * 10_000)).state
    await asyncio.gather(*(fleet.run("work", SIMPLE) for _ in range(3)))


@pytest.fixture(scope="module")
async def scraped(
    server: WorkflowEnvironment, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[str]:
    """Everything that a fleet at work exports."""
    path = tmp_path_factory.mktemp("telemetry") / "agents.yaml"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", "sk-test-0123456789abcdef")
        patch.setenv("ANTHROPIC_API_KEY", "sk-ant-test-0123456789abcdef")
        async with ScriptedProvider() as provider:
            text = FLEET.replace("BASE_URL", provider.base_url)
            path.write_text(text.replace("FLEET_NAME", f"t{uuid4().hex[:8]}"))
            fleet = load_fleet(path)
            client = plugged(server.client, fleet)
            async with processes(server, fleet) as urls:
                await worked(Running(fleet, client, provider))
                worker, scaler = urls
                decided = await read_until(scaler, telemetry.METRIC_DESIRED)
                yield await asyncio.to_thread(read, worker) + decided


async def test_every_metric_of_a_panel_or_rule_is_exported(scraped: str) -> None:
    """With the labels that the expression uses, by a worker that has worked."""
    labels: dict[str, set[str]] = {}
    for name, has in samples(scraped):
        labels.setdefault(name, set()).update(key for key, _ in has)

    missing = [
        one
        for expression in expressions()
        for one in asked(*expression)
        if one.metric != "up"  # of Prometheus
        if not one.labels <= labels.get(one.metric, set()) or one.metric not in labels
    ]

    assert [] == missing


async def test_model_calls_and_routes_are_counted(scraped: str) -> None:
    """By provider, model, tier, outcome and reason; nothing of an item is a label."""
    found = samples(scraped)
    calls = f"{telemetry.METRIC_GENAI_DURATION}_count"
    routes = telemetry.METRIC_ROUTED_CALLS

    small = {"gen_ai_provider_name": "openai", "gen_ai_request_model": "small"}
    assert 5 == total(found, calls, **small, tier="nano", outcome="billed")
    assert 2 == total(
        found, calls, gen_ai_provider_name="anthropic", outcome="unbilled"
    )
    assert 1 == total(found, routes, reason="escalated", tier="standard")
    assert 1 == total(found, routes, reason="failover", model="openai:spare")
    assert 1 == total(found, routes, reason="fixed", role="judge")
    assert 4 == total(found, routes, reason="classified", role="clerk")
    assert 1 == total(
        found, telemetry.METRIC_DENIED_CALLS, limit="max_cost_per_workflow_usd"
    )
    labels = {key for _, has in found for key, _ in has}
    assert {"workflow_id", "run_id", "item"} & labels == set()
    assert "item-" not in scraped


async def test_tokens_stand_in_the_buckets_of_the_conventions(scraped: str) -> None:
    """120 tokens of input are above 64 and not above 256."""
    found = samples(scraped)
    name, nano = telemetry.METRIC_GENAI_TOKENS, {"tier": "nano"}
    kind = {"gen_ai_token_type": "input"}

    calls = total(found, f"{name}_count", **nano, **kind)
    assert 5 == calls == total(found, f"{name}_bucket", **nano, **kind, le="256")
    assert 0 == total(found, f"{name}_bucket", **nano, **kind, le="64")
    assert 5 * 120 == total(found, f"{name}_sum", **nano, **kind)
    assert 5 == total(
        found, f"{telemetry.METRIC_GENAI_DURATION}_bucket", **nano, le="81.92"
    )
