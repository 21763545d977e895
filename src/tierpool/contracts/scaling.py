"""Payloads between an autoscaler and the workflow that lets one of them lead."""

from __future__ import annotations

from datetime import datetime

from tierpool.contracts.wire import Wire

__all__ = [
    "LEAD_UPDATE",
    "SCALING_QUERY",
    "LeadAnswer",
    "LeadRequest",
    "PoolDecision",
    "ScalingState",
    "scaling_id",
]

LEAD_UPDATE = "lead"
SCALING_QUERY = "scaling"


def scaling_id(fleet: str) -> str:
    """Return the ID of the workflow by which one autoscaler leads."""
    return f"{fleet}-autoscaler"


class PoolDecision(Wire):
    """How large a pool should be, and why."""

    pool: str
    at: datetime
    policy: str = ""
    instances: int = 0
    """Desired, of the whole fleet."""
    workers: int = 0
    """Processes that have so many."""
    before: int = 0
    """Instances that there were."""
    constraint: str = "demand"
    """What decided: `demand`, a limit by its name, or `no_data`."""
    reason: str = ""
    wanted: float = 0.0
    """Instances that the demand called for, before any limit."""
    figures: dict[str, float] = {}
    """What the policy had estimated."""


class LeadRequest(Wire):
    """Argument of the update `lead`: an autoscaler that leads, or would like to."""

    who: str
    """Unique; a restarted autoscaler is another."""
    where: str = ""
    """`host:pid`, for people."""
    act: str = ""
    """What it changes: `slots`, `processes`, `kubernetes`, or `advise`."""
    seconds: float = 30.0
    """For how long nobody else leads after this."""
    trouble: str = ""
    """Why what it decided last was not done."""
    decisions: tuple[PoolDecision, ...] = ()
    """Taken since it led last; none from one that does not lead."""
    resigns: bool = False
    """It ends: somebody else may lead at once."""


class LeadAnswer(Wire):
    """Whether the autoscaler that asked leads now."""

    leads: bool = False
    leader: str = ""
    """Where the one that leads runs."""
    until: datetime | None = None
    decisions: tuple[PoolDecision, ...] = ()
    """The last of each pool, for one that takes over."""


class ScalingState(Wire):
    """Everything that the workflow keeps; its input, too."""

    fleet: str
    leader: str = ""
    """ID of the autoscaler that leads; empty: nobody does."""
    where: str = ""
    act: str = ""
    until: datetime | None = None
    """Then somebody else may lead."""
    trouble: str = ""
    decisions: tuple[PoolDecision, ...] = ()
    """The last of each pool."""
    changes: tuple[PoolDecision, ...] = ()
    """The last ones that changed a number, the youngest at the end."""
