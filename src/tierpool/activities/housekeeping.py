"""Local activities that tell a workflow what it cannot know by itself."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

from temporalio import activity
from temporalio.api.enums.v1 import WorkflowTaskFailedCause
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from tierpool.contracts import Spent

__all__ = ["HousekeepingActivities", "spent"]

_QUERY_TIMEOUT = timedelta(seconds=15)


class HousekeepingActivities:
    """Answers from the process's own fleet file."""

    def __init__(self, packed_fleet: str) -> None:
        """Take the packed snapshot of the whole fleet."""
        self._packed = packed_fleet

    @activity.defn(name="tierpool_fleet")
    async def fleet(self) -> str:
        """Return what a run of the user's own workflow will know of the fleet."""
        return self._packed


@activity.defn(name="tierpool_spent")
async def spent(run_id: str) -> Spent:
    """Return what the run that a reset has ended spent and reserved, in USD.

    That run is closed, but answers queries as long as the server keeps it; if
    it does not keep it any more, the answer is 0.
    """
    client, workflow_id = activity.client(), activity.info().workflow_id or ""
    before = await _reset_run(client, workflow_id, run_id)
    if not before:
        return Spent(run=run_id)
    handle = client.get_workflow_handle(workflow_id, run_id=before)
    try:
        answer: str = await handle.query(
            "tierpool_spent", result_type=str, rpc_timeout=_QUERY_TIMEOUT
        )
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return Spent(run=run_id)
        raise
    return Spent(run=run_id, usd=Decimal(answer))


async def _reset_run(client: Client, workflow_id: str, run_id: str) -> str:
    """Return the ID of the run that the last reset of a run started from."""
    handle = client.get_workflow_handle(workflow_id, run_id=run_id)
    before = ""
    async for event in handle.fetch_history_events():
        failed = event.workflow_task_failed_event_attributes
        cause = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_RESET_WORKFLOW
        if failed.cause == cause:
            before = failed.base_run_id
    return before
