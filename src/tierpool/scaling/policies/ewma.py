"""Smoothed arrivals and the square-root rule of Halfin and Whitt."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tierpool.scaling.policies.windows import weight
from tierpool.scaling.policy import Decision, Limits, Observation

__all__ = ["Ewma", "Smoothed"]


@dataclass(frozen=True, slots=True)
class Smoothed:
    """The average so far."""

    at: float | None = None
    arrivals_per_second: float = 0.0


@dataclass(frozen=True, slots=True)
class Ewma:
    """a + beta * sqrt(a) instances, a = arrivals per second * seconds per call."""

    beta: float = 3.0
    seconds: float = 60.0
    """Time constant of the average."""
    name: str = "ewma"

    def start(self) -> Smoothed:
        """Return the state of a policy that has seen nothing."""
        return Smoothed()

    def decide(
        self, seen: Observation, limits: Limits, state: Smoothed
    ) -> tuple[Decision, Smoothed]:
        """Smooth, then staff."""
        current, rate = seen.instances + seen.starting, seen.arrivals_per_second
        if rate is None or seen.mean_seconds is None:
            return Decision(current, "no_data", "arrivals unknown", current), state
        level = rate
        if state.at is not None:
            share = weight(seen.at - state.at, self.seconds)
            level = state.arrivals_per_second
            level += share * (rate - level)
        offered = level * seen.mean_seconds
        wanted = offered + self.beta * math.sqrt(offered)
        reason = f"{level:.3g} calls/s of {seen.mean_seconds:.3g} s"
        figures = {"arrivals_per_second": level, "offered": offered}
        decided = Decision(math.ceil(wanted), "demand", reason, wanted, figures)
        return decided, Smoothed(seen.at, level)
