"""Which worker processes a machine should run; pure decisions, no I/O.

`decide` is told what was observed and says what to do; `supervisor` observes
and acts. Times are seconds of one clock that only goes forward.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from tierpool.pools.processes.backoff import HEALTHY_SECONDS, Backoff
from tierpool.pools.processes.threshold import Pressure, wish
from tierpool.pools.processes.view import Ended, Limits, Process

__all__ = ["Action", "Decision", "State", "decide", "drain_all"]

_READY_SECONDS = 60.0
_ANSWER_SECONDS = 30.0
_KILL_SECONDS = 20.0
"""Above the grace: a process ends itself by force 15 s after its grace."""
_STARTING_AT_ONCE = 4
"""Many that start together share the cores, and none is ready in time."""
_STAGGER = 0.1
_BAD_CONFIGURATION = 2
"""Exit status of a worker that trying again does not help."""


@dataclass(frozen=True, slots=True)
class State:
    """What one decision leaves for the next."""

    wanted: int
    """Processes that should run; one that drains does not count."""
    backoff: Backoff = field(default_factory=Backoff)
    lost: int = 0
    """Processes that died and have no successor yet."""
    was_up: bool = False
    """Whether any process ever came up."""
    statuses: frozenset[int] = frozenset()
    """How the first processes ended, while none has come up."""
    pressure: Pressure = field(default_factory=Pressure)
    replacing: tuple[int, int, str] | None = None
    """Which process is being replaced by which one, and why."""


@dataclass(frozen=True, slots=True)
class Action:
    """Something to do to one process."""

    do: Literal["start", "drain", "kill"]
    index: int
    reason: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do now."""

    state: State
    actions: tuple[Action, ...] = ()
    status: int | None = None
    """Set when nothing is left to do: the exit status."""


def decide(
    state: State,
    limits: Limits,
    seen: Sequence[Process],
    ended: Sequence[Ended],
    now: float,
) -> Decision:
    """Decide what to do about the processes of this machine.

    Args:
        state: What the last decision left.
        limits: What the user asked for.
        seen: All processes that run.
        ended: Those that have ended since the last decision.
        now: The time.
    """
    state = _count_deaths(state, seen, ended, now)
    if not seen and state.statuses == {_BAD_CONFIGURATION}:
        return Decision(state, status=_BAD_CONFIGURATION)
    state = replace(state, statuses=state.statuses if seen else frozenset())
    kills = _kills(seen, limits, now)
    active = [one for one in seen if one.active]
    state, drains = _finish_replacing(state, active)
    reason = ""
    if not kills and not drains:
        state, reason, drains = _resize(state, limits, active, now)
    leaving = {action.index for action in drains}
    staying = [one for one in active if one.index not in leaving]
    free = _free_indexes(seen)
    state, starts = _start(state, staying, free, reason, now)
    if not (kills or drains or starts):
        state, starts = _recycle(state, limits, staying, free, now)
    return Decision(state, (*kills, *drains, *starts))


def drain_all(seen: Sequence[Process], limits: Limits, now: float) -> list[Action]:
    """Say what is left to do when all processes have to end."""
    drains = [Action("drain", o.index, "told to stop") for o in seen if o.active]
    late = [one for one in seen if not one.active]
    return drains + _kills(late, limits, now)


def _kills(seen: Sequence[Process], limits: Limits, now: float) -> list[Action]:
    """Find the processes that only SIGKILL can help."""
    reasons = [(one.index, _overdue(one, limits, now)) for one in seen]
    return [Action("kill", index, reason) for index, reason in reasons if reason]


def _overdue(one: Process, limits: Limits, now: float) -> str:
    if one.draining_since is not None:
        late = now - one.draining_since > limits.grace + _KILL_SECONDS
        return "outlived its grace period" if late else ""
    if one.report is not None and now - one.answered > _ANSWER_SECONDS:
        return f"no answer for {_ANSWER_SECONDS:.0f} s"
    # one with a bad key, say, lives and tells so; killing it would not help
    late = not one.ready and now - one.started > _READY_SECONDS
    return f"not ready after {_READY_SECONDS:.0f} s" if late and not one.trouble else ""


def _count_deaths(
    state: State, seen: Sequence[Process], ended: Sequence[Ended], now: float
) -> State:
    up = any(one.ready or one.trouble for one in seen)
    up = up or any(one.ready_since is not None or one.drained for one in ended)
    if up:
        state = replace(state, was_up=True, statuses=frozenset())
    for one in ended:
        if one.drained:
            continue
        first = frozenset() if state.was_up else {one.status}
        backoff = state.backoff.after(
            started=one.started, ready_since=one.ready_since, now=now
        )
        statuses, lost = state.statuses | first, state.lost + 1
        state = replace(state, backoff=backoff, lost=lost, statuses=statuses)
    return state


def _finish_replacing(
    state: State, active: Sequence[Process]
) -> tuple[State, list[Action]]:
    """Drain the old process once its successor is ready."""
    if state.replacing is None:
        return state, []
    old, new, reason = state.replacing
    ready = {one.index: one.ready for one in active}
    if old not in ready or new not in ready:
        return replace(state, replacing=None), []  # one of them died
    if not ready[new]:
        return state, []
    return replace(state, replacing=None), [Action("drain", old, f"recycled: {reason}")]


def _resize(
    state: State,
    limits: Limits,
    active: Sequence[Process],
    now: float,
) -> tuple[State, str, list[Action]]:
    """Want one process more, or let one go; missing answers argue against both."""
    if limits.target is not None:
        return _follow(state, limits, active)
    reports = [one.report for one in active if one.report is not None and one.ready]
    fresh = all(one.answers_by(now) for one in active)
    if not reports or len(reports) < len(active) or not fresh:
        return replace(state, pressure=Pressure()), "", []
    pressure, wished = wish(state.pressure, reports, now)
    state = replace(state, pressure=pressure)
    if not limits.least <= state.wanted + wished.change <= limits.most:
        return state, "", []
    state = replace(state, wanted=state.wanted + wished.change)
    if wished.change >= 0:
        return state, wished.reason, []
    leaving = _least_busy(active)
    state = replace(state, pressure=Pressure())
    return state, "", [Action("drain", leaving.index, wished.reason)]


def _follow(
    state: State, limits: Limits, active: Sequence[Process]
) -> tuple[State, str, list[Action]]:
    """Want what an autoscaler wants; of those too many one drains with each look."""
    wanted = min(limits.most, max(limits.least, limits.target or 0))
    state = replace(state, wanted=wanted)
    if len(active) <= wanted + (state.replacing is not None):
        return state, "the autoscaler wants it", []
    reason = f"the autoscaler wants {wanted}"
    return state, "", [Action("drain", _least_busy(active).index, reason)]


def _least_busy(active: Sequence[Process]) -> Process:
    busy = {one.index: one.report.busy if one.report else 0 for one in active}
    return min(active, key=lambda one: (busy[one.index], -one.index))


def _start(
    state: State, active: Sequence[Process], free: list[int], reason: str, now: float
) -> tuple[State, list[Action]]:
    """Start what is missing."""
    missing = state.wanted + (state.replacing is not None) - len(active)
    if missing <= 0:
        return replace(state, lost=0), []
    # if one of the first was refused, hear the others before going on
    trial = active and state.statuses
    if now < state.backoff.start_at or trial:
        return state, []
    starting = sum(not one.ready for one in active)
    actions = []
    for index in free[: max(0, min(missing, _STARTING_AT_ONCE - starting))]:
        why = "respawned" if state.lost else reason or "wanted"
        state = replace(state, lost=max(0, state.lost - 1))
        actions.append(Action("start", index, why))
    return state, actions


def _recycle(
    state: State, limits: Limits, active: Sequence[Process], free: list[int], now: float
) -> tuple[State, list[Action]]:
    """Start a successor of a worn process; one at a time."""
    settled = all(one.ready for one in active) and now >= state.backoff.start_at
    # who recycles all the time must not keep the next observation from growing
    growing = state.pressure.crowded > 0
    if state.replacing is not None or growing or not settled:
        return state, []
    worn = ((one.index, _wear(one, limits, now)) for one in active)
    for old, reason in worn:
        if reason:
            state = replace(state, replacing=(old, free[0], reason))
            return state, [Action("start", free[0], f"replaces {old}: {reason}")]
    return state, []


def _wear(one: Process, limits: Limits, now: float) -> str:
    """Say why a process has to be replaced; nothing if it has not."""
    calls = one.report.calls if one.report else 0
    memory = one.report.memory_bytes if one.report else 0
    if limits.requests is not None and calls >= limits.requests:
        return f"{calls} calls"
    # spread by the golden ratio, so that they do not all grow old together
    early = _STAGGER * math.modf(one.index * 0.618034)[0]
    if limits.age is not None and now - one.started >= limits.age * (1 - early):
        return f"{now - one.started:.0f} s old"
    # a limit below what a fresh process takes must not recycle without end
    settled = one.ready_since is not None and now - one.ready_since >= HEALTHY_SECONDS
    if limits.memory_bytes is not None and memory >= limits.memory_bytes and settled:
        return f"{memory / 1e6:.0f} MB of memory"
    return ""


def _free_indexes(seen: Sequence[Process]) -> list[int]:
    taken = {one.index for one in seen}
    most = len(taken) + _STARTING_AT_ONCE + 1
    return [index for index in range(most) if index not in taken]
