"""The limits of roles and of work in progress, as caps on resources."""

from __future__ import annotations

from tierpool.budget.limits import rate_caps
from tierpool.contracts.claims import ClaimLimits, role_of, wip_of
from tierpool.contracts.ledger import Cap
from tierpool.fleet import LoadedFleet

__all__ = ["claim_limits"]


def claim_limits(fleet: LoadedFleet) -> ClaimLimits:
    """Return what the claims of a fleet have to keep."""
    caps: dict[str, tuple[Cap, ...]] = {
        wip_of(name): (Cap(amount=amount),)
        for name, amount in fleet.fleet.backpressure.items()
    }
    for name, role in fleet.fleet.agents.items():
        if role.max_instances is not None:
            caps[role_of(name)] = (Cap(amount=role.max_instances),)
        caps |= rate_caps(name, role.rate_limit)
    return ClaimLimits(caps=caps)
