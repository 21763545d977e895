"""What the server knows of a task queue; it lags by seconds.

Running attempts and those that wait for another try are not in it (see docs).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta

from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client

__all__ = ["QueueStatistics", "queue_statistics", "together"]

_TIMEOUT = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class QueueStatistics:
    """One task queue as the server sees it, or several of them together."""

    backlog: int = 0
    """Tasks that nobody has taken yet; approximate."""
    oldest: timedelta = timedelta()
    """Age of the oldest of them."""
    added_per_second: float = 0.0
    """Arrivals, mean over 30 s."""
    taken_per_second: float = 0.0
    """Dispatches, mean over 30 s."""
    pollers: frozenset[str] = field(default_factory=frozenset)
    """Identities of the processes that polled within the last minutes."""
    known: bool = True
    """False if the server keeps no statistics."""


async def queue_statistics(
    client: Client, queue: str, *, workflows: bool = False
) -> QueueStatistics:
    """Ask the server.

    Raises:
        RPCError: if it does not answer.
    """
    kind = (
        TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW
        if workflows
        else TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY
    )
    found = await client.workflow_service.describe_task_queue(
        DescribeTaskQueueRequest(
            namespace=client.namespace,
            task_queue=TaskQueue(name=queue),
            task_queue_type=kind,
            report_stats=True,
        ),
        timeout=_TIMEOUT,
    )
    stats = found.stats
    return QueueStatistics(
        backlog=stats.approximate_backlog_count,
        oldest=stats.approximate_backlog_age.ToTimedelta(),
        added_per_second=round(stats.tasks_add_rate, 2),
        taken_per_second=round(stats.tasks_dispatch_rate, 2),
        pollers=frozenset(poller.identity for poller in found.pollers),
    )


def together(queues: Iterable[QueueStatistics]) -> QueueStatistics:
    """Sum up a pool's queues."""
    total = QueueStatistics()
    for one in queues:
        total = QueueStatistics(
            total.backlog + one.backlog,
            max(total.oldest, one.oldest),
            total.added_per_second + one.added_per_second,
            total.taken_per_second + one.taken_per_second,
            total.pollers | one.pollers,
        )
    return total
