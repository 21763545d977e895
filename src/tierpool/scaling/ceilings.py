"""What more instances cannot change: limits, as a number of instances; pure.

Rates become instances by Little's law: calls under way = calls per second times
seconds per call. More instances than that would only wait for permission.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from tierpool.scaling.policy import Constraint, Decision, Limits, Observation, Policy

__all__ = ["Bounded", "Ceiling", "bound", "ceiling"]

S = TypeVar("S")

_TOLERANCE = 0.1
"""A ceiling from a measured mean moves with every call; within this share of it,
or half an instance, the size stays as it is."""


@dataclass(frozen=True, slots=True)
class Ceiling:
    """The lowest of the limits."""

    instances: int
    constraint: Constraint
    exact: float
    """Before rounding up."""
    why: str
    """The limit and what it comes to, for people."""

    @property
    def measured(self) -> bool:
        """Whether it comes from a measured mean, so that it moves all the time."""
        return self.constraint in _MEASURED


_MEASURED: tuple[Constraint, ...] = (
    "requests_per_minute",
    "tokens_per_minute",
    "max_cost_per_hour_usd",
)


def ceiling(seen: Observation, limits: Limits) -> Ceiling:
    """Return the lowest limit; of equal ones the one that is named first in agents.yaml.

    A rate whose calls' duration, size or cost nobody knows yet is no limit.
    """
    found = list(_ceilings(seen, limits))
    return min(found, key=lambda one: one.exact)


def bound(decision: Decision, seen: Observation, limits: Limits) -> Decision:
    """Return the decision within the limits, saying which one decided.

    The minimum is above every ceiling but `max_instances`. Whole workers are
    taken: the number is rounded up to a multiple of `step`, up to `max_instances`.
    """
    top = ceiling(seen, limits)
    asked = decision.instances
    number, why, reason = asked, decision.constraint, decision.reason
    if asked > top.instances:
        number, why = top.instances, top.constraint
        current = seen.instances + seen.starting
        slack = max(0.5, _TOLERANCE * top.exact)
        if top.measured and abs(current - top.exact) <= slack and current <= asked:
            number = current
        reason = f"bound by {top.why}; {decision.reason}"
    elif asked == 0 and seen.backlog and top.instances > 0:
        number = 1
        reason = f"{seen.backlog} calls wait and there is no instance"
    if number < limits.min_instances:
        number = limits.min_instances
        if why == "demand":
            why = "min_instances"
            reason = f"min_instances {limits.min_instances}; {decision.reason}"
    whole = math.ceil(number / limits.step) * limits.step
    number = max(0, min(whole, limits.max_instances))
    return replace(decision, instances=number, constraint=why, reason=reason)


@dataclass(frozen=True, slots=True)
class Bounded(Generic[S]):
    """A policy within the limits."""

    policy: Policy[S]

    @property
    def name(self) -> str:
        """Name of the policy."""
        return self.policy.name

    def start(self) -> S:
        """Return the state of the policy."""
        return self.policy.start()

    def decide(self, seen: Observation, limits: Limits, state: S) -> tuple[Decision, S]:
        """Let the policy decide, and apply the limits."""
        decision, state = self.policy.decide(seen, limits, state)
        return bound(decision, seen, limits), state


def _ceilings(seen: Observation, limits: Limits) -> Iterator[Ceiling]:
    """Return every limit that can be told as a number of instances."""
    yield _count("max_instances", limits.max_instances)
    seconds = seen.mean_seconds
    if limits.requests_per_minute is not None and seconds:
        exact = limits.requests_per_minute / 60 * seconds
        per = f"{limits.requests_per_minute} at {seconds:.3g} s a call"
        yield _rate("requests_per_minute", exact, per)
    size = seen.tokens_per_call
    if limits.tokens_per_minute is not None and seconds and size:
        exact = limits.tokens_per_minute / size / 60 * seconds
        per = f"{limits.tokens_per_minute} at {size:.0f} tokens and {seconds:.3g} s a call"
        yield _rate("tokens_per_minute", exact, per)
    yield from _money(seen, limits)
    if limits.role_caps is not None:
        yield _count("role_caps", limits.role_caps)
    if limits.max_concurrent is not None:
        yield _count("max_concurrent", limits.max_concurrent)


def _money(seen: Observation, limits: Limits) -> Iterator[Ceiling]:
    """Return what may still be spent, as instances."""
    left, cost, seconds = limits.usd_per_hour, seen.usd_per_call, seen.mean_seconds
    if left is None:
        return
    if left <= 0:
        yield _rate("max_cost_per_hour_usd", 0.0, "nothing is left")
    elif cost and seconds:
        exact = float(left / cost) / 3600 * seconds
        per = f"{left:.2f} left at {cost:.4f} and {seconds:.3g} s a call"
        yield _rate("max_cost_per_hour_usd", exact, per)


def _count(name: Constraint, number: int) -> Ceiling:
    """Return a limit that is a number of instances itself."""
    return Ceiling(number, name, float(number), f"{name} {number}")


def _rate(name: Constraint, exact: float, per: str) -> Ceiling:
    """Return a limit that came from a rate; a part of an instance is one."""
    why = f"{name} ({per}: {exact:.1f} instances)"
    return Ceiling(math.ceil(exact - 1e-9), name, exact, why)
