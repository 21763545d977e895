"""tierpool's side of `rate_limits.py`, and how any side's slots are judged.

The load is a user's own workflow; the calls are made by real `tierpool worker`
processes. Every use of a slot is read from the workflows' histories.
"""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from _books import LABEL, Served
from _limits_fleet import LimitsFile, machines
from _limits_load import Callers, Wanted, callers_queue, callers_worker
from _rates_load import MAX_OUTPUT_TOKENS, Occupied, Order
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client, WorkflowHandle

from tierpool import TierpoolPlugin, load_fleet
from tierpool.contracts import AgentRequest, PartRef

__all__ = ["run_own", "waited_s"]

NAME = "bench-rates"
PER_WORKFLOW = 20
NUMBERS_APART = 100_000
OVERHEAD_S = 0.25
"""What a use of a slot may last beyond the provider's time without having waited."""
MATCH_S = 0.1

ENDS = (
    EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED,
    EventType.EVENT_TYPE_ACTIVITY_TASK_FAILED,
    EventType.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT,
    EventType.EVENT_TYPE_ACTIVITY_TASK_CANCELED,
)


async def run_own(order: Order) -> list[Occupied]:
    """Have the load made; return every use of a slot."""
    folder = Path(order.folder)
    file = _file(order).write(folder / "own")
    plugin = TierpoolPlugin(load_fleet(file))
    client = await Client.connect(order.address, plugins=[plugin])
    async with (
        machines(file, order.address, folder / "logs", pools=order.processes),
        callers_worker(client, NAME),
    ):
        handles = [
            await client.start_workflow(
                Callers.run,
                Wanted(
                    first=n * NUMBERS_APART,
                    calls=NUMBERS_APART,
                    lanes=min(PER_WORKFLOW, order.lanes),
                    sized=True,
                ),
                id=f"{NAME}-{n}",
                task_queue=callers_queue(NAME),
            )
            for n in range(1, 1 + max(1, order.lanes // PER_WORKFLOW))
        ]
        await asyncio.sleep(order.seconds)
        for handle in handles:
            await handle.terminate("the time is over")
    return [one for handle in handles async for one in _occupied(client, handle)]


def _file(order: Order) -> LimitsFile:
    limits = {
        "requests_per_minute": order.rpm,
        "tokens_per_minute": order.tpm,
        "burst": order.burst,
    }
    return LimitsFile(
        NAME,
        order.base_url,
        instances=order.slots,
        rate_limit={key: value for key, value in limits.items() if value},
        max_output_tokens=MAX_OUTPUT_TOKENS,
    )


async def _occupied(
    client: Client, handle: WorkflowHandle[Any, Any]
) -> AsyncIterator[Occupied]:
    """Read a history; attempts that had not ended are left out."""
    events: dict[int, HistoryEvent] = {}
    labels: dict[str, str] = {}
    async for event in handle.fetch_history_events():
        events[event.event_id] = event
        if event.event_type not in ENDS:
            continue
        name = EventType.Name(event.event_type).removeprefix("EVENT_TYPE_").lower()
        about = getattr(event, f"{name}_event_attributes")
        begun = events.get(about.started_event_id)
        if begun is None:
            continue  # it timed out, or was cancelled, before it had a slot
        its = events[about.scheduled_event_id].activity_task_scheduled_event_attributes
        [request] = await client.data_converter.decode(
            its.input.payloads, [AgentRequest]
        )
        yield Occupied(_label(request, labels), _at(begun), _at(event))


def _label(request: AgentRequest, known: dict[str, str]) -> str:
    """Return the part of an attempt; a later one names its text by hash alone."""
    message = request.messages[0]
    if message.text is None:
        return known.get(message.part.hash, "") if message.part else ""
    found = re.search(LABEL, message.text)
    label = found[0] if found else ""
    known[PartRef.of(message.text).hash] = label
    return label


def _at(event: HistoryEvent) -> float:
    return event.event_time.ToNanoseconds() / 1e9


def waited_s(uses: Sequence[Occupied], calls: Sequence[Served]) -> float:
    """Return the slot-seconds in which nothing was done at the provider.

    A use of a slot that reached the provider may last `OVERHEAD_S` longer than
    its call; beyond that, all of the difference counts. One without a call that
    the provider took counts in full.
    """
    by_label: Mapping[str, list[Served]] = defaultdict(list)
    for call in calls:
        if call.taken:
            by_label[call.label].append(call)
    waited = 0.0
    for use in uses:
        served = sum(
            min(c.ended, use.end) - c.started
            for c in by_label[use.label]
            if use.begin - MATCH_S <= c.started <= use.end
        )
        idle = use.end - use.begin - served
        if served == 0 or idle > OVERHEAD_S:
            waited += idle
    return waited
