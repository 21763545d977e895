"""What a simulated pool did: waits, instances paid for, and a timeline."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tierpool.scaling.policy import Decision

__all__ = ["Moment", "Outcome"]

_DAY = 86_400.0


class Moment(NamedTuple):
    """The pool at one decision."""

    at: float
    """Seconds, of the arrivals' clock."""
    instances: int
    """That take calls; without the starting and the draining ones."""
    starting: int
    busy: int
    """Calls under way, on draining instances too."""
    backlog: int
    """Calls that wait, in truth; the policy was told an older number."""
    decision: Decision


@dataclass(frozen=True, slots=True)
class Outcome:
    """One workload under one policy."""

    policy: str
    waits: Sequence[float]
    """Seconds from arrival to start, one for each call, in the order of arrival."""
    ordered: Sequence[float]
    """The waits, ascending."""
    instance_seconds: float
    """Paid for: from the decision for an instance, so its start counts, until the
    decision against it or the end of its last call. Ends when the last call has
    begun; calls under way then are paid to their end."""
    ideal_seconds: float
    """What the calls themselves took."""
    seconds: float
    """From the first arrival to the end of the measurement."""
    changes: int
    """Decisions that changed the size."""
    killed: int
    """Calls that were cut off: none, since busy instances drain."""
    timeline: Sequence[Moment]
    bound: Mapping[str, int]
    """Number of decisions for each constraint."""

    @property
    def changes_per_day(self) -> float:
        """Changes of size per day."""
        return self.changes * _DAY / self.seconds if self.seconds > 0 else 0.0

    @property
    def cost_ratio(self) -> float:
        """Instance-hours over those of a pool that is never idle."""
        if self.ideal_seconds <= 0:
            return math.inf
        return self.instance_seconds / self.ideal_seconds

    @property
    def instance_hours(self) -> float:
        """Instance-hours paid for."""
        return self.instance_seconds / 3600

    def wait(self, share: float) -> float:
        """Return the wait that this share of the calls did not exceed, in seconds."""
        if not 0 < share <= 1:
            raise ValueError(f"share {share!r} must be above 0 and at most 1")
        return self.ordered[math.ceil(share * len(self.ordered)) - 1]

    @property
    def p50(self) -> float:
        """Median wait in seconds."""
        return self.wait(0.5)

    @property
    def p95(self) -> float:
        """Wait in seconds that 95 of 100 calls did not exceed."""
        return self.wait(0.95)

    @property
    def p99(self) -> float:
        """Wait in seconds that 99 of 100 calls did not exceed."""
        return self.wait(0.99)

    def share_within(self, seconds: float) -> float:
        """Return the share of calls that waited no longer than this."""
        return bisect_right(self.ordered, seconds) / len(self.ordered)
