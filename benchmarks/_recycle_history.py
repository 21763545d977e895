"""Which worker process began which part, by the histories of a load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from _parts_bench import Bench
from temporalio.api.common.v1 import Payloads
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import WorkflowHandle

from tierpool.contracts import AgentRequest

__all__ = ["Begun", "begun_by"]

FIRST_ONES = 20
"""So many attempts of a process are looked at."""


@dataclass(frozen=True, slots=True)
class Begun:
    """An attempt that a process was given."""

    at: float
    """Unix time, by the server."""
    part: str
    """The text of its request, which names the part."""


@dataclass(frozen=True, slots=True)
class _Started:
    pid: int
    at: float
    input: Payloads


async def begun_by(bench: Bench, pids: Set[int]) -> Mapping[int, Sequence[Begun]]:
    """Return the first attempts of each of these processes, in order."""
    started = [one for load in bench.loads for one in await _started(load, pids)]
    started.sort(key=lambda one: one.at)
    found: dict[int, list[Begun]] = {pid: [] for pid in pids}
    for one in started:
        if len(found[one.pid]) < FIRST_ONES:
            found[one.pid].append(Begun(one.at, await _part(bench, one.input)))
    return found


async def _started(load: WorkflowHandle[Any, Any], pids: Set[int]) -> list[_Started]:
    """Read one history: who has begun what, and when."""
    scheduled: dict[int, HistoryEvent] = {}
    found = []
    async for event in load.fetch_history_events():
        if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
            scheduled[event.event_id] = event
        elif event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_STARTED:
            about = event.activity_task_started_event_attributes
            # tierpool-HOST-PID, as every `tierpool worker` calls itself
            pid = int(about.identity.rpartition("-")[2])
            if pid in pids:
                its = scheduled[about.scheduled_event_id]
                given = its.activity_task_scheduled_event_attributes.input
                found.append(
                    _Started(pid, event.event_time.ToNanoseconds() / 1e9, given)
                )
    return found


async def _part(bench: Bench, input: Payloads) -> str:
    [request] = await bench.client.data_converter.decode(input.payloads, [AgentRequest])
    return request.messages[0].text or ""
