"""What `tierpool apply` has applied to a running fleet."""

from __future__ import annotations

from datetime import timedelta

from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from tierpool.contracts.limits import LIMITS_MEMO, AppliedLimits, limits_id

__all__ = ["applied_limits"]

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
