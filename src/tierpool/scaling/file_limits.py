"""What a pool may come to by the fleet file alone; pure.

The running fleet's limits, with what was applied and what is left of the hour's
money, are the autoscaler's.
"""

from __future__ import annotations

from collections.abc import Mapping

from tierpool.errors import UnknownName
from tierpool.fleet import LoadedFleet, RoleSnapshot
from tierpool.scaling.policy import Limits

__all__ = ["limits_of_file", "role_caps"]


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
        instances: Least and most, instead of the file's workers times `max_instances`.
        step: Instances of one worker, instead of `max_instances`.

    Raises:
        UnknownName: if there is no such tier.
    """
    tiers = fleet.fleet.tiers
    if tier not in tiers:
        raise UnknownName("tier", tier, tiers)
    spec, rate = tiers[tier].pool, tiers[tier].rate_limit
    roles = fleet.snapshot.roles.items()
    caps = {n: r.max_instances for n, r in roles if r.max_instances is not None}
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
        role_caps=role_caps(fleet, tier, caps),
        max_concurrent=fleet.fleet.max_concurrent,
    )


def role_caps(fleet: LoadedFleet, tier: str, caps: Mapping[str, int]) -> int | None:
    """Add up the caps of the roles that may come to a tier; None if one has none.

    Args:
        fleet: The file.
        tier: One of its tiers.
        caps: Calls at a time, by role; of the file, or of what was applied.
    """
    names = list(fleet.fleet.tiers)
    roles = [n for n, r in fleet.snapshot.roles.items() if _may_use(r, tier, names)]
    known = [caps[name] for name in roles if name in caps]
    return sum(known) if roles and len(known) == len(roles) else None


def _may_use(role: RoleSnapshot, tier: str, tiers: list[str]) -> bool:
    """Tell whether calls of a role may come to a tier; only `llm` roles call models."""
    if role.type != "llm":
        return False
    if role.tier.fixed is not None:
        return role.tier.fixed == tier
    if role.classifier == "llm" and tier == tiers[0]:
        return True  # its classifier asks the cheapest model
    low = tiers.index(role.tier.min) if role.tier.min else 0
    high = tiers.index(role.tier.max) if role.tier.max else len(tiers) - 1
    return low <= tiers.index(tier) <= high
