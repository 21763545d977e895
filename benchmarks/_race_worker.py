"""A worker process of `budget_race.py`: the workflows, or the fleet's pool.

Prints one JSON line when its workers poll; drains on SIGTERM.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from datetime import timedelta

from _race_load import RaceWorkflow, own_queue
from _race_log import RaceInterceptor
from _sandbox import sandbox
from temporalio.client import Client
from temporalio.worker import Worker

from tierpool import TierpoolPlugin, load_fleet
from tierpool.logs import configure_logs
from tierpool.worker import Served, run_workers, stop_on_signals

GRACE = timedelta(seconds=2)


def ready() -> None:
    """Tell the driver."""
    print(json.dumps({"pid": os.getpid()}), flush=True)


async def serve_pool(client: Client, tiers: tuple[str, ...]) -> None:
    """Make agent calls until told to stop."""
    stop = asyncio.Event()
    with stop_on_signals(stop, GRACE):
        await run_workers(
            client,
            Served(pools=tiers),
            stop,
            grace=GRACE,
            on_ready=lambda _: ready(),
        )


async def serve_workflows(client: Client, fleet: str) -> None:
    """Run the workflows until told to stop."""
    stop = asyncio.Event()
    worker = Worker(
        client,
        task_queue=own_queue(fleet),
        workflows=[RaceWorkflow],
        interceptors=[RaceInterceptor()],
        workflow_runner=sandbox("_race_load", "_race_log"),
        build_id="benchmark",
        graceful_shutdown_timeout=GRACE,
    )
    with stop_on_signals(stop, GRACE):
        async with worker:
            ready()
            await stop.wait()


async def main() -> None:
    """Serve what the command line names."""
    parser = argparse.ArgumentParser(prog="benchmarks/_race_worker.py")
    parser.add_argument("what", choices=["pool", "workflows"])
    parser.add_argument("--address", required=True, help="the Temporal server's")
    parser.add_argument("--fleet", required=True, help="fleet file")
    args = parser.parse_args()
    configure_logs()  # as `tierpool worker` does
    fleet = load_fleet(args.fleet)
    client = await Client.connect(args.address, plugins=[TierpoolPlugin(fleet)])
    if args.what == "pool":
        await serve_pool(client, tuple(fleet.fleet.tiers))
    else:
        await serve_workflows(client, fleet.name)


if __name__ == "__main__":
    asyncio.run(main())
    sys.stdout.flush()
    os._exit(0)  # the SDK's threads can abort an ordinary exit
