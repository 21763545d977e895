"""Starts the ledger and the claims again after somebody has ended them.

Seeded from the ended run, nothing is forgotten. Where that cannot be asked,
what is started grants nothing until all that it does not know of is over.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeAlias

from temporalio.client import Client
from temporalio.common import WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError

from tierpool.budget.claim_limits import claim_limits
from tierpool.budget.limits import fleet_limits
from tierpool.contracts.claims import DEAD_GRACE, ClaimsState
from tierpool.contracts.ledger import FleetLimits, LedgerState
from tierpool.contracts.limits import AppliedLimits
from tierpool.errors import ServerError
from tierpool.fleet import LoadedFleet
from tierpool.leases.applied import applied_limits
from tierpool.pools.entities import Asked, EntityLife, ask_claims, ask_ledger
from tierpool.pools.wip import holds_of_items

__all__ = ["Plan", "What", "carry_out", "closed_seconds", "plan_recovery"]

What: TypeAlias = Literal["ledger", "claims"]

_PATIENCE = timedelta(seconds=15)
"""The ended run is replayed for the answer."""
_LONGEST_LEASE = 60.0
"""Seconds: six periods, of ten seconds at most."""
_TYPES: dict[What, tuple[str, str]] = {
    "ledger": ("LedgerWorkflow", "leases of everything that is limited"),
    "claims": ("ClaimsWorkflow", "Claims on roles and WIP limits"),
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What recovering one of them means."""

    what: What
    id: str
    life: EntityLife
    """None and running ones need no recovery."""
    how: str = ""
    """How it ended."""
    at: datetime | None = None
    """When it ended, or when the running one began."""
    seeded: bool = False
    """Whether all that it knew is taken over."""
    unknown: str = ""
    """Why it is not."""
    closed_until: datetime | None = None
    """Until when nothing is granted."""
    holds: int = 0
    """WIP limits that items hold, as they say themselves."""
    state: LedgerState | ClaimsState | None = None
    """What the new run begins with; None: nothing is to be started."""
    started: bool = False
    outrun: bool = False
    """Somebody else has started it meanwhile."""


async def plan_recovery(
    client: Client, fleet: LoadedFleet, what: What, *, closed: bool = False
) -> Plan:
    """Find out what there is to recover; changes nothing.

    Args:
        client: A client with TierpoolPlugin.
        fleet: Whose limits count where nothing is known.
        what: Which of them.
        closed: Take nothing over, and start closed also where nothing ever ran.

    Raises:
        ServerError: if the server does not answer.
    """
    try:
        applied = await applied_limits(client, fleet.name)
        asked: Asked[Any] = await (
            ask_ledger(client, fleet.name, _PATIENCE)
            if what == "ledger"
            else ask_claims(client, fleet.name, _PATIENCE)
        )
        plan = Plan(what, asked.id, asked.life, asked.how, asked.at)
        if asked.life == "running" or (asked.life == "none" and not closed):
            return plan
        if asked.answer is not None and not closed:
            return replace(plan, seeded=True, state=_seed(asked.answer))
        plan = replace(plan, unknown="as asked for" if closed else asked.silence)
        return await _closed(client, fleet, plan, applied)
    except RPCError as error:
        raise ServerError(f"the Temporal server says: {error.message}") from error


async def carry_out(client: Client, fleet: LoadedFleet, plan: Plan) -> Plan:
    """Start what a plan says, unless one is running by now.

    Raises:
        ServerError: if the server does not answer.
    """
    if plan.state is None:
        return plan
    kind, summary = _TYPES[plan.what]
    try:
        await client.start_workflow(
            kind,
            plan.state,
            id=plan.id,
            task_queue=f"{fleet.name}-control",
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            static_summary=summary,
        )
    except WorkflowAlreadyStartedError:
        return replace(plan, outrun=True)
    except RPCError as error:
        raise ServerError(f"the Temporal server says: {error.message}") from error
    return replace(plan, started=True)


def _seed(state: LedgerState | ClaimsState) -> LedgerState | ClaimsState:
    """Take over what an ended run knew, as it stands.

    That covers what was spent since. A lease lasts for some seconds beyond the
    end, and all that could be used under it was granted before: the record of a
    lessee counts until its calls must be over, and as used for a window after
    that. A lessee that lives tells the new run its totals; one that was not heard
    in time begins anew. What the ledger granted without being heard stands in its
    state, and nobody uses what it never answered.
    """
    if isinstance(state, ClaimsState):
        return state.model_copy(update={"resources": {}})
    return state


async def _closed(
    client: Client, fleet: LoadedFleet, plan: Plan, applied: AppliedLimits
) -> Plan:
    """Plan a start without knowledge: closed until what was granted is over."""
    ended = plan.at or datetime.now(UTC)
    limits = [fleet_limits(fleet), *([applied.shared] if applied.shared else [])]
    seconds = closed_seconds(plan.what, limits)
    until = ended + timedelta(seconds=seconds)
    why = f"recovered without what was known before ({plan.unknown})"
    shut = {"closed_until": until.timestamp(), "closed_why": why}
    if plan.what == "ledger":
        state: LedgerState | ClaimsState = LedgerState(fleet=fleet.name, **shut)
        return replace(plan, closed_until=_later(until), state=state)
    held = await holds_of_items(client, fleet)
    state = ClaimsState(
        fleet=fleet.name,
        limits=applied.claims or claim_limits(fleet),
        held=tuple(held),
        **shut,
    )
    return replace(plan, closed_until=_later(until), holds=len(held), state=state)


def closed_seconds(what: What, limits: list[FleetLimits]) -> float:
    """Return for how long after the end something may be unknown; pure.

    Of the ledger: until the last lease has run out, its calls are over, and what
    they used has left every window. Of the claims: until the longest call is over,
    and every minute of a rate.

    Args:
        what: Which of them.
        limits: That may have counted, of this file and applied ones.
    """
    calls = max(one.grace for one in limits)
    caps = [cap for one in limits for some in one.caps.values() for cap in some]
    if what == "claims":
        return DEAD_GRACE + max(calls, 60.0)
    return _LONGEST_LEASE + calls + max((cap.seconds for cap in caps), default=0.0)


def _later(until: datetime) -> datetime | None:
    """Return a time that is still to come."""
    return until if until > datetime.now(UTC) else None
