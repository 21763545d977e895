"""The way to the ledger: an Update for each renewal, and its first start."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import cast
from uuid import uuid4

from temporalio.api.common.v1 import Payloads, WorkflowExecution
from temporalio.api.enums.v1 import UpdateWorkflowExecutionLifecycleStage
from temporalio.api.update.v1 import Input, Meta, Request, WaitPolicy
from temporalio.api.workflowservice.v1 import UpdateWorkflowExecutionRequest
from temporalio.client import Client
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

__all__ = ["LedgerBusy", "LedgerUnreachable", "open_ledger", "send"]

_TIMEOUT = timedelta(seconds=5)
_COMPLETED = UpdateWorkflowExecutionLifecycleStage.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_COMPLETED
_BUSY = (RPCStatusCode.RESOURCE_EXHAUSTED, RPCStatusCode.UNAVAILABLE)
_ENDED = (RPCStatusCode.NOT_FOUND, RPCStatusCode.FAILED_PRECONDITION)


class LedgerUnreachable(TierpoolError):
    """The ledger did not answer; nothing is known to have been taken."""

    retryable = True


class LedgerBusy(LedgerUnreachable):
    """The server does not take the renewal just now: too many come at once."""


async def send(client: Client, fleet: str, renewal: Renewal) -> RenewalAnswer:
    """Renew once, without the SDK's silent retries.

    Those of many lessees would keep a server busy that takes 10 Updates at a
    time; whoever is refused here waits longer, and so the others get through.

    Raises:
        LedgerBusy: to be tried again soon.
        LedgerUnreachable: with the reason, for people.
    """
    converter = client.data_converter
    request = UpdateWorkflowExecutionRequest(
        namespace=client.namespace,
        workflow_execution=WorkflowExecution(workflow_id=ledger_id(fleet)),
        wait_policy=WaitPolicy(lifecycle_stage=_COMPLETED),
        request=Request(
            meta=Meta(update_id=uuid4().hex, identity=client.identity),
            input=Input(
                name=RENEW_UPDATE,
                args=Payloads(payloads=await converter.encode([renewal])),
            ),
        ),
    )
    try:
        async with asyncio.timeout(_TIMEOUT.total_seconds() + 1):
            answer = await client.workflow_service.update_workflow_execution(
                request, retry=False, timeout=_TIMEOUT
            )
    except TimeoutError:
        raise _silent(fleet) from None
    except RPCError as error:
        raise _failed(fleet, error) from error
    if answer.outcome.HasField("failure"):
        why = answer.outcome.failure.message
        raise LedgerUnreachable(f"the ledger refused: {why}")
    if not answer.outcome.HasField("success"):
        raise _silent(fleet)
    payloads = answer.outcome.success.payloads
    [found] = await converter.decode(payloads, [RenewalAnswer])
    return cast(RenewalAnswer, found)


def _failed(fleet: str, error: RPCError) -> LedgerUnreachable:
    if error.status in _ENDED:
        return LedgerUnreachable(_ended(fleet))
    if error.status is RPCStatusCode.DEADLINE_EXCEEDED:
        return _silent(fleet)
    if "in-flight updates" in error.message:
        return LedgerBusy(
            "the Temporal server takes too few Updates of a workflow at a time for all "
            "workers of the fleet: set its history.maxInFlightUpdates to 500"
        )
    words = f"the Temporal server does not answer: {error.message}"
    busy = error.status in _BUSY
    return LedgerBusy(words) if busy else LedgerUnreachable(words)


def _silent(fleet: str) -> LedgerUnreachable:
    return LedgerUnreachable(
        f"the ledger has not answered within {_TIMEOUT.seconds} s: is there a "
        f"`tierpool worker --control` of the fleet {fleet}?"
    )


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
    except WorkflowAlreadyStartedError:
        await _check_runs(client, fleet)
    except RPCError as error:
        raise LedgerUnreachable(
            f"the Temporal server does not answer: {error.message}"
        ) from error


async def _check_runs(client: Client, fleet: str) -> None:
    """Raise LedgerUnreachable if the ledger has ended, or nobody knows."""
    handle = client.get_workflow_handle(ledger_id(fleet))
    try:
        description = await handle.describe(rpc_timeout=_TIMEOUT)
    except RPCError as error:
        raise LedgerUnreachable(
            f"the Temporal server does not answer: {error.message}"
        ) from error
    if description.close_time is not None:
        raise LedgerUnreachable(_ended(fleet))


def _ended(fleet: str) -> str:
    return (
        f"the ledger {ledger_id(fleet)} was ended, so nobody knows what the fleet has "
        "spent: run `tierpool ledger recover`"
    )
