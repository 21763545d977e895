"""What was asked of each pool, and how much of it is there; pure.

Pods take their time to start, and those that scale by a metric take theirs to
follow. What was decided last is therefore the size of a pool for the next
decision, and not what workers happen to be there: else a decision would be
taken again, or taken back, while it is being carried out.
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Asked"]

_LEADS = 2.0
_REPORTED_SECONDS = 30.0
"""Who has not reported for so long counts as gone."""


@dataclass
class _Size:
    instances: int
    since: float
    """When it was asked for, or was there for the last time."""


@dataclass
class Asked:
    """Remembers the sizes that were decided on."""

    lead_seconds: float
    _sizes: dict[str, _Size] = field(default_factory=dict)

    @property
    def patience(self) -> float:
        """Seconds that missing instances count as starting; then they are not coming."""
        return _LEADS * self.lead_seconds + _REPORTED_SECONDS

    def note(self, pool: str, instances: int, at: float) -> None:
        """Remember what was decided.

        Args:
            pool: Name of the pool.
            instances: Desired.
            at: The time, by a clock that only goes forward.
        """
        known = self._sizes.get(pool)
        if known is None or instances > known.instances:
            self._sizes[pool] = _Size(instances, at)
        else:
            known.instances = instances

    def counted(self, pool: str, there: int, at: float) -> tuple[int, int]:
        """Return the instances that count, and those that are starting.

        Instances above what was asked for are on their way out; those below it
        are on their way in, for a while.

        Args:
            pool: Name of the pool.
            there: Instances that its workers report.
            at: The time, by the same clock.
        """
        known = self._sizes.get(pool)
        if known is None:
            return there, 0
        if there >= known.instances:
            known.since = at
        missing = known.instances - there
        if missing > 0 and at - known.since > self.patience:
            return there, 0
        return min(there, known.instances), max(0, missing)
