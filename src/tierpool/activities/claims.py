"""Starts the claims of a fleet, with the limits that count now."""

from __future__ import annotations

from temporalio import activity
from temporalio.client import WorkflowExecutionStatus
from temporalio.common import WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError

from tierpool.contracts.claims import ClaimsOpened, ClaimsState, claims_id
from tierpool.fleet import LoadedFleet
from tierpool.leases.applied import applied_limits, limits_of_claims

__all__ = ["ClaimActivities"]


class ClaimActivities:
    """What the claims need of a process's own fleet file."""

    def __init__(self, fleet: LoadedFleet) -> None:
        """Take the fleet whose limits count."""
        self._fleet = fleet

    @activity.defn(name="tierpool_open_claims")
    async def open(self, fleet: str) -> ClaimsOpened:
        """Start the claims of a fleet; that they run already is fine.

        After somebody has ended them, this starts none: they would forget what
        is held.
        """
        client = activity.client()
        applied = await applied_limits(client, fleet)
        limits = limits_of_claims(applied, self._fleet)
        state = ClaimsState(fleet=fleet, limits=limits)
        try:
            await client.start_workflow(
                "ClaimsWorkflow",
                state,
                id=claims_id(fleet),
                task_queue=f"{fleet}-control",
                id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                static_summary="Claims on roles and WIP limits",
            )
        except WorkflowAlreadyStartedError:
            known = await client.get_workflow_handle(claims_id(fleet)).describe()
            return ClaimsOpened(
                ended=known.status is not WorkflowExecutionStatus.RUNNING
            )
        return ClaimsOpened()
