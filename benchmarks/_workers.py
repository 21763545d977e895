"""The worker process of one variant: a workflow worker and a worker for the calls.

Prints one JSON line when its workers poll; drains on SIGTERM.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from _bare import CALLS_QUEUE, BareActivities, BareWorkflow
from _load import VARIANTS, Variant
from _own import OwnWorkflow
from _sandbox import sandbox
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Worker, WorkerTuner

from tierpool import TierpoolPlugin, load_fleet
from tierpool.activities.providers.clients import AgentClient
from tierpool.client import gates_of
from tierpool.logs import configure_logs
from tierpool.pools.instances import Instance, Pool
from tierpool.worker import Served, run_workers, stop_on_signals

GRACE = timedelta(seconds=2)
SLOTS = 200
"""Activity slots, as many as the fleets' pools have."""
BUILD_ID = "benchmark"
"""Given, because working one out costs the first worker 0.4 s."""


def ready() -> None:
    """Tell the driver."""
    print(json.dumps({"ready": True, "pid": os.getpid()}), flush=True)


@asynccontextmanager
async def bare_workers(address: str, provider: str) -> AsyncIterator[None]:
    """Run the baseline's two workers."""
    client = await Client.connect(address, data_converter=pydantic_data_converter)
    flows = Worker(
        client,
        task_queue=VARIANTS[0].queue,
        workflows=[BareWorkflow],
        workflow_runner=sandbox("_bare", "_own", "_load"),
        build_id=BUILD_ID,
        graceful_shutdown_timeout=GRACE,
    )
    calls = Worker(
        client,
        task_queue=CALLS_QUEUE,
        activities=[BareActivities(provider).complete],
        max_concurrent_activities=SLOTS,
        build_id=BUILD_ID,
        graceful_shutdown_timeout=GRACE,
    )
    async with flows, calls:
        yield


async def serve_bare(args: argparse.Namespace, stop: asyncio.Event) -> None:
    """Serve the baseline until told to stop."""
    async with bare_workers(args.address, args.provider):
        ready()
        await stop.wait()


async def serve_fleet(
    args: argparse.Namespace, variant: Variant | None, stop: asyncio.Event
) -> None:
    """Serve a fleet's pools, with its flows or a user's workflows if asked for."""
    fleet = load_fleet(args.fleet)
    client = await Client.connect(args.address, plugins=[TierpoolPlugin(fleet)])
    if variant is not None and not variant.pooled:
        async with unpooled_workers(client, variant), own_worker(client, variant):
            ready()
            await stop.wait()
        return
    if args.what == "control":
        await run_workers(
            client, Served(control=True), stop, grace=GRACE, on_ready=lambda _: ready()
        )
        return
    flows = variant is not None and variant.kind == "flow"
    pools = variant.tiers if variant else tuple(fleet.fleet.tiers)
    running = run_workers(
        client,
        Served(flows=flows, pools=pools),
        stop,
        grace=GRACE,
        on_ready=lambda _: ready(),
    )
    if variant is None or flows:
        await running
        return
    async with own_worker(client, variant):
        await running


def own_worker(client: Client, variant: Variant) -> Worker:
    """Make the worker of a user's own workflow."""
    return Worker(
        client,
        task_queue=variant.queue,
        workflows=[OwnWorkflow],
        workflow_runner=sandbox("_bare", "_own", "_load"),
        build_id=BUILD_ID,
        graceful_shutdown_timeout=GRACE,
    )


class OneForAll(Pool[AgentClient]):
    """Lends the same client to every call, as if there were no pool."""

    @asynccontextmanager
    async def lend(self) -> AsyncIterator[Instance[AgentClient]]:
        """Lend it."""
        yield self.shared

    def __post_init__(self) -> None:
        """Make the client."""
        super().__post_init__()
        self.shared = Instance(AgentClient())


@asynccontextmanager
async def unpooled_workers(client: Client, variant: Variant) -> AsyncIterator[None]:
    """Run a tier's worker with Temporal's own slots."""
    (tier,) = variant.tiers
    gate = gates_of(client)[tier]
    gate.pool = OneForAll(tier, gate.pool.spec, gate.pool.build)
    async with Worker(
        client,
        task_queue=f"{variant.fleet}-{tier}",
        tuner=WorkerTuner.create_fixed(activity_slots=SLOTS),
        build_id=BUILD_ID,
        graceful_shutdown_timeout=GRACE,
    ):
        yield


async def main() -> None:
    """Serve what the command line names."""
    parser = argparse.ArgumentParser(prog="benchmarks/_workers.py")
    parser.add_argument(
        "what", choices=["pools", "control", *(v.name for v in VARIANTS)]
    )
    parser.add_argument("--address", required=True, help="the Temporal server's")
    parser.add_argument("--provider", default="", help="base URL; for the baseline")
    parser.add_argument("--fleet", default="", help="fleet file; for the others")
    args = parser.parse_args()
    configure_logs()  # as `tierpool worker` does
    stop = asyncio.Event()
    variant = {v.name: v for v in VARIANTS}.get(args.what)
    with stop_on_signals(stop, GRACE):
        if variant is not None and variant.kind == "bare":
            await serve_bare(args, stop)
        else:
            await serve_fleet(args, variant, stop)


if __name__ == "__main__":
    asyncio.run(main())
    sys.stdout.flush()
    os._exit(0)  # the SDK's threads can abort an ordinary exit
