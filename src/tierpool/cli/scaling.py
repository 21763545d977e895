"""What an autoscaler decided, as lines for people."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from tierpool.contracts.scaling import PoolDecision, ScalingState

__all__ = ["scaling_lines"]

_CHANGES = 3


def scaling_lines(state: ScalingState | None, now: datetime) -> Iterator[str]:
    """Write who leads, what is desired and why, and the last changes."""
    if state is None or not (state.leader or state.decisions):
        return
    if state.leader and state.until is not None and now < state.until:
        yield f"autoscaler {state.where} leads ({state.act})"
    else:
        yield (
            "no autoscaler leads: what was decided last is not followed any more; "
            "start one: tierpool autoscale"
        )
    if state.trouble:
        yield f"autoscaler: not done: {state.trouble}"
    for one in state.decisions:
        age = max(0.0, (now - one.at).total_seconds())
        yield (
            f"{one.pool}: desired {one.instances} ({_workers(one)}), bound by "
            f"{one.constraint}, {age:.0f} s ago: {one.reason}"
        )
    for one in state.changes[-_CHANGES:]:
        yield f"  {one.at:%H:%M:%S} {one.pool} {one.before} → {one.instances}"


def _workers(one: PoolDecision) -> str:
    return "1 worker" if one.workers == 1 else f"{one.workers} workers"
