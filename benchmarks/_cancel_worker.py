"""The worker process of `cancel.py`: flows, the pool, and a user's own workflow.

Prints one JSON line when its workers poll; drains on SIGTERM.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from datetime import timedelta

from _cancel_load import OWN_QUEUE, OwnWorkflow
from _sandbox import sandbox
from temporalio.client import Client
from temporalio.worker import Worker

from tierpool import TierpoolPlugin, load_fleet
from tierpool.logs import configure_logs
from tierpool.worker import Served, run_workers, stop_on_signals

GRACE = timedelta(seconds=2)


async def serve(address: str, fleet_file: str, stop: asyncio.Event) -> None:
    """Serve until told to stop."""
    fleet = load_fleet(fleet_file)
    client = await Client.connect(address, plugins=[TierpoolPlugin(fleet)])
    async with Worker(
        client,
        task_queue=OWN_QUEUE,
        workflows=[OwnWorkflow],
        workflow_runner=sandbox("_cancel_load"),
        build_id="benchmark",
        graceful_shutdown_timeout=GRACE,
    ):
        await run_workers(
            client,
            Served(flows=True, pools=tuple(fleet.fleet.tiers)),
            stop,
            grace=GRACE,
            on_ready=lambda _: print(json.dumps({"pid": os.getpid()}), flush=True),
        )


async def main() -> None:
    """Serve what the command line names."""
    parser = argparse.ArgumentParser(prog="benchmarks/_cancel_worker.py")
    parser.add_argument("--address", required=True, help="the Temporal server's")
    parser.add_argument("--fleet", required=True, help="fleet file")
    args = parser.parse_args()
    configure_logs()  # as `tierpool worker` does
    stop = asyncio.Event()
    with stop_on_signals(stop, GRACE):
        await serve(args.address, args.fleet, stop)


if __name__ == "__main__":
    asyncio.run(main())
    sys.stdout.flush()
    os._exit(0)  # the SDK's threads can abort an ordinary exit
