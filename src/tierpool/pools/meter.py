"""What a pool did within the last five minutes, and since its start."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from tierpool.contracts.reports import Window

__all__ = ["Meter"]

_WINDOW = 300.0
_PIECE = 5.0


@dataclass(slots=True)
class _Piece:
    """A few seconds."""

    begin: float
    end: float
    busy: float = 0.0
    capacity: float = 0.0
    completed: int = 0
    seconds: float = 0.0


@dataclass
class Meter:
    """Adds up calls and the time of instances; told of every change."""

    clock: Callable[[], float] = time.monotonic
    calls: int = 0
    failed: int = 0
    call_seconds: float = 0.0
    _busy: int = 0
    _limit: int = 0
    _last: float = -1.0
    _pieces: deque[_Piece] = field(default_factory=deque)

    def note(self, busy: int, limit: int) -> None:
        """Say what holds from now on."""
        self._piece()
        self._busy, self._limit = busy, limit

    def ended(self, seconds: float, *, failed: bool) -> None:
        """Count a call that has ended."""
        self.calls += 1
        self.failed += failed
        self.call_seconds += seconds
        piece = self._piece()
        piece.completed += 1
        piece.seconds += seconds

    def window(self) -> Window:
        """Sum up the last minutes."""
        self._piece()
        return Window(
            seconds=self._pieces[-1].end - self._pieces[0].begin,
            busy_seconds=sum(p.busy for p in self._pieces),
            capacity_seconds=sum(p.capacity for p in self._pieces),
            completed=sum(p.completed for p in self._pieces),
            call_seconds=sum(p.seconds for p in self._pieces),
        )

    def _piece(self) -> _Piece:
        """Bring the pieces up to now; return the last one."""
        now = self.clock()
        if self._last < 0:
            self._last = now
        passed = max(0.0, now - self._last)
        if not self._pieces or now - self._pieces[-1].begin >= _PIECE:
            self._pieces.append(_Piece(self._last, now))
        last = self._pieces[-1]
        last.end = now
        last.busy += self._busy * passed
        # calls above a lowered limit are no use of what is allowed now
        last.capacity += max(self._limit, self._busy) * passed
        self._last = now
        while now - self._pieces[0].end > _WINDOW:
            self._pieces.popleft()
        return last
