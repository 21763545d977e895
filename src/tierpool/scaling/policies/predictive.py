"""The default: what will be needed when new instances take calls, and a margin.

Up at once, when the demand expected after the lead time needs it; down late, all at
once and seldom, since an instance too few costs waits for a whole lead time. What
is not known argues for nothing. Measured in docs/scaling-policies.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from tierpool.scaling.policies.demand import Demand, Estimate, Tuning
from tierpool.scaling.policies.windows import Highs, highest
from tierpool.scaling.policy import Decision, Limits, Observation

__all__ = ["Predictive", "PredictiveState"]


@dataclass(frozen=True, slots=True)
class PredictiveState:
    """What goes from one decision to the next; bounded."""

    demand: Demand = field(default_factory=Demand)
    wishes: Highs = ()
    """The highest wishes of late."""
    reduced_at: float = -math.inf
    """When the pool was last made smaller."""


@dataclass(frozen=True, slots=True)
class Predictive:
    """Little's law over the lead time, a measured margin, asymmetric hysteresis.

    A margin is a number of standard deviations of the calls under way. More
    instances are asked for when the low margin is gone, and then up to the full
    one, so that noise makes few changes. The pool does not shrink below what it
    usually needs.
    """

    margin: float = 0.45
    low_margin: float = 0.25
    usual_margin: float = 0.5
    """Above the average of the last minutes, for the calls that are new by then."""
    hold_seconds: float = 45.0
    """Down to the highest wish of this time."""
    hold_leads: float = 0.5
    """And of this many lead times: a hasty reduction takes one to be made good."""
    hold_calls: float = 2.0
    """And of this many calls' durations: long calls come and go slowly."""
    peaked_seconds: float = 16.0
    """Longer for each unit of peakedness above 1: bursts come back."""
    pause_seconds: float = 90.0
    """Between two reductions."""
    pause_calls: float = 3.0
    """And this many calls' durations."""
    least_cut: float = 1.25
    """Reductions below this many standard deviations are not worth a change."""
    tuning: Tuning = field(default_factory=Tuning)
    name: str = "predictive"

    def start(self) -> PredictiveState:
        """Return the state of a policy that has seen nothing."""
        return PredictiveState()

    def decide(
        self, seen: Observation, limits: Limits, state: PredictiveState
    ) -> tuple[Decision, PredictiveState]:
        """Decide; nothing changes while backlog, arrivals or busy are unknown."""
        current, lead = seen.instances + seen.starting, limits.lead_seconds
        wait = limits.wait_target_seconds
        found = state.demand.see(seen, lead, wait, self.tuning)
        if found is None:
            return _unknown(seen, current), state
        estimate, demand = found
        needed, spread = estimate.expected + estimate.drain, estimate.unit
        usual = estimate.usual + self.usual_margin * estimate.usual_unit
        wanted = max(needed + self.margin * spread, usual)
        hold = self._hold(estimate, lead)
        known = state.wishes or ((seen.at, float(current)),)
        # a backlog is drained once: what that takes is no wish that lasts
        lasting = _whole(estimate.expected + self.margin * spread)
        wishes = highest(known, seen.at, lasting, hold)
        number, reduced_at, held = current, state.reduced_at, ""
        top = max(int(wishes[0][1]), _whole(usual))
        pause = self.pause_seconds + self.pause_calls * estimate.seconds
        if _whole(needed + self.low_margin * spread) > current:
            number = _whole(wanted)
        elif top < current:
            small = current - top < self.least_cut * spread
            if small or seen.at - reduced_at < pause:
                held = f", {current} stay: too few to go" if small else ", soon after"
            else:
                number, reduced_at = top, seen.at
        elif wanted < current - 1:
            held = f", {top} wanted within {hold:.0f} s"
        decided = Decision(
            instances=number,
            constraint="demand",
            reason=_reason(estimate, wanted) + demand.made.told() + held,
            wanted=wanted,
            figures=demand.figures(estimate),
        )
        return decided, PredictiveState(demand, wishes, reduced_at)

    def _hold(self, estimate: Estimate, lead_seconds: float) -> float:
        """Return how long a wish is remembered, in seconds."""
        return (
            self.hold_seconds
            + self.hold_leads * lead_seconds
            + self.hold_calls * estimate.seconds
            + self.peaked_seconds * (estimate.peakedness - 1)
        )


def _whole(wanted: float) -> int:
    """Return whole instances."""
    return math.ceil(wanted - 1e-9)


def _unknown(seen: Observation, current: int) -> Decision:
    """Hold; but calls that are there before any has ended need an instance each."""
    missing = [
        name
        for name, value in (
            ("busy", seen.busy),
            ("backlog", seen.backlog),
            ("arrivals", seen.arrivals_per_second),
        )
        if value is None
    ]
    if missing:
        reason = f"{' and '.join(missing)} unknown: {current} stay"
        return Decision(current, "no_data", reason, wanted=float(current))
    calls = (seen.busy or 0) + (seen.backlog or 0)
    if seen.backlog and calls > current:
        reason = f"{calls} calls, none has ended yet"
        return Decision(calls, "demand", reason, wanted=float(calls))
    reason = f"duration of calls unknown: {current} stay"
    return Decision(current, "no_data", reason, wanted=float(current))


def _reason(estimate: Estimate, wanted: float) -> str:
    """Return the figures that decided, in one line."""
    waiting = f", {estimate.backlog} waiting" if estimate.backlog else ""
    return (
        f"{wanted:.1f} wanted: {estimate.arrivals_per_second:.3g} calls/s of "
        f"{estimate.seconds:.3g} s{waiting}, peakedness {estimate.peakedness:.1f}"
    )
