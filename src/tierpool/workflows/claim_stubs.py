"""Typed signatures of the activities around claims; see `stubs`."""

from __future__ import annotations

from datetime import timedelta

from temporalio import activity, workflow
from temporalio.common import RetryPolicy

from tierpool.contracts.claims import ClaimsOpened, HoldersGone, HoldersRequest

__all__ = ["holders_activity", "open_claims_activity"]

_TWICE = RetryPolicy(maximum_attempts=2)


@activity.defn(name="tierpool_open_claims")
async def _open_claims(fleet: str) -> ClaimsOpened:
    raise NotImplementedError(fleet)


@activity.defn(name="tierpool_holders")
async def _holders(request: HoldersRequest) -> HoldersGone:
    raise NotImplementedError(request)


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
