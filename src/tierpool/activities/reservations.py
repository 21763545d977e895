"""An activity's reservation in the state of the workflow that runs it.

Two Updates, each sent until it is answered or its time is over: their IDs make
repetition harmless. What a call costs, and what it may cost, is `governed`'s.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any, TypeVar

import structlog
from temporalio import activity
from temporalio.client import (
    WorkflowHandle,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory
from temporalio.service import RPCError, RPCStatusCode

from tierpool.contracts import (
    RESERVE_UPDATE,
    SETTLE_UPDATE,
    GovernedAnswer,
    GovernedRequest,
    GovernedSettlement,
)
from tierpool.contracts.wire import Wire

__all__ = ["refused", "reserve", "settle"]

_ANSWER = timedelta(seconds=60)
"""Time that the workflow has to answer; it answers at once while a worker polls it."""

_LAST_WORDS = timedelta(seconds=3)
"""The same while the activity is cancelled: it must come to its end."""

_TRY_AGAIN_SECONDS = (2.0, 4.0)
"""Until the next attempt after a denial that may pass: every one of them stands
in the workflow's history, and those who were denied together should not come
back together.
"""

_BUSY_SECONDS = 0.2
"""Between two tries of an Update that the server is too busy to take."""

_BUSY = (RPCStatusCode.RESOURCE_EXHAUSTED, RPCStatusCode.UNAVAILABLE)

_IN_FLIGHT = 5
"""Updates of one workflow that a process sends at a time; the server takes 10
from everybody.
"""

_log = structlog.get_logger()

T = TypeVar("T")


async def reserve(request: GovernedRequest) -> None:
    """Reserve the worst case of a call.

    Raises:
        ApplicationError: of type `BudgetDenied` if the money is not there, and
            not retryable unless it may come back; of type `BudgetUnreachable`
            if the workflow cannot answer. Nothing is reserved then.
    """
    asked = asyncio.ensure_future(
        _update(RESERVE_UPDATE, request, request.id, GovernedAnswer)
    )
    try:
        done, _ = await asyncio.wait([asked], timeout=_ANSWER.total_seconds())
    except asyncio.CancelledError:
        await _give_back(request, asked)
        raise
    if not done:
        await _give_back(request, asked)
        raise _unreachable(f"it did not answer within {_ANSWER}", retry=True)
    answer = _answer_of(asked)
    if answer.denied:
        raise ApplicationError(
            f"{request.activity}: {answer.denied}",
            type="BudgetDenied",
            non_retryable=not answer.temporary,
            next_retry_delay=_soon() if answer.temporary else None,
            category=(
                ApplicationErrorCategory.BENIGN
                if answer.temporary
                else ApplicationErrorCategory.UNSPECIFIED
            ),
        )


async def settle(settlement: GovernedSettlement, *, cancelled: bool = False) -> None:
    """Tell the workflow what a call cost, also while the activity is cancelled.

    Raises nothing of its own: the call is made and paid for, and without a
    settlement it stays charged at its reservation.
    """
    id = f"{settlement.id}-settle"
    told: asyncio.Future[None] = asyncio.ensure_future(
        _update(SETTLE_UPDATE, settlement, id, None)
    )
    limit = _LAST_WORDS if cancelled else _ANSWER
    try:
        await asyncio.wait([told], timeout=limit.total_seconds())
    except asyncio.CancelledError:
        await asyncio.wait([told], timeout=_LAST_WORDS.total_seconds())
        raise
    finally:
        _conclude(told, settlement.id)


def refused(message: str) -> ApplicationError:
    """Make the error for a call that cannot be governed however often it is tried."""
    return ApplicationError(message, type="UsageError", non_retryable=True)


def _soon() -> timedelta:
    return timedelta(seconds=random.uniform(*_TRY_AGAIN_SECONDS))


def _conclude(told: asyncio.Future[None], id: str) -> None:
    if not told.done():
        told.cancel()
        _log.warning("settle.unanswered", reservation=id)
    elif not told.cancelled() and (error := told.exception()) is not None:
        _log.warning("settle.failed", reservation=id, error=type(error).__name__)


async def _give_back(
    request: GovernedRequest, asked: asyncio.Future[GovernedAnswer]
) -> None:
    """Settle at nothing what may have been reserved: the call is not made."""
    asked.cancel()
    note = "given up before the call"
    nothing = GovernedSettlement(id=request.id, cost_usd=Decimal(0), note=note)
    await settle(nothing, cancelled=True)


def _answer_of(asked: asyncio.Future[GovernedAnswer]) -> GovernedAnswer:
    try:
        return asked.result()
    except WorkflowUpdateFailedError as error:
        cause = str(error.cause)
        if "expected but not found" not in cause:
            raise _unreachable(cause, retry=True) from error
        raise _unreachable(
            "it knows nothing of budgets: its worker has no TierpoolPlugin",
            retry=False,
        ) from error
    except RPCError as error:
        # closed; or its run has taken all the Updates that the server allows
        final = error.status in (
            RPCStatusCode.NOT_FOUND,
            RPCStatusCode.FAILED_PRECONDITION,
        )
        raise _unreachable(error.message, retry=not final) from error


def _unreachable(why: str, *, retry: bool) -> ApplicationError:
    return ApplicationError(
        f"the workflow {activity.info().workflow_id} cannot reserve the money of "
        f"this call: {why}",
        type="BudgetUnreachable",
        non_retryable=not retry,
    )


async def _update(name: str, what: Wire, id: str, result: type[T] | None) -> T:
    """Send an Update until the server takes it; the caller limits the time.

    In a task of its own: the SDK turns a cancel inside of it into an error.
    """
    info = activity.info()
    handle: WorkflowHandle[Any, Any] = activity.client().get_workflow_handle(
        info.workflow_id or "", run_id=info.workflow_run_id
    )
    while True:
        try:
            async with _gate(info.workflow_run_id or ""):
                answer: T = await handle.execute_update(
                    name, what, id=id, result_type=result
                )
                return answer
        except WorkflowUpdateRPCTimeoutOrCancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise asyncio.CancelledError from None
        except RPCError as error:
            if error.status not in _BUSY:
                raise
        await asyncio.sleep(_BUSY_SECONDS)


@dataclass(slots=True)
class _Gate:
    turns: asyncio.Semaphore
    users: int = 0


_gates: dict[tuple[str, int], _Gate] = {}
"""By run and event loop; a gate without users is forgotten."""


@asynccontextmanager
async def _gate(run: str) -> AsyncIterator[None]:
    """Wait for a turn: the server refuses more Updates of a workflow than 10."""
    key = (run, id(asyncio.get_running_loop()))
    gate = _gates.setdefault(key, _Gate(asyncio.Semaphore(_IN_FLIGHT)))
    gate.users += 1
    try:
        async with gate.turns:
            yield
    finally:
        gate.users -= 1
        if not gate.users:
            _gates.pop(key, None)
