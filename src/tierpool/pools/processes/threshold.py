"""The threshold policy: whether one worker process more or less is called for.

Pure. It reacts to what is; nothing is forecast.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tierpool.contracts.reports import PoolReport, WorkerReport

__all__ = ["Pressure", "Wish", "wish"]

_CROWDED_TIMES = 2
_FULL = 0.7
"""Share of its capacity that a smaller number of processes may come to use."""


@dataclass(frozen=True, slots=True)
class Pressure:
    """What was observed until now."""

    crowded: int = 0
    """Observations in a row that asked for one process more."""
    idle_since: float | None = None
    """Since when one process less would do."""


@dataclass(frozen=True, slots=True)
class Wish:
    """One process more, one less, or neither."""

    change: Literal[-1, 0, 1] = 0
    reason: str = ""


def wish(
    before: Pressure,
    reports: Sequence[WorkerReport],
    now: float,
) -> tuple[Pressure, Wish]:
    """Weigh the reports of all processes that take calls; at least one.

    Of several pools in a process the worst decides. What keeps a pool from more
    calls may be its provider: then more processes would not help.

    Args:
        before: What the last call returned; afresh after every change.
        reports: What the processes said, all of them just now.
        now: Seconds.
    """
    names = sorted({pool.pool for report in reports for pool in report.pools})
    pools = {name: [_pool(report, name) for report in reports] for name in names}
    full = [name for name in names if _is_full(pools[name])]
    if full:
        crowded = before.crowded + 1
        if crowded < _CROWDED_TIMES:
            return Pressure(crowded), Wish()
        return Pressure(), Wish(1, f"full, with a backlog: {', '.join(full)}")
    if not all(_one_less_does(pools[name]) for name in names):
        return Pressure(), Wish()
    since = now if before.idle_since is None else before.idle_since
    known = [pool for report in reports for pool in report.pools]
    patience = max((pool.scale_down_idle_secs for pool in known), default=0)
    if now - since < patience:
        return Pressure(idle_since=since), Wish()
    return Pressure(idle_since=since), Wish(-1, "one process less will do")


def _pool(report: WorkerReport, name: str) -> PoolReport:
    none = PoolReport(pool=name)
    return next((pool for pool in report.pools if pool.pool == name), none)


def _is_full(pools: Sequence[PoolReport]) -> bool:
    threshold = max(pool.scale_up_threshold for pool in pools)
    backlog = max(pool.backlog for pool in pools)  # each sees the whole queue
    # a paused pool is bound by its limit as well
    return backlog > threshold and all(p.bound == "max" and p.limit for p in pools)


def _one_less_does(pools: Sequence[PoolReport]) -> bool:
    limits = [pool.limit for pool in pools]
    busy = sum(pool.busy for pool in pools)
    return busy <= _FULL * (sum(limits) - max(limits))
