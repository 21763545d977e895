"""A policy that sees the calls of the coming lead time: what nobody can beat fairly."""

from __future__ import annotations

import math
from itertools import accumulate

from tierpool.scaling.policy import Decision, Limits, Observation
from tierpool.scaling.simulator.workload import Workload

__all__ = ["Oracle"]


class Oracle:
    """Keeps as many instances as calls would run at once if none had to wait."""

    name = "oracle"

    def __init__(self, workload: Workload, decide_every: float = 10.0) -> None:
        """Learn a workload by heart."""
        self._begin, self._every = workload.arrivals[0], decide_every
        ends = (
            at + service
            for at, service in zip(workload.arrivals, workload.services, strict=True)
        )
        length = 2 + int(max(ends) - self._begin)
        steps = [0.0] * (length + 1)
        for at, service in zip(workload.arrivals, workload.services, strict=True):
            first, last = at - self._begin, at - self._begin + service
            _spread(steps, first, 1.0)
            _spread(steps, last, -1.0)
        self._busy = list(accumulate(steps))

    def start(self) -> None:
        """Return no state: everything is known."""

    def decide(
        self, seen: Observation, limits: Limits, state: None
    ) -> tuple[Decision, None]:
        """Keep the most that will be busy, averaged over each second, and drain."""
        first = int(seen.at - self._begin)
        until = first + math.ceil(limits.lead_seconds + self._every) + 1
        peak = max(self._busy[first:until], default=0.0)
        wanted = peak + (seen.backlog or 0) * self._every / 60
        number = max(limits.min_instances, min(math.ceil(wanted), limits.max_instances))
        reason = f"{peak:.1f} calls at once within the lead time"
        return Decision(number, "demand", reason, wanted=wanted), None


def _spread(steps: list[float], at: float, sign: float) -> None:
    """Add a step at a time, shared between the seconds around it."""
    place, part = int(at), at % 1.0
    steps[place] += sign * (1.0 - part)
    steps[place + 1] += sign * part
