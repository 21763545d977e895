"""What a fleet shows, as observations of its pools; no I/O.

Workers count since their start, so rates and means come from two looks. One
that has come or gone meanwhile is left out: its counts say nothing of the time
between.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from tierpool.contracts.reports import PoolReport, WorkerReport
from tierpool.pools.autoscaler.asked import Asked
from tierpool.pools.observe import FleetStatus, PoolStatus
from tierpool.scaling.policy import Observation

__all__ = ["Sight"]

_RATE_SECONDS = 30.0
_WINDOW_SECONDS = 300.0
_LEAST_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class _Look:
    """What the workers had counted at one moment, by worker."""

    at: float
    counted: Mapping[str, PoolReport]


@dataclass(frozen=True, slots=True)
class _Counted:
    """What happened between two looks."""

    seconds: float = 0.0
    calls: int = 0
    tokens: int = 0
    cost_usd: Decimal = Decimal(0)


@dataclass
class Sight:
    """Remembers the last minutes of each pool."""

    asked: Asked
    _looks: dict[str, deque[_Look]] = field(default_factory=dict)

    def see(self, status: FleetStatus, pool: PoolStatus, at: float) -> Observation:
        """Return what is known of a pool now.

        Args:
            status: The fleet.
            pool: One of its pools.
            at: The time, by a clock that only goes forward.
        """
        looks = self._looks.setdefault(pool.pool, deque())
        looks.append(_Look(at, _reports(status.workers, pool.pool)))
        while at - looks[0].at > _WINDOW_SECONDS:
            looks.popleft()
        lately, minutes = _since(looks, _RATE_SECONDS), _since(looks, _WINDOW_SECONDS)
        instances, starting = self.asked.counted(pool.pool, pool.limit, at)
        known = pool.statistics
        return Observation(
            at=at,
            instances=instances,
            starting=starting,
            busy=None if _untold(pool, looks) else pool.busy,
            backlog=pool.backlog if known else None,
            oldest_seconds=pool.oldest_seconds if known else None,
            arrivals_per_second=pool.arrivals_per_second if known else None,
            completions_per_second=_rate(lately),
            mean_seconds=pool.mean_seconds,
            tokens_per_call=minutes.tokens / minutes.calls if minutes.calls else None,
            usd_per_call=minutes.cost_usd / minutes.calls if minutes.calls else None,
        )


def _untold(pool: PoolStatus, looks: deque[_Look]) -> bool:
    """Tell whether there are workers that do not report, or did a moment ago."""
    if pool.workers:
        return False
    return pool.silent > 0 or any(look.counted for look in looks)


def _reports(workers: Sequence[WorkerReport], name: str) -> dict[str, PoolReport]:
    return {
        worker.id: pool
        for worker in workers
        for pool in worker.pools
        if pool.pool == name
    }


def _since(looks: deque[_Look], seconds: float) -> _Counted:
    """Count what the workers did that were there at both ends."""
    last = looks[-1]
    first = next(look for look in looks if last.at - look.at <= seconds)
    pairs = [
        (first.counted[worker], after)
        for worker, after in last.counted.items()
        if worker in first.counted
    ]
    return _Counted(
        seconds=last.at - first.at,
        calls=sum(after.calls - before.calls for before, after in pairs),
        tokens=sum(after.tokens - before.tokens for before, after in pairs),
        cost_usd=sum(
            (after.cost_usd - before.cost_usd for before, after in pairs), Decimal(0)
        ),
    )


def _rate(counted: _Counted) -> float | None:
    if counted.seconds < _LEAST_SECONDS:
        return None
    return counted.calls / counted.seconds
