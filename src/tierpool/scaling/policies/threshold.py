"""The backlog calls for one more worker; instances that stay idle go."""

from __future__ import annotations

from dataclasses import dataclass

from tierpool.scaling.policies.windows import Highs, highest
from tierpool.scaling.policy import Decision, Limits, Observation

__all__ = ["Threshold", "ThresholdState"]


@dataclass(frozen=True, slots=True)
class ThresholdState:
    """Since when the pool is watched, and how many instances were needed at once."""

    since: float | None = None
    needed: Highs = ()


@dataclass(frozen=True, slots=True)
class Threshold:
    """Backlog > `scale_up_threshold`: one worker more, with each decision.

    Down to the most instances that were needed at once within
    `scale_down_idle_seconds`: the others were idle all that time.
    """

    name: str = "threshold"

    def start(self) -> ThresholdState:
        """Return the state of a policy that has seen nothing."""
        return ThresholdState()

    def decide(
        self, seen: Observation, limits: Limits, state: ThresholdState
    ) -> tuple[Decision, ThresholdState]:
        """Decide by the backlog, then by the idle time."""
        current = seen.instances + seen.starting
        if seen.backlog is None or seen.busy is None:
            return Decision(current, "no_data", "backlog unknown", current), state
        since = seen.at if state.since is None else state.since
        idle = limits.scale_down_idle_seconds
        needed = highest(state.needed, seen.at, seen.busy + seen.backlog, idle)
        state = ThresholdState(since, needed)
        used = int(needed[0][1])
        number, reason = current, f"backlog {seen.backlog}, {used} needed at once"
        if seen.backlog > limits.scale_up_threshold:
            number = current + limits.step
            reason = f"backlog {seen.backlog} > {limits.scale_up_threshold}"
        elif seen.at - since >= idle and used < current:
            number = used
            reason = f"{current - used} idle for {idle:g} s"
        return Decision(number, "demand", reason, number), state
