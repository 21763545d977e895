"""What somebody should look at in the fleet-wide limits; pure."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from tierpool.budget.claim_limits import claim_limits
from tierpool.budget.limits import fleet_limits
from tierpool.budget.resources import called, told
from tierpool.contracts.claims import ClaimLimits, role_of, wip_of
from tierpool.contracts.ledger import Cap, FleetLimits
from tierpool.contracts.limits import AppliedLimits
from tierpool.contracts.reports import WorkerReport
from tierpool.fleet import LoadedFleet
from tierpool.pools.shared import (
    ClaimsStatus,
    LedgerStatus,
    SharedStatus,
    claimed_as,
)

__all__ = ["notes_on_shared"]

_RECOVER = "run `tierpool ledger recover`"
_GAUGES = (role_of(""), wip_of(""))


def notes_on_shared(
    shared: SharedStatus,
    fleet: LoadedFleet,
    reports: Sequence[WorkerReport],
    applied: AppliedLimits,
) -> list[str]:
    """Say what somebody should look at.

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
        notes += _on_life(
            "claims workflow", claims, sorted(map(claimed_as, roles.caps))
        )
    notes += _on_leases(reports)
    if ledger.life == "running" and ledger.effective and not applied.shared:
        notes += _differences(ledger.effective, fleet_limits(fleet))
    if claims.life == "running" and claims.resources and not applied.claims:
        notes += _other_claims(claims, claim_limits(fleet))
    return notes


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
            f"no {what} keeps {names} yet: the first worker starts it, and a "
            "`tierpool worker --control` has to run"
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


def _other_claims(running: ClaimsStatus, file: ClaimLimits) -> list[str]:
    """Name role caps and WIP limits of the running claims that this file has otherwise."""
    kept = {n: cap for n, _, cap, _ in running.resources if n.startswith(_GAUGES)}
    here = {n: some[0].amount for n, some in file.caps.items() if n.startswith(_GAUGES)}
    told = [
        f"{claimed_as(name)} is {_number(kept.get(name))}, "
        f"here {_number(here.get(name))}"
        for name in sorted(kept.keys() | here.keys())
        if kept.get(name) != here.get(name)
    ]
    if not told:
        return []
    return [f"the claims workflow keeps other limits than this file: {'; '.join(told)}"]


def _number(amount: int | None) -> str:
    return "not set" if amount is None else f"{amount:,}"


def _told(name: str, caps: tuple[Cap, ...] | None) -> str:
    if not caps:
        return "not set"
    return told(name, caps[0].amount)


def _money(usd: Decimal | None) -> str:
    return "not set" if usd is None else f"${usd.normalize():f}"
