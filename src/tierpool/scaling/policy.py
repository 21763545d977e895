"""What a scaling policy is told, and what it says; pure.

Observing and acting are done elsewhere, in the running fleet or in the
simulator: a policy cannot tell which. Times are seconds of one clock that only
goes forward; an instance runs one call at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal, Protocol, TypeAlias, TypeVar

__all__ = ["Constraint", "Decision", "Limits", "Observation", "Policy"]

Constraint: TypeAlias = Literal[
    "demand",
    "min_instances",
    "max_instances",
    "requests_per_minute",
    "tokens_per_minute",
    "max_cost_per_hour_usd",
    "role_caps",
    "max_concurrent",
    "no_data",
]
"""What decided on the number: `demand`, a limit by its name, or `no_data`, when
too little is known and the number stays."""


@dataclass(frozen=True, slots=True)
class Observation:
    """One pool of the whole fleet at one moment. None: nobody knows."""

    at: float
    instances: int
    """Calls that may run at a time now, on all workers that take calls."""
    starting: int = 0
    """Instances that were asked for and do not take calls yet."""
    busy: int | None = None
    """Calls under way."""
    backlog: int | None = None
    """Calls that wait, some seconds ago."""
    oldest_seconds: float | None = None
    """Age of the oldest of them."""
    arrivals_per_second: float | None = None
    """Mean over the last 30 s."""
    completions_per_second: float | None = None
    """Mean over the last 30 s."""
    mean_seconds: float | None = None
    """Mean duration of the calls that ended within the last minutes."""
    tokens_per_call: float | None = None
    """Mean of input and output together, within the last minutes."""
    usd_per_call: Decimal | None = None
    """Mean cost, within the last minutes."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a pool may come to, and how soon; None: no limit."""

    min_instances: int = 1
    max_instances: int = 8
    """Of the whole fleet, as is the minimum."""
    step: int = 1
    """Instances of one worker: the desired number is a multiple of it where the
    limits allow."""
    lead_seconds: float = 2.0
    """From a decision for more until the instances take calls."""
    wait_target_seconds: float = 5.0
    """95 of 100 calls should begin within this time."""
    scale_up_threshold: int = 4
    """Backlog that calls for more, for the policy `threshold`."""
    scale_down_idle_seconds: float = 300.0
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    usd_per_hour: Decimal | None = None
    """What may still be spent within the coming hour."""
    role_caps: int | None = None
    """Calls at a time that the roles of this pool may make together."""
    max_concurrent: int | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """How many instances a pool should have from now on, and why."""

    instances: int
    constraint: Constraint
    reason: str
    """One line for people, with the figures that decided."""
    wanted: float = 0.0
    """Instances that the demand calls for, before any limit."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """What was estimated: `arrivals_per_second`, `peakedness`, `skill` and so on."""


S = TypeVar("S")


class Policy(Protocol[S]):
    """Decides on the size of a pool; its state goes from one decision to the next."""

    @property
    def name(self) -> str:
        """Name in agents.yaml and on the command line."""

    def start(self) -> S:
        """Return the state of a policy that has seen nothing."""

    def decide(self, seen: Observation, limits: Limits, state: S) -> tuple[Decision, S]:
        """Decide; a number that nothing speaks for is never changed."""
