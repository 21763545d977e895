"""A worker process as its supervisor sees it, and what is asked of all of them.

Times are seconds of one clock that only goes forward.
"""

from __future__ import annotations

from dataclasses import dataclass

from tierpool.contracts.reports import WorkerReport

__all__ = ["Ended", "Limits", "Process"]

_FRESH_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What the user asked for."""

    least: int = 1
    most: int = 1
    target: int | None = None
    """What an autoscaler wants; without one, the supervisor decides by itself."""
    grace: float = 300.0
    """Seconds that calls in flight may go on in a process that drains."""
    requests: int | None = None
    """Calls after which a process is replaced."""
    age: float | None = None
    """Seconds after which a process is replaced."""
    memory_bytes: int | None = None
    """Resident memory at which a process is replaced."""


@dataclass(frozen=True, slots=True)
class Process:
    """A worker process that runs, as it was observed last."""

    index: int
    started: float
    answered: float
    """When it last answered; before its first answer, when it was started."""
    ready_since: float | None = None
    draining_since: float | None = None
    report: WorkerReport | None = None
    """Its last answer."""

    @property
    def active(self) -> bool:
        """Whether it counts as capacity, now or soon."""
        return self.draining_since is None

    @property
    def ready(self) -> bool:
        """Whether it has been ready."""
        return self.ready_since is not None

    def answers_by(self, now: float) -> bool:
        """Tell whether its last answer says something of now."""
        return now - self.answered <= _FRESH_SECONDS

    @property
    def trouble(self) -> str:
        """Why it can make no calls, though it lives."""
        pools = self.report.pools if self.report else ()
        return next((pool.trouble for pool in pools if pool.trouble), "")


@dataclass(frozen=True, slots=True)
class Ended:
    """A worker process that has ended since the last decision."""

    index: int
    status: int
    started: float
    ready_since: float | None = None
    drained: bool = False
    """It was draining, so its end is no surprise."""
