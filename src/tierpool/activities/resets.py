"""What a run that a reset has ended had spent: the run after it must know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from temporalio import activity
from temporalio.api.common.v1 import Payload
from temporalio.api.enums.v1 import WorkflowTaskFailedCause
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client, WorkflowHandle, WorkflowQueryFailedError
from temporalio.converter import DataConverter
from temporalio.service import RPCError, RPCStatusCode

from tierpool.contracts import GRANT_SIGNAL, RESERVE_UPDATE, Spent

__all__ = ["spent"]

_QUERY_TIMEOUT = timedelta(seconds=15)

_QUERIES = 4
"""Then the ended run's history has to do."""


@dataclass(frozen=True, slots=True)
class _Reset:
    """Where a run comes from."""

    run: str
    """The run that it was made of."""
    event: int
    """The first event that is its own."""


@activity.defn(name="tierpool_spent")
async def spent(run_id: str) -> Spent:
    """Return what the runs that a reset has ended spent and reserved, in USD.

    They are closed, but answer queries as long as the server keeps them; one
    that it does not keep any more counts as 0. If the code has changed, so that
    a run cannot be replayed, its history tells what it reserved.
    """
    client, workflow_id = activity.client(), activity.info().workflow_id or ""
    reset = await _last_reset(client, workflow_id, run_id)
    if reset is None:
        return Spent(run=run_id)
    usd = late = Decimal(0)
    handle = client.get_workflow_handle(workflow_id, run_id=reset.run)
    base = await _reservations(client.data_converter, handle, reset.event)
    before = await _run_before(client, workflow_id, run_id)
    for run in dict.fromkeys((reset.run, before or reset.run)):
        handle = client.get_workflow_handle(workflow_id, run_id=run)
        answer, found = await _answer(handle), base
        if answer is not None:
            usd = max(usd, answer)
            continue
        if run != reset.run:
            found = await _reservations(client.data_converter, handle, reset.event)
        late = max(late, found.total)
    return Spent(run=run_id, usd=usd, late_usd=late, pending_usd=base.pending)


async def _answer(handle: WorkflowHandle[Any, Any]) -> Decimal | None:
    """Ask a closed run what it spent; None if it cannot be replayed."""
    try:
        answer: str = await handle.query(
            "tierpool_spent", result_type=str, rpc_timeout=_QUERY_TIMEOUT
        )
        return Decimal(answer)
    except WorkflowQueryFailedError:
        return None
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return Decimal(0)
        if activity.info().attempt < _QUERIES:
            raise
        return None


async def _run_before(client: Client, workflow_id: str, run_id: str) -> str:
    """Find the run that was the current one before this one.

    It knows what all runs before it have spent, or has spent nothing itself. It
    need not be the one that the reset started from.
    """
    last, found = datetime.min.replace(tzinfo=UTC), ""
    quoted = workflow_id.replace("'", "''")
    try:
        async for run in client.list_workflows(f"WorkflowId = '{quoted}'"):
            closed = run.close_time or datetime.max.replace(tzinfo=UTC)
            if run.run_id != run_id and closed > last:
                last, found = closed, run.run_id
    except RPCError as error:
        if error.status is not RPCStatusCode.UNIMPLEMENTED:
            raise
    return found


async def _last_reset(client: Client, workflow_id: str, run_id: str) -> _Reset | None:
    handle = client.get_workflow_handle(workflow_id, run_id=run_id)
    found = None
    async for event in handle.fetch_history_events():
        failed = event.workflow_task_failed_event_attributes
        cause = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_RESET_WORKFLOW
        if failed.cause == cause:
            found = _Reset(failed.base_run_id, event.event_id)
    return found


async def _reservations(
    converter: DataConverter, handle: WorkflowHandle[Any, Any], first: int
) -> _Reservations:
    """Read what a run reserved before and from an event on; it may have cost less."""
    found = _Reservations(converter)
    try:
        async for event in handle.fetch_history_events():
            await found.read(event, late=event.event_id >= first)
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
    return found


@dataclass
class _Reservations:
    """Reservations of a history: for attempts, for activities, for children."""

    converter: DataConverter
    calls: Decimal = Decimal(0)
    under_way: dict[int, Decimal] = field(default_factory=dict)
    """Attempts that have not ended at the given event, by their own."""
    grants: dict[tuple[str, bool], Decimal] = field(default_factory=dict)
    """Highest grant of a child, by whether it is late: each is a running total."""

    @property
    def total(self) -> Decimal:
        """What was reserved late."""
        children = {child for child, _ in self.grants}
        return sum((self._granted(child) for child in children), self.calls)

    @property
    def pending(self) -> Decimal:
        """What was reserved before, for attempts that ended late or not at all."""
        return sum(self.under_way.values(), Decimal(0))

    async def read(self, event: HistoryEvent, *, late: bool) -> None:
        """Take up an event."""
        scheduled = event.activity_task_scheduled_event_attributes
        accepted = event.workflow_execution_update_accepted_event_attributes
        signal = event.signal_external_workflow_execution_initiated_event_attributes
        update = accepted.accepted_request.input
        if scheduled.activity_id:
            usd = await self._amount(scheduled.input.payloads, "reserved_usd")
            if late:
                self.calls += usd
            else:
                self.under_way[event.event_id] = usd
        elif not late:
            self.under_way.pop(_ended(event), None)
        if update.name == RESERVE_UPDATE and late:
            self.calls += await self._amount(update.args.payloads, "usd")
        elif signal.signal_name == GRANT_SIGNAL:
            key = (signal.workflow_execution.workflow_id, late)
            granted = await self._amount(signal.input.payloads, "granted_usd")
            self.grants[key] = max(granted, self.grants.get(key, Decimal(0)))

    def _granted(self, child: str) -> Decimal:
        before = self.grants.get((child, False), Decimal(0))
        return max(Decimal(0), self.grants.get((child, True), before) - before)

    async def _amount(self, payloads: Sequence[Payload], name: str) -> Decimal:
        """Read an amount of the first argument; 0 if that is something else."""
        try:
            (value,) = await self.converter.decode(payloads[:1], [dict[str, Any]])
        except (ValueError, RuntimeError, TypeError):
            return Decimal(0)  # an activity of somebody else
        return Decimal(value.get(name) or 0)


def _ended(event: HistoryEvent) -> int:
    """Return the event that scheduled the activity which ends with this one."""
    return (
        event.activity_task_completed_event_attributes.scheduled_event_id
        or event.activity_task_failed_event_attributes.scheduled_event_id
        or event.activity_task_timed_out_event_attributes.scheduled_event_id
        or event.activity_task_canceled_event_attributes.scheduled_event_id
    )
