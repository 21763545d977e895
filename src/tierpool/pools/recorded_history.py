"""What one history says of agent calls: times, tokens, how they ended.

A history keeps when each attempt was put on its queue, when an instance took
it and how it ended. Of the payloads only results are decoded; counts and times
are all that is kept of them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeAlias

from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.common.v1 import Payload
from temporalio.api.history.v1 import HistoryEvent
from temporalio.converter import DataConverter

from tierpool.contracts import AgentResult, FailureDetail, Usage
from tierpool.errors import TierpoolError
from tierpool.scaling.recorded import RecordedCall

__all__ = ["NOT_OURS", "CallReader"]

NOT_OURS = (ValueError, RuntimeError, TypeError, KeyError, TierpoolError)
"""What reading a payload of somebody else's raises: another shape, another codec
(the SDK answers an encoding that it does not know with a KeyError)."""

_Key: TypeAlias = tuple[str, str, float]
"""Workflow ID, activity ID, time: the same in the copy that a reset makes."""


@dataclass
class CallReader:
    """Calls found so far; one call counts once, also if a reset has copied it."""

    converter: DataConverter
    pools: Mapping[str, str]
    """Pools by their task queues; calls on other queues are not looked at."""
    begin: datetime
    tiers: Collection[str]
    calls: dict[_Key, RecordedCall] = field(default_factory=dict)
    unfinished: set[_Key] = field(default_factory=set)
    sent_back: set[_Key] = field(default_factory=set)
    aborted: int = 0
    """Calls under way when their workflow was terminated: nothing says how long."""
    gone: int = 0
    """Histories that could not be read any more."""

    async def take(self, item: str, events: Sequence[HistoryEvent]) -> None:
        """Take up one history."""
        scheduled: dict[int, HistoryEvent] = {}
        started: dict[int, float] = {}
        ended: set[int] = set()
        for event in events:
            if event.HasField("activity_task_scheduled_event_attributes"):
                if self._wanted(event):
                    scheduled[event.event_id] = event
                continue
            if event.HasField("activity_task_started_event_attributes"):
                number = event.activity_task_started_event_attributes.scheduled_event_id
                started[number] = _seconds(event.event_time)
                continue
            number = _closed_by(event)
            if number in scheduled:
                ended.add(number)
                key = _key(item, scheduled[number])
                await self._close(key, scheduled[number], started.get(number), event)
        closed_run = bool(events) and _ends_run(events[-1])
        for number in scheduled.keys() - ended:
            if closed_run:
                self.aborted += 1
            else:
                self.unfinished.add(_key(item, scheduled[number]))

    def _wanted(self, event: HistoryEvent) -> bool:
        queue = event.activity_task_scheduled_event_attributes.task_queue.name
        pool = self.pools.get(queue)
        if pool is None or (self.tiers and pool not in self.tiers):
            return False
        return _seconds(event.event_time) >= self.begin.timestamp()

    async def _close(
        self, key: _Key, event: HistoryEvent, began: float | None, end: HistoryEvent
    ) -> None:
        put = event.activity_task_scheduled_event_attributes
        failed = not end.HasField("activity_task_completed_event_attributes")
        usage, admitted = await self._outcome(end)
        if began is None or not admitted:
            self.sent_back.add(key)
            return
        known = usage or Usage()
        self.calls[key] = RecordedCall(
            tier=self.pools[put.task_queue.name],
            role=put.activity_type.name,
            seconds=key[2],
            wait_seconds=max(0.0, began - key[2]),
            duration_seconds=max(0.0, _seconds(end.event_time) - began),
            input_tokens=known.input_tokens,
            output_tokens=known.output_tokens,
            usage_known=usage is not None,
            failed=failed,
            item=key[0],
        )

    async def _outcome(self, end: HistoryEvent) -> tuple[Usage | None, bool]:
        """Return what was used, if anybody knows, and whether the attempt began."""
        done = end.activity_task_completed_event_attributes
        if done.result.payloads:
            result = await self._decoded(done.result.payloads, AgentResult)
            return (result.usage if result else None), True
        failure = end.activity_task_failed_event_attributes.failure
        details = failure.application_failure_info.details.payloads
        detail = await self._decoded(details, FailureDetail) if details else None
        return (detail.usage, detail.admitted) if detail else (None, True)

    async def _decoded(self, payloads: Sequence[Payload], kind: type[Any]) -> Any:
        try:
            (value,) = await self.converter.decode(payloads[:1], [kind])
        except NOT_OURS:
            return None
        return value


def _key(item: str, event: HistoryEvent) -> _Key:
    put = event.activity_task_scheduled_event_attributes
    return item, put.activity_id, _seconds(event.event_time)


def _seconds(time: Timestamp) -> float:
    return time.seconds + time.nanos / 1e9


def _closed_by(event: HistoryEvent) -> int:
    """Return the event that scheduled the activity which ends with this one, or 0."""
    return (
        event.activity_task_completed_event_attributes.scheduled_event_id
        or event.activity_task_failed_event_attributes.scheduled_event_id
        or event.activity_task_timed_out_event_attributes.scheduled_event_id
        or event.activity_task_canceled_event_attributes.scheduled_event_id
    )


def _ends_run(event: HistoryEvent) -> bool:
    """Tell whether a history ends with this event."""
    which = event.WhichOneof("attributes") or ""
    return which in {
        "workflow_execution_completed_event_attributes",
        "workflow_execution_failed_event_attributes",
        "workflow_execution_timed_out_event_attributes",
        "workflow_execution_canceled_event_attributes",
        "workflow_execution_terminated_event_attributes",
        "workflow_execution_continued_as_new_event_attributes",
    }
