"""Kubernetes' horizontal autoscaler on the backlog, and KEDA's temporal trigger.

Both divide a total by a target for each instance; the autoscaler's defaults do
the rest. Here to be compared with: no cluster is needed to see what they do.
Source: https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/,
as of 2026-11-22: tolerance 0.1; up by 100 % or 4 instances per 15 s, whichever is
more; down to the highest wish of the last 300 s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tierpool.scaling.policies.windows import Highs, highest
from tierpool.scaling.policy import Decision, Limits, Observation

__all__ = ["Autoscaled", "Hpa", "Keda"]

_TOLERANCE = 0.1
_PERIOD_SECONDS = 15.0
_STABLE_SECONDS = 300.0
_KEDA_TARGET = 0.9


@dataclass(frozen=True, slots=True)
class Autoscaled:
    """What the autoscaler remembers."""

    wishes: Highs = ()
    """Of the last five minutes."""
    sizes: tuple[tuple[float, int], ...] = ()
    """Times and sizes of the last period."""


@dataclass(frozen=True, slots=True)
class Hpa:
    """Backlog over `scale_up_threshold` for each instance."""

    name: str = "hpa"

    def start(self) -> Autoscaled:
        """Return the state of a policy that has seen nothing."""
        return Autoscaled()

    def decide(
        self, seen: Observation, limits: Limits, state: Autoscaled
    ) -> tuple[Decision, Autoscaled]:
        """Divide the backlog."""
        target = max(1, limits.scale_up_threshold)
        return _autoscale(seen, seen.backlog, target, state)


@dataclass(frozen=True, slots=True)
class Keda:
    """Backlog and busy instances together over 0.9 of the instances."""

    target: float = _KEDA_TARGET
    name: str = "keda"

    def start(self) -> Autoscaled:
        """Return the state of a policy that has seen nothing."""
        return Autoscaled()

    def decide(
        self, seen: Observation, limits: Limits, state: Autoscaled
    ) -> tuple[Decision, Autoscaled]:
        """Divide backlog and busy instances."""
        known = seen.backlog is not None and seen.busy is not None
        total = (seen.backlog or 0) + (seen.busy or 0) if known else None
        return _autoscale(seen, total, self.target, state)


def _autoscale(
    seen: Observation, total: int | None, target: float, state: Autoscaled
) -> tuple[Decision, Autoscaled]:
    """Apply the autoscaler's rule to a total; None: unknown, the size stays."""
    current = seen.instances + seen.starting
    sizes = tuple(one for one in state.sizes if one[0] > seen.at - _PERIOD_SECONDS)
    if total is None:
        return Decision(current, "no_data", "metric unknown", current), state
    wish = math.ceil(total / target)
    if current and abs(total / (target * current) - 1) <= _TOLERANCE:
        wish = current
    known = state.wishes or ((seen.at, current),)  # the autoscaler begins so, too
    wishes = highest(known, seen.at, wish, _STABLE_SECONDS)
    before = sizes[0][1] if sizes else current
    number = current
    if wish < current:
        number = min(int(wishes[0][1]), current)
    elif wish > current:
        number = min(wish, max(2 * before, before + 4))
    reason = f"{total} / {target:g} is {total / target:.1f}"
    decided = Decision(number, "demand", reason, total / target)
    return decided, Autoscaled(wishes, (*sizes, (seen.at, current)))
