"""What a pool may come to by the fleet file alone; pure.

The running fleet's limits, with what was applied and what is left of the hour's
money, are the autoscaler's.
"""

from __future__ import annotations

from tierpool.errors import UnknownName
from tierpool.fleet import LoadedFleet, RoleSnapshot
from tierpool.scaling.policy import Limits

__all__ = ["limits_of_file", "may_use"]


def limits_of_file(
    fleet: LoadedFleet,
    tier: str,
    *,
    lead_seconds: float = 2.0,
    instances: tuple[int, int] | None = None,
    step: int | None = None,
) -> Limits:
    """Return the limits of a tier's pool, over all of its worker processes.

    Args:
        fleet: The file.
        tier: Its name.
        lead_seconds: From a decision for more until the instances take calls.
        instances: Least and most, instead of the file's workers times its
            `max_instances`.
        step: Instances of one worker, instead of `max_instances`.

    Raises:
        UnknownName: if there is no such tier.
    """
    tiers = fleet.fleet.tiers
    if tier not in tiers:
        raise UnknownName("tier", tier, tiers)
    spec, rate = tiers[tier].pool, tiers[tier].rate_limit
    size = max(1, spec.max_instances) if step is None else step
    least = spec.scaling.min_workers * spec.max_instances
    most = spec.scaling.max_workers * spec.max_instances
    if instances is not None:
        least, most = instances
    return Limits(
        min_instances=least,
        max_instances=most,
        step=min(size, max(1, most)),
        lead_seconds=lead_seconds,
        wait_target_seconds=spec.scaling.wait_target_secs,
        scale_up_threshold=spec.scale_up_threshold,
        scale_down_idle_seconds=float(spec.scale_down_idle_secs),
        requests_per_minute=rate.requests_per_minute if rate else None,
        tokens_per_minute=rate.tokens_per_minute if rate else None,
        usd_per_hour=fleet.fleet.guardrails.max_cost_per_hour_usd,
        role_caps=_role_caps(fleet, tier),
        max_concurrent=fleet.fleet.max_concurrent,
    )


def _role_caps(fleet: LoadedFleet, tier: str) -> int | None:
    """Add up the caps of the roles that may come to a tier; None if one has none."""
    names = list(fleet.fleet.tiers)
    roles = [r for r in fleet.snapshot.roles.values() if may_use(r, tier, names)]
    known = [role.max_instances for role in roles if role.max_instances is not None]
    return sum(known) if roles and len(known) == len(roles) else None


def may_use(role: RoleSnapshot, tier: str, tiers: list[str]) -> bool:
    """Tell whether calls of a role may come to a tier.

    Args:
        role: Any; only `llm` roles call models.
        tier: One of `tiers`.
        tiers: Names, the cheapest first.
    """
    if role.type != "llm":
        return False
    if role.tier.fixed is not None:
        return role.tier.fixed == tier
    low = tiers.index(role.tier.min) if role.tier.min else 0
    high = tiers.index(role.tier.max) if role.tier.max else len(tiers) - 1
    return low <= tiers.index(tier) <= high
