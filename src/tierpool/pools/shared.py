"""The fleet-wide limits at one moment: the ledger and the claims, for people."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

from temporalio.client import Client

from tierpool.budget.ledger import Ledger
from tierpool.budget.resources import called, dollars
from tierpool.contracts.claims import ClaimsState, role_of, wip_of
from tierpool.contracts.ledger import USD, FleetLimits, LedgerState
from tierpool.contracts.reports import LeaseReport, WorkerReport
from tierpool.fleet import LoadedFleet
from tierpool.pools.entities import Asked, EntityLife, ask_claims, ask_ledger

__all__ = [
    "ClaimStatus",
    "ClaimsStatus",
    "LedgerStatus",
    "LimitStatus",
    "SharedStatus",
    "amount_of",
    "as_workers_know",
    "claimed_as",
    "claims_status",
    "ledger_status",
    "observe_shared",
]

_ROLE, _WIP = role_of(""), wip_of("")
_SOON = 300.0
_SHOWN = 20
"""Claims that are told one by one."""


@dataclass(frozen=True, slots=True)
class LimitStatus:
    """One resource that the ledger limits."""

    resource: str
    name: str
    """The same for people, as agents.yaml calls it."""
    used: Decimal | int
    """Within the window; USD for money."""
    leased: Decimal | int
    """Granted to workers and not used yet."""
    reserved: Decimal | int
    """Of that, what calls under way hold."""
    cap: Decimal | int
    waiting: int
    """Workers that need more of it."""


@dataclass(frozen=True, slots=True)
class LedgerStatus:
    """The ledger at one moment."""

    life: EntityLife
    silence: str = ""
    """Why nothing is known from itself."""
    ended: str = ""
    """How and when it ended."""
    hour_usd: Decimal | None = None
    """Settled in the rolling hour; None: nobody knows."""
    soon_usd: Decimal | None = None
    """What may be spent within the next 5 minutes at least; None without a cap."""
    leased_usd: Decimal | None = None
    cap_usd: Decimal | None = None
    alert_usd: Decimal | None = None
    alerting: bool = False
    limits: tuple[LimitStatus, ...] = ()
    effective: FleetLimits | None = None
    """All that it keeps, as it keeps it."""
    lessees: int = 0
    """Workers that hold a valid lease."""
    generation: int = 0
    """Of the limits; 0: those of files."""
    closed_until: datetime | None = None
    closed_why: str = ""
    told_by_workers: bool = False
    """Whether the numbers are what workers heard last, because it is silent."""


@dataclass(frozen=True, slots=True)
class ClaimStatus:
    """A claim or a hold, granted or waiting."""

    id: str
    """`role/ITEM-ID` or `limit/ITEM-ID`."""
    needs: Mapping[str, int]
    seconds: float
    """For how long it has been held or waited for."""


@dataclass(frozen=True, slots=True)
class ClaimsStatus:
    """The claims at one moment."""

    life: EntityLife
    silence: str = ""
    ended: str = ""
    resources: tuple[tuple[str, int, int | None, int], ...] = ()
    """Name, used, cap, waiting."""
    held: int = 0
    waiting: int = 0
    first_held: tuple[ClaimStatus, ...] = ()
    """The oldest ones."""
    first_waiting: tuple[ClaimStatus, ...] = ()
    """Those that are served next."""
    closed_until: datetime | None = None
    closed_why: str = ""


@dataclass(frozen=True, slots=True)
class SharedStatus:
    """Everything that is limited for the whole fleet."""

    ledger: LedgerStatus
    claims: ClaimsStatus


async def observe_shared(client: Client, fleet: LoadedFleet) -> SharedStatus:
    """Ask the ledger and the claims; takes a few seconds if nobody answers for them.

    Raises:
        RPCError: if the server does not answer.
    """
    ledger, claims = await asyncio.gather(
        ask_ledger(client, fleet.name, hours=False), ask_claims(client, fleet.name)
    )
    now = datetime.now(UTC)
    return SharedStatus(ledger_status(ledger, now), claims_status(claims, now))


def ledger_status(asked: Asked[LedgerState], now: datetime) -> LedgerStatus:
    """Work out what a ledger's answer means now; pure."""
    about = LedgerStatus(asked.life, asked.silence, _ended(asked))
    if asked.answer is None:
        return about
    state, at = asked.answer, now.timestamp()
    ledger = Ledger(state)
    ledger.bury(at)
    caps = ledger.effective.caps
    living = ledger.alive(at)
    limits = tuple(
        LimitStatus(
            name,
            called(name),
            amount_of(name, ledger.used(name, at)),
            amount_of(name, ledger.held(name)),
            amount_of(name, sum(one.reserved.get(name, 0) for one in living.values())),
            amount_of(name, some[0].amount),
            sum(1 for one in living.values() if name in one.waits),
        )
        for name, some in caps.items()
        if some
    )
    return LedgerStatus(
        asked.life,
        asked.silence,
        about.ended,
        hour_usd=dollars(ledger.used(USD, at)),
        soon_usd=_soon(state, at),
        leased_usd=dollars(ledger.held(USD)),
        cap_usd=dollars(caps[USD][0].amount) if caps.get(USD) else None,
        alert_usd=ledger.effective.alert_usd,
        alerting=state.alerting,
        limits=limits,
        effective=ledger.effective,
        lessees=len(living),
        generation=ledger.effective.generation,
        closed_until=_closed(state.closed_until, now),
        closed_why=state.closed_why if state.closed_until > at else "",
    )


def _soon(state: LedgerState, at: float) -> Decimal | None:
    """Count what is free, and what leaves the window within some minutes."""
    ledger = Ledger(state)  # its own: asked for later times it forgets
    ledger.bury(at)
    cap = ledger.effective.caps.get(USD)
    if not cap:
        return None
    held = ledger.used(USD, at + _SOON) + ledger.held(USD)
    return dollars(max(0, cap[0].amount - held))


def claims_status(asked: Asked[ClaimsState], now: datetime) -> ClaimsStatus:
    """Work out what the answer of the claims means now; pure."""
    about = ClaimsStatus(asked.life, asked.silence, _ended(asked))
    if asked.answer is None:
        return about
    state, at = asked.answer, now.timestamp()
    oldest = sorted(state.held, key=lambda claim: claim.since)
    return ClaimsStatus(
        asked.life,
        asked.silence,
        about.ended,
        resources=tuple(
            (name, use.used, use.cap, use.waiting)
            for name, use in sorted(state.resources.items())
        ),
        held=len(state.held),
        waiting=len(state.waiting),
        first_held=tuple(
            ClaimStatus(c.id, c.needs, round(max(0.0, at - c.since), 1))
            for c in oldest[:_SHOWN]
        ),
        first_waiting=tuple(
            ClaimStatus(
                w.ask.id or w.ask.hold, w.ask.needs, round(max(0.0, at - w.since), 1)
            )
            for w in state.waiting[:_SHOWN]
        ),
        closed_until=_closed(state.closed_until, now),
        closed_why=state.closed_why if state.closed_until > at else "",
    )


def as_workers_know(
    status: LedgerStatus, reports: Sequence[WorkerReport]
) -> LedgerStatus:
    """Fill in what workers heard last from a ledger that does not answer; pure."""
    told = [r.lease for r in sorted(reports, key=lambda r: r.at) if r.lease]
    heard = [lease for lease in told if lease.renewals]
    if status.hour_usd is not None or not heard:
        return status
    last: LeaseReport = heard[-1]
    return LedgerStatus(
        status.life,
        status.silence,
        status.ended,
        hour_usd=last.hour_usd,
        leased_usd=last.held_usd - last.hour_usd,
        cap_usd=last.cap_usd,
        alerting=last.alerting,
        lessees=sum(lease.valid for lease in told),
        told_by_workers=True,
    )


def amount_of(resource: str, amount: int) -> Decimal | int:
    """Return an amount as people count it: USD for money."""
    return dollars(amount) if resource == USD else amount


def claimed_as(resource: str) -> str:
    """Name a resource of claims as agents.yaml does."""
    if resource.startswith(_ROLE):
        return f"max_instances of {resource.removeprefix(_ROLE)}"
    if resource.startswith(_WIP):
        return f"backpressure {resource.removeprefix(_WIP)}"
    return called(resource)


def _closed(until: float, now: datetime) -> datetime | None:
    return datetime.fromtimestamp(until, UTC) if until > now.timestamp() else None


def _ended(asked: Asked[LedgerState] | Asked[ClaimsState]) -> str:
    if asked.life != "ended":
        return ""
    return f"{asked.how} at {asked.at:%Y-%m-%d %H:%M:%S} UTC" if asked.at else asked.how
