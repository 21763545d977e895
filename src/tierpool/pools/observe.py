"""What Temporal knows of a fleet's task queues; reads only.

Statistics lag by seconds, and count neither running attempts nor those that
wait for another try (see docs).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client
from temporalio.service import RPCError

from tierpool.errors import ServerError
from tierpool.fleet import LoadedFleet
from tierpool.telemetry import ATTRIBUTE_FLOW, ATTRIBUTE_STATE

__all__ = ["FleetView", "ItemCount", "QueueView", "observe"]

_ITEMS_COUNTED = 5000


@dataclass(frozen=True, slots=True)
class QueueView:
    """One task queue as the server sees it."""

    queue: str
    pool: str
    """Name of the tier, or `flows` or `tools`."""
    model: str
    slots_per_worker: int | None
    """Attempts that one worker process makes at a time; None for flows."""
    workers: int
    """Worker processes that polled within the last minutes."""
    backlog: int
    """Tasks that nobody has taken yet; approximate."""
    oldest: timedelta
    """Age of the oldest of them."""
    added_per_second: float
    """Arrivals, mean over 30 s."""
    taken_per_second: float
    """Dispatches, mean over 30 s."""


@dataclass(frozen=True, slots=True)
class ItemCount:
    """Running items of a flow in a state."""

    flow: str
    state: str
    items: int


@dataclass(frozen=True, slots=True)
class FleetView:
    """The fleet at one moment."""

    fleet: str
    queues: tuple[QueueView, ...]
    items: tuple[ItemCount, ...]
    items_complete: bool
    """False if there are more items than were counted."""


async def observe(client: Client, fleet: LoadedFleet) -> FleetView:
    """Read queues and running items.

    Raises:
        ServerError: if the server does not answer.
    """
    wanted = _queues(fleet)
    try:
        views, (items, complete) = await asyncio.gather(
            asyncio.gather(*(_queue(client, *one) for one in wanted)),
            _items(client),
        )
    except RPCError as error:
        raise ServerError(
            f"the Temporal server does not answer: {error.message}"
        ) from error
    return FleetView(fleet.name, tuple(views), items, complete)


_Wanted = tuple[str, str, str, int | None, TaskQueueType.ValueType]


def _queues(fleet: LoadedFleet) -> list[_Wanted]:
    activity = TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY
    wanted: list[_Wanted] = [
        (
            model.queue,
            name,
            model.model,
            fleet.fleet.tiers[name].pool.max_instances,
            activity,
        )
        for name, tier in fleet.snapshot.tiers.items()
        for model in tier.models
    ]
    if any(
        role.queue == f"{fleet.name}-tools" for role in fleet.snapshot.roles.values()
    ):
        wanted.append((f"{fleet.name}-tools", "tools", "", None, activity))
    workflow = TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW
    wanted.append((f"{fleet.name}-flows", "flows", "", None, workflow))
    return wanted


async def _queue(
    client: Client,
    queue: str,
    pool: str,
    model: str,
    slots: int | None,
    kind: TaskQueueType.ValueType,
) -> QueueView:
    found = await client.workflow_service.describe_task_queue(
        DescribeTaskQueueRequest(
            namespace=client.namespace,
            task_queue=TaskQueue(name=queue),
            task_queue_type=kind,
            report_stats=True,
        )
    )
    stats = found.stats
    return QueueView(
        queue=queue,
        pool=pool,
        model=model,
        slots_per_worker=slots,
        workers=len({poller.identity for poller in found.pollers}),
        backlog=stats.approximate_backlog_count,
        oldest=stats.approximate_backlog_age.ToTimedelta(),
        added_per_second=round(stats.tasks_add_rate, 2),
        taken_per_second=round(stats.tasks_dispatch_rate, 2),
    )


async def _items(client: Client) -> tuple[tuple[ItemCount, ...], bool]:
    counts: Counter[tuple[str, str]] = Counter()
    query = f"{ATTRIBUTE_FLOW} IS NOT NULL AND ExecutionStatus = 'Running'"
    async for run in client.list_workflows(query, limit=_ITEMS_COUNTED):
        found = run.search_attributes
        flow = _first(found.get(ATTRIBUTE_FLOW))
        counts[flow, _first(found.get(ATTRIBUTE_STATE))] += 1
    items = tuple(ItemCount(f, s, n) for (f, s), n in sorted(counts.items()))
    return items, counts.total() < _ITEMS_COUNTED


def _first(values: Sequence[object] | None) -> str:
    return str(values[0]) if values else "?"
