"""Typed signatures of the activities that workflows call.

Workflows know activities by these stubs only, so that a wrong argument fails
the type checker and no provider SDK is imported on the workflow's side.
"""

from __future__ import annotations

from datetime import timedelta

from temporalio import activity, workflow
from temporalio.common import RetryPolicy

from tierpool.contracts import (
    AgentRequest,
    AgentResult,
    RouteAnswer,
    RouteRequest,
    Spent,
)
from tierpool.contracts.claims import ClaimsOpened, HoldersGone, HoldersRequest
from tierpool.contracts.ledger import Alert

__all__ = [
    "alert_activity",
    "attempt_activity",
    "fleet_activity",
    "holders_activity",
    "open_claims_activity",
    "route_activity",
    "spent_activity",
]

HEARTBEAT_TIMEOUT = timedelta(seconds=5)
"""A lost worker is noticed this long after its last heartbeat."""

GRACE = timedelta(seconds=15)
"""What an attempt may take beyond the provider's time: queries, validation."""

_ONCE = RetryPolicy(maximum_attempts=1)
_TELL = RetryPolicy(maximum_interval=timedelta(minutes=1))
_TELL_FOR = timedelta(minutes=15)
"""After that nobody hears of an alert any more; it stands in the ledger's details."""
_TWICE = RetryPolicy(maximum_attempts=2)


@activity.defn(name="tierpool_route")
async def _route(request: RouteRequest) -> RouteAnswer:
    raise NotImplementedError(request)


@activity.defn(name="tierpool_fleet")
async def _fleet() -> str:
    raise NotImplementedError


@activity.defn(name="tierpool_alert")
async def _alert(alert: Alert) -> None:
    raise NotImplementedError(alert)


@activity.defn(name="tierpool_spent")
async def _spent(run_id: str) -> Spent:
    raise NotImplementedError(run_id)


@activity.defn(name="tierpool_open_claims")
async def _open_claims(fleet: str) -> ClaimsOpened:
    raise NotImplementedError(fleet)


@activity.defn(name="tierpool_holders")
async def _holders(request: HoldersRequest) -> HoldersGone:
    raise NotImplementedError(request)


async def route_activity(request: RouteRequest, summary: str) -> RouteAnswer:
    """Let the classifier and the policy decide on a tier."""
    return await workflow.execute_local_activity(
        _route,
        request,
        start_to_close_timeout=timedelta(seconds=5),
        retry_policy=_TWICE,
        summary=summary,
    )


async def fleet_activity() -> str:
    """Record what this run knows of the fleet: a packed FleetSnapshot."""
    return await workflow.execute_local_activity(
        _fleet,
        start_to_close_timeout=timedelta(seconds=5),
        retry_policy=_TWICE,
        summary="fleet",
    )


async def spent_activity(run_id: str) -> Spent:
    """Ask the run that a reset has ended what it spent."""
    return await workflow.execute_local_activity(
        _spent,
        run_id,
        start_to_close_timeout=timedelta(seconds=20),
        retry_policy=RetryPolicy(maximum_interval=timedelta(seconds=10)),
        summary="what was spent before the reset",
    )


async def alert_activity(alert: Alert) -> None:
    """Tell people that the cost of the hour has crossed its threshold."""
    await workflow.execute_activity(
        _alert,
        alert,
        schedule_to_close_timeout=_TELL_FOR,
        start_to_close_timeout=timedelta(seconds=20),
        retry_policy=_TELL,
        summary=f"alert: {alert.hour_usd.normalize():f} USD in an hour reach "
        f"{alert.threshold_usd.normalize():f}",
    )


async def open_claims_activity(fleet: str) -> ClaimsOpened:
    """Start the claims of a fleet, unless they were ended by somebody."""
    return await workflow.execute_local_activity(
        _open_claims,
        fleet,
        start_to_close_timeout=timedelta(seconds=10),
        retry_policy=_TWICE,
        summary="start the claims workflow",
    )


async def holders_activity(request: HoldersRequest) -> HoldersGone:
    """Ask the server which holders have ended; not for long: it is asked again."""
    return await workflow.execute_activity(
        _holders,
        request,
        start_to_close_timeout=timedelta(seconds=20),
        schedule_to_close_timeout=timedelta(seconds=30),
        retry_policy=_TWICE,
        summary=f"looks after {len(request.holders)} holders",
    )


def attempt_activity(
    request: AgentRequest, summary: str, patience: timedelta | None = None
) -> workflow.ActivityHandle[AgentResult]:
    """Start one attempt: one activity, one payment, never retried by the server.

    The activity's type is the role, so that timelines and metrics speak of
    roles. Cancelling waits until the provider's connection is closed.

    Args:
        request: The attempt.
        summary: For people.
        patience: How long it may wait for a worker.
    """
    return workflow.start_activity(
        request.role,
        _shortened(request),
        task_queue=request.route.queue,
        result_type=AgentResult,
        schedule_to_start_timeout=patience,
        start_to_close_timeout=request.timeout + GRACE,
        heartbeat_timeout=HEARTBEAT_TIMEOUT,
        retry_policy=_ONCE,
        cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        summary=summary,
    )


def _shortened(request: AgentRequest) -> AgentRequest:
    """Leave out of the Route what history has beside the request.

    The queue stands in the same event; what a classifier said stands in the
    route activity's marker.
    """
    known: dict[str, object] = {"queue": ""}
    if request.route.classifier:
        known |= {"reason": "", "classifier": "", "complexity": None, "scores": {}}
    return request.model_copy(update={"route": request.route.model_copy(update=known)})
