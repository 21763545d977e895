"""Limits that are applied to a running fleet, over those of its file."""

from __future__ import annotations

from datetime import datetime

from tierpool.contracts.claims import ClaimLimits
from tierpool.contracts.ledger import FleetLimits
from tierpool.contracts.wire import Wire

__all__ = [
    "APPLY_UPDATE",
    "LIMITS_MEMO",
    "SCALE_UPDATE",
    "AppliedLimits",
    "LimitsRequest",
    "PoolLimits",
    "ScaleRequest",
    "limits_id",
    "limits_of",
]

LIMITS_MEMO = "tierpool_limits"
"""Memo of the workflow, where workers read them without asking anybody's worker."""

APPLY_UPDATE = "apply"
SCALE_UPDATE = "scale"


class PoolLimits(Wire):
    """What can change of a pool while it runs; the keys of agents.yaml."""

    min_instances: int
    max_instances: int
    scale_up_threshold: int
    scale_down_idle_secs: int
    max_requests_per_agent: int


class LimitsRequest(Wire):
    """Argument of the update `apply`."""

    by: str = ""
    """Who asks, for people."""
    until: datetime | None = None
    """After this time it is refused: who asked has been told that it failed."""
    pools: dict[str, PoolLimits] = {}
    """All of them, by tier; none: the files of the workers count again."""
    shared: FleetLimits | None = None
    """What the ledger keeps for the whole fleet."""
    claims: ClaimLimits | None = None
    """What the claims keep: of roles, and of work in progress."""


class ScaleRequest(Wire):
    """Argument of the update `scale`: what an autoscaler wants for a while."""

    pools: dict[str, int] = {}
    """Instances of one worker process, by tier; within what file and `apply` allow."""
    until: datetime
    """Then workers go by their limits again: the autoscaler may be gone."""


class AppliedLimits(Wire):
    """What was applied last, and what an autoscaler wants meanwhile."""

    id: str = ""
    """Tells it from all else that was ever applied; empty: nothing was."""
    generation: int = 0
    """Counts what this workflow has taken, for people."""
    at: datetime | None = None
    by: str = ""
    pools: dict[str, PoolLimits] = {}
    shared: FleetLimits | None = None
    claims: ClaimLimits | None = None
    scaled: dict[str, int] = {}
    """Instances of one worker process, by tier."""
    scaled_until: datetime | None = None

    def scaled_now(self, now: datetime) -> dict[str, int]:
        """Return what an autoscaler wants at a time; nothing if it has been silent."""
        heard = self.scaled_until is not None and now < self.scaled_until
        return self.scaled if heard else {}


def limits_of(limits: LimitsRequest | AppliedLimits) -> tuple[object, ...]:
    """Return what is limited, without who did it, when, and how often."""
    shared, claims = limits.shared, limits.claims
    return (
        limits.pools,
        shared.model_copy(update={"generation": 0}) if shared else None,
        claims.model_copy(update={"generation": 0}) if claims else None,
    )


def limits_id(fleet: str) -> str:
    """Return the ID of the workflow that keeps a fleet's limits."""
    return f"{fleet}-limits"
