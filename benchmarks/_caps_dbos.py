"""DBOS in `caps.py`: a queue with a global concurrency, on SQLite.

Runs in an environment of its own. It is asked for work ten times a second, where
its default is once: that is in its favour.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path

from _caps_load import Order, ask, drive, ready
from dbos import DBOS, DBOSClient, DBOSConfig

POLL_S = 0.1
BEFOREHAND = 400
"""Calls in the queue that are not yet begun, at least."""

order = Order.read(sys.argv[1])
DATABASE = f"sqlite:///{Path(order.folder) / 'dbos.sqlite'}"


@DBOS.step()
def call(label: str) -> str:
    """Make one call."""
    return ask(order.base_url, label)


@DBOS.workflow(name="caps-call")
def one_call(label: str) -> str:
    """Make one call, durably."""
    return call(label)


def work() -> None:
    """Be one of the processes that take from the queue."""
    config: DBOSConfig = {
        "name": "caps",
        "system_database_url": DATABASE,
        "executor_id": f"executor-{order.number}",
        "application_version": "benchmark",
        "log_level": "ERROR",
    }
    DBOS(config=config)
    DBOS.launch()
    DBOS.register_queue(
        "clerk", global_concurrency=order.cap, polling_interval_sec=POLL_S
    )
    ready()
    while True:
        time.sleep(3600)


async def give() -> None:
    """Put in calls, so that some always wait."""
    client = DBOSClient(system_database_url=DATABASE)
    number = 0
    while True:
        waiting = await asyncio.to_thread(_waiting, client)
        for _ in range(max(0, BEFOREHAND - waiting)):
            number += 1
            await asyncio.to_thread(_enqueue, client, number)
        await asyncio.sleep(0.5)


def _waiting(client: DBOSClient) -> int:
    return len(
        client.list_queued_workflows(
            queue_name="clerk", status="ENQUEUED", load_input=False
        )
    )


def _enqueue(client: DBOSClient, number: int) -> None:
    client.enqueue(
        {
            "queue_name": "clerk",
            "workflow_name": "caps-call",
            "app_version": "benchmark",
        },
        f"part {number}",
    )


if __name__ == "__main__":
    if order.number:
        work()
    asyncio.run(drive(order, __file__, give))
    print(json.dumps({"version": version("dbos")}), flush=True)
    os._exit(0)
