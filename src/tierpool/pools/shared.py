"""The fleet-wide limits at one moment: the ledger and the claims, for people."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

from temporalio.client import Client

from tierpool.budget.claim_limits import claim_limits
from tierpool.budget.ledger import Ledger, dollars
from tierpool.budget.limits import fleet_limits
from tierpool.contracts.claims import ClaimsState
from tierpool.contracts.ledger import USD, Cap, FleetLimits, LedgerState
from tierpool.contracts.limits import AppliedLimits
from tierpool.contracts.reports import LeaseReport, WorkerReport
from tierpool.fleet import LoadedFleet
from tierpool.leases.lease import called
from tierpool.pools.entities import Asked, EntityLife, ask_claims, ask_ledger

__all__ = [
    "ClaimStatus",
    "ClaimsStatus",
    "LedgerStatus",
    "LimitStatus",
    "SharedStatus",
    "as_workers_know",
    "claims_status",
    "ledger_status",
    "notes_on_shared",
    "observe_shared",
]

_SHOWN = 20
"""Claims that are told one by one."""
_RECOVER = "run `tierpool ledger recover`"


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
    leased_usd: Decimal | None = None
    cap_usd: Decimal | None = None
    alert_usd: Decimal | None = None
    alerting: bool = False
    limits: tuple[LimitStatus, ...] = ()
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
    notes: tuple[str, ...] = ()


async def observe_shared(client: Client, fleet: LoadedFleet) -> SharedStatus:
    """Ask the ledger and the claims; takes a few seconds if nobody answers for them.

    Raises:
        RPCError: if the server does not answer.
    """
    ledger, claims = await asyncio.gather(
        ask_ledger(client, fleet.name), ask_claims(client, fleet.name)
    )
    now = datetime.now(UTC)
    notes = []
    if ledger.answer is not None and ledger.life == "running":
        notes = _differences(ledger.answer.effective, fleet_limits(fleet))
    return SharedStatus(
        ledger_status(ledger, now), claims_status(claims, now), tuple(notes)
    )


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
            _amount(name, ledger.used(name, at)),
            _amount(name, ledger.held(name)),
            _amount(name, sum(one.reserved.get(name, 0) for one in living.values())),
            _amount(name, some[0].amount),
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
        leased_usd=dollars(ledger.held(USD)),
        cap_usd=dollars(caps[USD][0].amount) if caps.get(USD) else None,
        alert_usd=ledger.effective.alert_usd,
        alerting=state.alerting,
        limits=limits,
        lessees=len(living),
        generation=ledger.effective.generation,
        closed_until=_closed(state.closed_until, now),
        closed_why=state.closed_why if state.closed_until > at else "",
    )


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


def notes_on_shared(
    shared: SharedStatus,
    fleet: LoadedFleet,
    reports: Sequence[WorkerReport],
    applied: AppliedLimits,
) -> list[str]:
    """Say what somebody should look at; pure.

    Args:
        shared: The ledger and the claims.
        fleet: As this file says.
        reports: Of the processes that live.
        applied: Limits that go before those of the file.
    """
    ledger, claims = shared.ledger, shared.claims
    limits = applied.shared or fleet_limits(fleet)
    roles = applied.claims or claim_limits(fleet)
    notes = _on_life("ledger", ledger, sorted(map(called, limits.caps)))
    if claims.life != "none":  # they begin with the first item that needs one
        notes += _on_life("claims workflow", claims, sorted(roles.caps))
    notes += _on_leases(reports)
    return notes if applied.shared else [*notes, *shared.notes]


def _on_life(
    what: str, status: LedgerStatus | ClaimsStatus, limited: Sequence[str]
) -> list[str]:
    """Say that nobody keeps limits, and what follows."""
    names = ", ".join(limited)
    if status.life == "ended":
        then = f"nothing begins that needs {names}" if names else "nothing is counted"
        return [f"the {what} was {status.ended}, and {then}: {_RECOVER}"]
    if status.life == "none" and names:
        return [
            f"no {what} keeps {names} yet: it begins with the first "
            "`tierpool worker --control`"
        ]
    if status.silence and status.life == "running":
        start = "start one: tierpool worker --control"
        return [f"the {what} does not answer: {status.silence}; {start}"]
    if status.closed_until is not None:
        until = f"{status.closed_until:%Y-%m-%d %H:%M:%S} UTC"
        return [f"the {what} grants nothing until {until}: {status.closed_why}"]
    return []


def _on_leases(reports: Sequence[WorkerReport]) -> list[str]:
    """Name workers that have no lease and know why, by reason."""
    without: dict[str, list[str]] = {}
    for report in reports:
        lease = report.lease
        if lease and lease.limited and not lease.valid and lease.trouble:
            without.setdefault(lease.trouble, []).append(report.where)
    return [
        f"without a valid lease: {', '.join(who)}: {why}"
        for why, who in without.items()
    ]


def _differences(running: FleetLimits, file: FleetLimits) -> list[str]:
    """Name limits of the running ledger that this file has otherwise."""
    if running.generation or running == FleetLimits():
        return []  # they were applied, or no worker has told of any yet
    told = [
        f"{called(name)} is {_told(name, running.caps.get(name))}, "
        f"here {_told(name, file.caps.get(name))}"
        for name in sorted(running.caps.keys() | file.caps.keys())
        if running.caps.get(name) != file.caps.get(name)
    ]
    if running.alert_usd != file.alert_usd:
        here = _money(file.alert_usd)
        told.append(f"alert_threshold_usd is {_money(running.alert_usd)}, here {here}")
    if not told:
        return []
    return [f"the ledger keeps other limits than this file: {'; '.join(told)}"]


def _told(name: str, caps: tuple[Cap, ...] | None) -> str:
    if not caps:
        return "not set"
    amount = _amount(name, caps[0].amount)
    return f"${amount}" if name == USD else f"{amount:,}"


def _money(usd: Decimal | None) -> str:
    return "not set" if usd is None else f"${usd}"


def _amount(resource: str, amount: int) -> Decimal | int:
    return dollars(amount) if resource == USD else amount


def _closed(until: float, now: datetime) -> datetime | None:
    return datetime.fromtimestamp(until, UTC) if until > now.timestamp() else None


def _ended(asked: Asked[LedgerState] | Asked[ClaimsState]) -> str:
    if asked.life != "ended":
        return ""
    return f"{asked.how} at {asked.at:%Y-%m-%d %H:%M:%S} UTC" if asked.at else asked.how
