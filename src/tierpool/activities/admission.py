"""Between an attempt and the pool that lets it begin: what it asks, what it reports."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from decimal import Decimal
from typing import Protocol, TypeAlias

from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from tierpool.activities.providers.base import WRONG_KEY
from tierpool.activities.providers.clients import AgentClient
from tierpool.budget.rates import Headroom
from tierpool.contracts import AgentRequest, FailureDetail, NextStep, Outcome, Usage
from tierpool.errors import LeaseShort, ModelUnavailable, NotAdmitted, TierpoolError
from tierpool.leases import Ask

__all__ = [
    "Admit",
    "Admitted",
    "application_error",
    "asked",
    "not_admitted",
    "settle",
    "told",
    "unbilled",
]

_BUSY = (429, 503, 529)
"""Statuses of a provider that takes no more for now."""


class Admitted(Protocol):
    """A call that may start: the pool's side of it."""

    @property
    def agent(self) -> AgentClient:
        """What its instance calls models with."""
        ...

    def broken(self) -> None:
        """Say that the instance's connections are in doubt."""
        ...

    def refused_key(self, reason: str) -> timedelta:
        """Say that the provider does not take the key; returns when to try again."""
        ...

    def answered(self, told: Headroom | None) -> None:
        """Say that the provider answered, and what it still takes."""
        ...

    def refused(self, retry_after: timedelta | None) -> None:
        """Say that the provider takes no more for now."""
        ...

    def settle(self, usage: Usage | None) -> None:
        """Say what the call used; None: nobody knows."""
        ...

    def release(self) -> None:
        """Say that nothing is owed for the call."""
        ...


Admit: TypeAlias = Callable[[str, Ask], AbstractAsyncContextManager[Admitted]]
"""Lets a call of a task queue start; for tools the queue is empty."""


def application_error(detail: FailureDetail) -> ApplicationError:
    """Make the error by which a failed attempt reports to its workflow."""
    expected = detail.outcome is Outcome.UNBILLED and detail.next is not NextStep.FAIL
    return ApplicationError(
        detail.message,
        detail,
        type=_type(detail),
        non_retryable=True,  # the workflow decides on every further attempt
        next_retry_delay=detail.retry_after,
        category=ApplicationErrorCategory.BENIGN
        if expected
        else ApplicationErrorCategory.UNSPECIFIED,
    )


def unbilled(
    error: TierpoolError, then: NextStep, *, admitted: bool = True
) -> FailureDetail:
    """Report what went wrong before anything was sent."""
    return FailureDetail(
        outcome=Outcome.UNBILLED,
        next=then,
        message=str(error),
        retry_after=error.retry_after,
        admitted=admitted,
    )


def not_admitted(error: NotAdmitted) -> FailureDetail:
    """Report a call that could not begin: no try at all."""
    elsewhere = isinstance(error, ModelUnavailable)
    then = NextStep.FAILOVER if elsewhere else NextStep.RETRY
    detail = unbilled(error, then, admitted=False)
    if not isinstance(error, LeaseShort):
        return detail
    known = {"limit": error.limit or "lease", "never": error.never}
    return detail.model_copy(update=known)


def asked(request: AgentRequest, queue: str, messages: int) -> Ask:
    """Say what a call takes of the fleet's limits."""
    return Ask(
        flow=activity.info().workflow_type or "",
        role=request.role,
        tier=request.route.tier,
        queue=queue,
        model=request.route.model,
        usd=request.reserved_usd or Decimal(0),
        input_bytes=request.input_bytes,
        messages=messages,
        output_tokens=request.max_output_tokens,
    )


def settle(admitted: Admitted, failure: FailureDetail) -> None:
    """Account for a call that failed."""
    if failure.free:
        admitted.release()
    else:
        admitted.settle(failure.usage)


def told(admitted: Admitted, failure: FailureDetail) -> FailureDetail:
    """Let the pool know what a failed call means for the next ones."""
    if not failure.status:
        admitted.broken()
    elif failure.status == WRONG_KEY:
        # the worker's fault, not the item's: that one waits
        wait = admitted.refused_key(failure.message)
        return failure.model_copy(update={"retry_after": wait})
    elif failure.status in _BUSY and failure.next is NextStep.RETRY:
        admitted.refused(failure.retry_after)
    return failure


def _type(detail: FailureDetail) -> str:
    if detail.next is NextStep.RESERVE:
        return "EstimateTooLow"
    return f"Attempt{detail.outcome.value.title()}"
