"""How many calls of one model a provider takes, learned from its answers.

Additive increase, multiplicative decrease: a 429 or 529 cuts the calls at a
time, successes raise them again. What the provider says itself goes before
what was learned: when to come back, and how much is left. No I/O and no timer:
the gate asks, and asks again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from tierpool.budget.rates import Headroom

__all__ = ["Throttle"]

_CUT = 0.7
_PROBE_SECONDS = 30.0
"""Between steps above what was refused last."""
_FORGET_SECONDS = 300.0
"""Without a refusal for so long, nothing bounds the calls any more."""
_LONG = 30.0
_IN_VAIN = 2
"""So long, or after so many cuts in a row, calls go to a fallback."""
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 60.0
_LONGEST_HINT = 3600.0
"""A provider that asks for more is asked again after this time."""


@dataclass
class Throttle:
    """What one process knows of one model at one address with one key."""

    name: str
    """`provider:model`."""
    clock: Callable[[], float] = time.monotonic
    allowed: float = math.inf
    """Calls at a time; infinite while none was refused lately."""
    trouble: str = ""
    """Why the key is of no use; one call at a time tries it then."""
    listeners: list[Callable[[], None]] = field(default_factory=list)
    """Called when there may be room: several pools may use one model."""
    under_way: int = 0
    """Calls that were sent and have not ended."""
    _successes: int = 0
    _refusals: int = 0
    """Cuts in a row."""
    _step: float = 1.0
    """How much is tried above what was refused last; doubles while that works."""
    _plateau: float = 0.0
    """Just below what was refused last: higher only step by step."""
    _probe_at: float = 0.0
    _closed_until: float = 0.0
    _cut_until: float = 0.0
    """Refusals until then belong to the cut that was made already."""
    _told: Headroom | None = None
    _told_at: float = 0.0
    _sent_since: int = 0

    @property
    def full(self) -> bool:
        """Whether one more call would be too many."""
        return self.under_way >= self.room

    def begin(self) -> None:
        """Count a call that is about to be sent."""
        self.under_way += 1
        self._sent_since += 1

    def end(self) -> None:
        """Count a call that has ended, however it ended."""
        self.under_way -= 1
        self.changed()

    def changed(self) -> None:
        """Let all that wait for this model look again."""
        for listener in self.listeners:
            listener()

    def answered(self, told: Headroom | None = None) -> None:
        """Learn from a call that was answered, and from what its headers told."""
        now = self.clock()
        self.trouble = ""
        self._refusals = 0
        self._successes += 1
        if told is not None:
            # answers overtake each other: the less that one of them left is true
            told = replace(told, calls=min(told.calls, max(0.0, self._left())))
            self._told, self._told_at, self._sent_since = told, now, 0
        if now - self._cut_until >= _FORGET_SECONDS:
            self.allowed = math.inf
        elif self._successes >= self.allowed:
            self._raise(now)

    def refused(self, retry_after: float | None = None) -> None:
        """Learn from a 429 or a 529: fewer at a time, and none for a while.

        Refusals of calls that were sent together cut once. Without a hint the
        pause doubles with each cut in a row.

        Args:
            retry_after: Seconds that the provider asks for.
        """
        now = self.clock()
        if now >= self._cut_until:
            at_a_time = min(self.allowed, max(1, self.under_way))
            self.allowed = max(1.0, math.floor(at_a_time * _CUT))
            self._plateau = max(1.0, at_a_time - 1)
            self._successes, self._step = 0, 1.0
            self._refusals += 1
        self._close(now, retry_after)

    def refused_key(self, reason: str) -> None:
        """Learn that the provider does not take the key: hardly worth trying."""
        now = self.clock()
        self.trouble = reason
        if now >= self._cut_until:
            self._refusals += 1
        self._close(now, None)

    def _close(self, now: float, pause: float | None) -> None:
        """Send nothing for a while."""
        if pause is None:
            doubled = _FIRST_PAUSE * 2.0 ** min(max(0, self._refusals - 1), 10)
            pause = min(doubled, _LONGEST_PAUSE)
        pause = min(max(0.0, pause), _LONGEST_HINT)
        self._closed_until = max(self._closed_until, now + pause)
        self._cut_until = max(self._cut_until, now + max(pause, _FIRST_PAUSE))
        self._probe_at = self._cut_until + _PROBE_SECONDS
        self.changed()

    @property
    def closed_for(self) -> float:
        """Seconds until a call may be sent; 0 while one may."""
        wait = self._closed_until - self.clock()
        told, left = self._told, self._left()
        if told is not None and left < 1:
            fills = (1 - left) / told.per_second if told.per_second else math.inf
            wait = max(wait, min(fills, self._told_at + told.seconds - self.clock()))
        return max(0.0, wait)

    @property
    def room(self) -> float:
        """How many calls may be under way at a time now; infinite if not limited."""
        if self.closed_for:
            return 0
        allowed, left = 1.0 if self.trouble else self.allowed, self._left()
        if math.isinf(left):
            return allowed
        return min(allowed, self.under_way + math.floor(left))

    @property
    def unavailable(self) -> bool:
        """Whether waiting is no use where there is another model to go to."""
        wait = self.closed_for
        if self.trouble:
            return self.full
        return wait > _LONG or (wait > 0 and self._refusals >= _IN_VAIN)

    def why(self) -> str:
        """Say in words what holds calls back; empty if nothing does."""
        wait = self.closed_for
        if self.trouble:
            return self.trouble
        if wait:
            return f"{self.name} takes no calls for {math.ceil(wait)} s"
        if math.isfinite(self.allowed):
            return f"{self.name} takes {self.allowed:.0f} calls at a time by now"
        return ""

    def _raise(self, now: float) -> None:
        """Allow one more, if it is known to work or time to try."""
        self._successes = 0
        if self.allowed >= self._plateau:
            if now < self._probe_at:
                return
            self._probe_at = now + _PROBE_SECONDS
            self.allowed += self._step
            self._step *= 2
            return
        self.allowed += 1

    def _left(self) -> float:
        """Return how many calls the provider's bucket still holds."""
        told, passed = self._told, self.clock() - self._told_at
        if told is None or passed >= told.seconds:
            return math.inf
        return told.calls + told.per_second * passed - self._sent_since
