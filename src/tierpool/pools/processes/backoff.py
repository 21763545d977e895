"""How long to wait before the successor of a dead process is started; pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["HEALTHY_SECONDS", "Backoff"]

HEALTHY_SECONDS = 60.0
"""A process that was ready for so long did not die of its start."""

_LONGEST = 60.0


@dataclass(frozen=True, slots=True)
class Backoff:
    """What died of its start lately: nothing, at first."""

    start_at: float = -math.inf
    """No process is started before."""
    deaths: int = 0
    """Early deaths in a row."""
    died_at: float = -math.inf
    """When the last of them was counted."""

    def after(
        self, *, started: float, ready_since: float | None, now: float
    ) -> Backoff:
        """Return what holds after a death: 0 s for a healthy one, then 1, 2, 4 … 60 s."""
        deaths, died_at = self.deaths, self.died_at
        if ready_since is not None and now - ready_since >= HEALTHY_SECONDS:
            # others may be dying of their start meanwhile
            deaths = 0 if now - died_at >= HEALTHY_SECONDS else deaths
        elif started >= died_at:  # several that die together are one failure
            deaths, died_at = deaths + 1, now
        wait = min(_LONGEST, 2.0 ** min(deaths - 1, 10)) if deaths else 0.0
        return Backoff(now + wait, deaths, died_at)
