"""The containers of the manifests, run as processes against a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from temporalio.testing import WorkflowEnvironment
from tests.unit.manifests.cluster import Object, container, of_kind, pod_view, resolved

from tierpool.cli.manifests import _rendered
from tierpool.config import load_fleet
from tierpool.manifests import Settings
from tierpool.telemetry import METRIC_DESIRED

from .worker_process import WorkerProcess, fetched, process_of

FLEET = """\
version: 1
fleet: pods
tiers:
  nano:
    model: local:none
    price: {input_usd_per_mtok: 1, output_usd_per_mtok: 1}
    pool: {max_instances: 2, scaling: {min_workers: 1, max_workers: 3}}
agents:
  writer: {prompt: prompts/writer.md}
flows:
  f: {initial: a, transitions: {"a -> b": {agent: writer}}}
"""


@asynccontextmanager
async def started(
    objects: list[Object], name: str, root: Path
) -> AsyncIterator[WorkerProcess]:
    """Run a Deployment's container with its arguments, variables and volumes only.

    Its folder of the fleet is the pod's, and its port a free one.
    """
    deployment = of_kind(objects, "Deployment")[name]
    inside, maps = container(deployment), of_kind(objects, "ConfigMap")
    home = str(pod_view(root / name, objects, deployment) / "etc" / "tierpool")
    args = [
        arg.replace("/etc/tierpool", home).replace("0.0.0.0:8080", "127.0.0.1:0")
        for arg in inside["args"]
    ]
    env = {v["name"]: v["value"] for v in inside["env"] if "value" in v}
    for source in inside["envFrom"]:
        if "configMapRef" in source:
            env |= maps[source["configMapRef"]["name"]]["data"]
    async with process_of((*args, "--verbose"), env) as process:
        yield process


async def _desired(url: str) -> dict[str, float]:
    """Wait for the metric that HPA and KEDA scale by; return its value by pool."""
    async with asyncio.timeout(60):
        while True:
            families = text_string_to_metric_families(await fetched(f"{url}/metrics"))
            samples = [s for f in families for s in f.samples]
            found = {
                s.labels["pool"]: s.value
                for s in samples
                if s.name == METRIC_DESIRED and s.labels["fleet"] == "pods"
            }
            if found:
                return found
            await asyncio.sleep(0.1)


async def test_pods_get_ready_keep_a_journal_and_serve_the_metric(
    server: WorkflowEnvironment, tmp_path: Path
) -> None:
    """As rendered, every process starts, is ready, scales by the metric and drains."""
    home = tmp_path / "fleet"
    (home / "prompts").mkdir(parents=True)
    (home / "prompts" / "writer.md").write_text("Write.\n")
    (home / "agents.yaml").write_text(FLEET)
    settings = Settings(
        image="x:1",
        temporal_address=server.client.service_client.config.target_host,
        temporal_namespace=server.client.namespace,
    )
    made = _rendered(load_fleet(home / "agents.yaml"), settings)
    objects = resolved(made.files, "overlays/keda")
    workers = ["pods-control", "pods-flows", "pods-nano"]

    async with AsyncExitStack() as stack:
        running = {
            name: await stack.enter_async_context(started(objects, name, tmp_path))
            for name in [*workers, "pods-autoscaler"]
        }
        for name in workers:
            await running[name].logged("worker.started")
            url = (await running[name].logged("worker.listens"))["url"]
            await fetched(f"{url}/ready")  # an error unless it is 200
        url = (await running["pods-autoscaler"].logged("autoscaler.listens"))["url"]
        desired = await _desired(url)
        journals = list((tmp_path / "pods-nano" / "volumes" / "state").rglob("*.lease"))
        for one in running.values():
            one.process.terminate()
        ended = {name: await one.ended() for name, one in running.items()}

    assert {"nano": 2.0} == desired
    assert 1 == len(journals)
    assert dict.fromkeys(running, 0) == ended
    assert "lease.no_journal" not in "".join(running["pods-nano"].output)
