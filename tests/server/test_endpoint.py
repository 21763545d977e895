"""The endpoint of a worker process next to a real SDK and a real server."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from urllib.request import urlopen
from uuid import uuid4

from prometheus_client.parser import text_string_to_metric_families
from temporalio import activity
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from tierpool.contracts.reports import PoolReport, WorkerReport
from tierpool.pools.endpoint import Listen, metrics_runtime, serve_endpoint

NOW = datetime(2026, 11, 2, 12, tzinfo=UTC)


@activity.defn
async def nothing() -> None:
    pass


def report() -> WorkerReport:
    pools = (PoolReport(pool="nano", calls=4),)
    return WorkerReport(id="w1", fleet="acme", started=NOW, at=NOW, pools=pools)


def read(url: str) -> str:
    with urlopen(f"{url}/metrics", timeout=10) as response:
        return str(response.read().decode())


async def test_metrics_of_a_worker_and_of_its_sdk_are_one_document(
    server: WorkflowEnvironment,
) -> None:
    runtime, sdk = metrics_runtime()
    address = server.client.service_client.config.target_host
    client = await Client.connect(address, runtime=runtime)
    worker = Worker(
        client, task_queue=f"endpoint-{uuid4().hex[:8]}", activities=[nothing]
    )
    async with worker, serve_endpoint(report, Listen(port=0), sdk_metrics=sdk) as url:
        text = await asyncio.to_thread(read, url)

    families = {one.name: one for one in text_string_to_metric_families(text)}
    assert 1 == text.count("# TYPE temporal_request_total counter\n")
    assert {
        "tierpool_pool_calls": "counter",
        "process_cpu_seconds": "counter",
        "temporal_request": "counter",
        "temporal_request_latency_seconds": "histogram",
        "temporal_worker_task_slots_available": "gauge",
    }.items() <= {name: family.type for name, family in families.items()}.items()
    announced = [line for line in text.splitlines() if line.startswith("# TYPE ")]
    assert len(announced) == len({line.split()[2] for line in announced})
