"""What a pool may come to: its file, what was applied, the provider, the money; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from tierpool.budget.claim_limits import claim_limits
from tierpool.budget.limits import fleet_limits
from tierpool.contracts.claims import role_of
from tierpool.contracts.ledger import CALLS, Cap, requests_of, tokens_of
from tierpool.contracts.reports import WorkerReport
from tierpool.fleet import LoadedFleet
from tierpool.pools.observe import FleetStatus, PoolStatus
from tierpool.scaling.file_limits import role_caps
from tierpool.scaling.policy import Limits

__all__ = ["Reach", "pool_limits", "taking"]

_SOON_PER_HOUR = 12
"""What may be spent within five minutes, as a rate."""


@dataclass(frozen=True, slots=True)
class Reach:
    """What can be changed, and how fast."""

    lead_seconds: float
    whole_workers: bool
    """Whether workers come and go; else only the instances of those there are."""


def taking(status: FleetStatus, pool: str) -> Sequence[WorkerReport]:
    """Return the processes that take calls of a pool, and go on doing so."""
    return [one for one in status.workers if one.stays and pool in one.serves]


def pool_limits(
    fleet: LoadedFleet, status: FleetStatus, pool: PoolStatus, reach: Reach
) -> Limits:
    """Return the limits of a tier's pool, over all of its workers.

    What is decided comes as whole steps: the instances of one worker, or, where
    workers do not come and go, one instance of each.
    """
    of_file = fleet.fleet.tiers[pool.pool].pool
    spec = status.limits.pools.get(pool.pool, of_file)
    scaling = of_file.scaling
    if reach.whole_workers:
        step = spec.max_instances
        least, most = scaling.min_workers * step, scaling.max_workers * step
    else:
        step = len(taking(status, pool.pool))
        least, most = step * max(1, spec.min_instances), step * spec.max_instances
    caps = _caps(fleet, status)
    queue = fleet.queues[pool.pool][0]
    return Limits(
        min_instances=min(least, most),
        max_instances=most,
        step=max(1, step),
        lead_seconds=reach.lead_seconds,
        wait_target_seconds=scaling.wait_target_secs,
        scale_up_threshold=spec.scale_up_threshold,
        scale_down_idle_seconds=spec.scale_down_idle_secs,
        requests_per_minute=_minute(caps.get(requests_of(queue), ())),
        tokens_per_minute=_minute(caps.get(tokens_of(queue), ())),
        usd_per_hour=_per_hour(status),
        role_caps=role_caps(fleet, pool.pool, _of_roles(fleet, status)),
        max_concurrent=caps[CALLS][0].amount if caps.get(CALLS) else None,
    )


def _caps(fleet: LoadedFleet, status: FleetStatus) -> Mapping[str, tuple[Cap, ...]]:
    """Return what the ledger keeps; while it is silent, what it should keep."""
    kept = status.shared.ledger.effective
    if kept is not None and kept.caps:
        return kept.caps
    applied = status.limits.shared
    return (applied or fleet_limits(fleet)).caps


def _minute(caps: tuple[Cap, ...]) -> int | None:
    whole = [cap.amount for cap in caps if cap.seconds >= 60]
    return min(whole) if whole else None


def _per_hour(status: FleetStatus) -> Decimal | None:
    soon = status.shared.ledger.soon_usd
    return None if soon is None else soon * _SOON_PER_HOUR


def _of_roles(fleet: LoadedFleet, status: FleetStatus) -> Mapping[str, int]:
    """Return the caps of roles that count now; the file's if none were applied."""
    caps = (status.limits.claims or claim_limits(fleet)).caps
    known = ((name, caps.get(role_of(name))) for name in fleet.snapshot.roles)
    return {name: some[0].amount for name, some in known if some}
