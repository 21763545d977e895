"""What calls of this process came to, in batches for the ledger; pure."""

from __future__ import annotations

from tierpool.budget.totals import added, kind_of
from tierpool.contracts.ledger import Total

__all__ = ["Tally"]


class Tally:
    """Adds up; a batch is sent until the ledger has named it."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._open: dict[tuple[str, str, str, str], Total] = {}
        self._sent: tuple[Total, ...] = ()
        self._batch = 0
        self._all: dict[tuple[str, str, str, str], Total] = {}

    @property
    def waiting(self) -> bool:
        """Whether there is something to tell."""
        return bool(self._open or self._sent)

    @property
    def totals(self) -> tuple[Total, ...]:
        """Everything since the start of the process."""
        return tuple(self._all.values())

    def add(self, total: Total) -> None:
        """Count what a call came to."""
        for kinds in (self._open, self._all):
            kind = kind_of(total)
            known = kinds.get(kind)
            kinds[kind] = total if known is None else added(known, total)

    def batch(self) -> tuple[int, tuple[Total, ...]]:
        """Return the batch to send: the last one again, until it is booked."""
        if not self._sent and self._open:
            self._sent, self._open = tuple(self._open.values()), {}
            self._batch += 1
        return self._batch, self._sent

    def booked(self, batch: int) -> None:
        """Take the number of the last batch that is booked."""
        if batch >= self._batch:
            self._sent = ()

    def begin_anew(self) -> None:
        """Count batches for another lessee; what is not booked goes on waiting.

        A batch whose answer was lost may then be booked twice: totals are for
        people, and no limit rests on them.
        """
        for total in self._sent:
            kind = kind_of(total)
            known = self._open.get(kind)
            self._open[kind] = total if known is None else added(total, known)
        self._sent, self._batch = (), 0
