"""Starts the claims of a fleet, and tells them of the limits of this file."""

from __future__ import annotations

from temporalio import activity
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.common import WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from tierpool.budget.claim_limits import claim_limits
from tierpool.contracts.claims import (
    CLAIM_LIMITS_SIGNAL,
    ClaimsOpened,
    ClaimsState,
    claims_id,
)
from tierpool.fleet import LoadedFleet

__all__ = ["ClaimActivities", "tell_limits"]


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
        state = ClaimsState(fleet=fleet, limits=claim_limits(self._fleet))
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


async def tell_limits(client: Client, fleet: LoadedFleet) -> None:
    """Let running claims follow the limits of this file, unless others were applied."""
    claims = client.get_workflow_handle(claims_id(fleet.name))
    try:
        await claims.signal(CLAIM_LIMITS_SIGNAL, claim_limits(fleet))
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
