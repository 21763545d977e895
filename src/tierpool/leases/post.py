"""The way to the ledger: an Update for each renewal, and its first start."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from temporalio.client import (
    Client,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.common import WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from tierpool.contracts.ledger import (
    RENEW_UPDATE,
    LedgerState,
    Renewal,
    RenewalAnswer,
    ledger_id,
)
from tierpool.errors import TierpoolError

__all__ = ["LedgerUnreachable", "open_ledger", "send"]

_TIMEOUT = timedelta(seconds=5)
_ENDED = (RPCStatusCode.NOT_FOUND, RPCStatusCode.FAILED_PRECONDITION)


class LedgerUnreachable(TierpoolError):
    """The ledger did not answer; nothing is known to have been taken."""

    retryable = True


async def send(client: Client, fleet: str, renewal: Renewal) -> RenewalAnswer:
    """Renew once.

    Raises:
        LedgerUnreachable: with the reason, for people.
    """
    handle = client.get_workflow_handle(ledger_id(fleet))
    try:
        async with asyncio.timeout(_TIMEOUT.total_seconds() + 1):
            answer: RenewalAnswer = await handle.execute_update(
                RENEW_UPDATE, renewal, result_type=RenewalAnswer, rpc_timeout=_TIMEOUT
            )
    except (TimeoutError, WorkflowUpdateRPCTimeoutOrCancelledError):
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError from None
        raise LedgerUnreachable(
            f"the ledger has not answered within {_TIMEOUT.seconds} s: is there a "
            f"`tierpool worker --control` of the fleet {fleet}?"
        ) from None
    except WorkflowUpdateFailedError as error:
        raise LedgerUnreachable(f"the ledger refused: {error.cause}") from error
    except RPCError as error:
        if error.status in _ENDED:
            raise LedgerUnreachable(_ended(fleet)) from error
        raise LedgerUnreachable(
            f"the Temporal server does not answer: {error.message}"
        ) from error
    return answer


async def open_ledger(client: Client, fleet: str) -> None:
    """Start the ledger if there never was one.

    One that was ended by hand is not started again: it would know of no
    spending at all.

    Raises:
        LedgerUnreachable: if it was ended, or the server does not answer.
    """
    try:
        await client.start_workflow(
            "LedgerWorkflow",
            LedgerState(fleet=fleet),
            id=ledger_id(fleet),
            task_queue=f"{fleet}-control",
            id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
            static_summary="leases of everything that is limited",
            rpc_timeout=_TIMEOUT,
        )
    except WorkflowAlreadyStartedError as error:
        description = await client.get_workflow_handle(ledger_id(fleet)).describe()
        if description.close_time is not None:
            raise LedgerUnreachable(_ended(fleet)) from error
    except RPCError as error:
        raise LedgerUnreachable(
            f"the Temporal server does not answer: {error.message}"
        ) from error


def _ended(fleet: str) -> str:
    return (
        f"the ledger {ledger_id(fleet)} was ended, so nobody knows what the fleet has "
        "spent: run `tierpool ledger recover`"
    )
