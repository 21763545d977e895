"""Limits on their way: what was applied to a running fleet, and to its claims."""

from __future__ import annotations

from datetime import timedelta

from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from tierpool.budget.claim_limits import claim_limits
from tierpool.contracts.claims import CLAIM_LIMITS_SIGNAL, ClaimLimits, claims_id
from tierpool.contracts.limits import LIMITS_MEMO, AppliedLimits, limits_id
from tierpool.fleet import LoadedFleet

__all__ = ["applied_limits", "limits_of_claims", "tell_claims"]

_TIMEOUT = timedelta(seconds=5)


async def applied_limits(client: Client, fleet: str) -> AppliedLimits:
    """Read what is applied to a fleet; without an ID if nothing is.

    Only a running record counts: ending it by hand withdraws it.

    Raises:
        RPCError: if the server does not answer.
        ValidationError: if the record is of a version that is not understood.
    """
    try:
        handle = client.get_workflow_handle(limits_id(fleet))
        found = await handle.describe(rpc_timeout=_TIMEOUT)
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return AppliedLimits()
        raise
    if found.status is not WorkflowExecutionStatus.RUNNING:
        return AppliedLimits()
    written = await found.memo_value(LIMITS_MEMO, "", type_hint=str)
    return AppliedLimits.model_validate_json(written) if written else AppliedLimits()


def limits_of_claims(applied: AppliedLimits, fleet: LoadedFleet) -> ClaimLimits:
    """Return what the claims of a fleet go by: what was applied, else the file."""
    number = {"generation": applied.generation}
    return applied.claims or claim_limits(fleet).model_copy(update=number)


async def tell_claims(
    client: Client, fleet: str, limits: ClaimLimits, timeout: timedelta | None = None
) -> None:
    """Let running claims follow limits, unless later ones were applied.

    Raises:
        RPCError: if the server does not answer; that there are no claims is fine.
    """
    handle = client.get_workflow_handle(claims_id(fleet))
    try:
        await handle.signal(CLAIM_LIMITS_SIGNAL, limits, rpc_timeout=timeout)
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
