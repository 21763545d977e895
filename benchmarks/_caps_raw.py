"""Plain Temporal in `caps.py`: workers with slots of their own, and no common cap."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from datetime import timedelta
from importlib.metadata import version

from _caps_load import Order, ask_async, drive, ready
from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import Worker

QUEUE = "caps-raw"


@activity.defn
async def call(base_url: str, label: str) -> str:
    """Make one call."""
    return await ask_async(base_url, label)


@workflow.defn
class Calls:
    """One caller, who makes one call after the other."""

    @workflow.run
    async def run(self, base_url: str, first: int) -> None:
        """Call until terminated."""
        for number in range(first, first + 10_000):
            await workflow.execute_activity(
                call,
                args=[base_url, f"part {number}"],
                start_to_close_timeout=timedelta(seconds=10),
            )


async def work(order: Order) -> None:
    """Be a worker with as many slots as the cap allows in all."""
    client = await Client.connect(order.address)
    async with Worker(
        client,
        task_queue=QUEUE,
        workflows=[Calls],
        activities=[call],
        max_concurrent_activities=order.cap,
        build_id="benchmark",
    ):
        ready()
        await asyncio.Event().wait()


async def give(order: Order) -> None:
    """Start the callers."""
    client = await Client.connect(order.address)
    for n in range(1, order.waiting + 1):
        await client.start_workflow(
            Calls.run,
            args=[order.base_url, n * 10_000],
            id=f"caps-raw-{n}",
            task_queue=QUEUE,
        )


async def main(order: Order) -> None:
    """Be the process that the order names."""
    if order.number:
        await work(order)
    await drive(order, __file__, lambda: give(order))
    print(json.dumps({"version": version("temporalio")}), flush=True)


if __name__ == "__main__":
    asyncio.run(main(Order.read(sys.argv[1])))
    sys.stdout.flush()
    os._exit(0)  # the SDK's threads can abort an ordinary exit
