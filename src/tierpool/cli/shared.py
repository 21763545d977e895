"""How `tierpool status` writes the fleet-wide limits."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

from tierpool.cli.common import many
from tierpool.contracts.claims import role_of, wip_of
from tierpool.contracts.ledger import CALLS, USD
from tierpool.pools.shared import (
    ClaimsStatus,
    ClaimStatus,
    LedgerStatus,
    LimitStatus,
    SharedStatus,
    claimed_as,
)

__all__ = ["shared_lines"]

_SHOWN = 5
_GAUGES = (role_of(""), wip_of(""))


def shared_lines(shared: SharedStatus) -> list[str]:
    """Write what the whole fleet has used of its limits, one limit a line."""
    return [*_of_ledger(shared.ledger), *_of_claims(shared.claims)]


def _of_ledger(ledger: LedgerStatus) -> Iterator[str]:
    if ledger.hour_usd is not None:
        yield _hour(ledger)
    for limit in ledger.limits:
        if limit.resource != USD:
            yield _limit(limit)
    if ledger.limits or ledger.lessees:
        holds = "holds" if ledger.lessees == 1 else "hold"
        yield f"leases: {many(ledger.lessees, 'worker')} {holds} one"


def _hour(ledger: LedgerStatus) -> str:
    parts = [f"${_usd(ledger.hour_usd)} settled", f"${_usd(ledger.leased_usd)} leased"]
    if ledger.cap_usd is not None:
        parts.append(f"at most ${_usd(ledger.cap_usd)}")
    if ledger.alert_usd is not None:
        above = " (above it)" if ledger.alerting else ""
        parts.append(f"alert at ${_usd(ledger.alert_usd)}{above}")
    if ledger.told_by_workers:
        parts.append("as workers heard last")
    return f"dollars of the hour: {', '.join(parts)}"


def _limit(limit: LimitStatus) -> str:
    waits = ""
    if limit.waiting:
        verb = "waits" if limit.waiting == 1 else "wait"
        waits = f", {many(limit.waiting, 'worker')} {verb}"
    if limit.resource == CALLS:
        return (
            f"{limit.name}: {limit.reserved} in use, {limit.leased} leased, "
            f"of {limit.cap}{waits}"
        )
    return (
        f"{limit.name}: {limit.used:,} used, {limit.leased:,} leased, of {limit.cap:,}"
        f"{waits}"
    )


def _of_claims(claims: ClaimsStatus) -> Iterator[str]:
    for name, used, cap, waiting in claims.resources:
        if cap is None and not used and not waiting:
            continue
        of = "" if cap is None else f" of {cap:,}"
        use = "in use" if name.startswith(_GAUGES) else "in the last minute"
        yield f"{claimed_as(name)}: {used:,}{of} {use}, {waiting} waiting"
    yield from _some("held by", claims.first_held, claims.held)
    yield from _some("waiting", claims.first_waiting, claims.waiting)


def _some(what: str, claims: tuple[ClaimStatus, ...], count: int) -> Iterator[str]:
    if not count:
        return
    named = ", ".join(f"{c.id} ({c.seconds:.0f} s)" for c in claims[:_SHOWN])
    more = count - min(count, _SHOWN)
    yield f"claims {what}: {named}" + (f" and {more} more" if more else "")


def _usd(amount: Decimal | None) -> str:
    """Write four decimals, and more of what is smaller than that shows."""
    usd = amount or Decimal(0)
    if not usd:
        return "0.0000"
    whole, _, digits = f"{usd:.{max(4, 2 - usd.adjusted())}f}".partition(".")
    return f"{whole}.{digits[:4]}{digits[4:].rstrip('0')}"
