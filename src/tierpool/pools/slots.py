"""Admission: a process polls for a call only when it could start it.

The queue in Temporal is the truth about what waits, because nothing waits in
the workers. One gate for each pool and process; each of its task queues has a
slot supplier that asks the gate.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from temporalio.worker import (
    CustomSlotSupplier,
    SlotMarkUsedContext,
    SlotPermit,
    SlotReleaseContext,
    SlotReserveContext,
)

from tierpool.pools.instances import Pool

__all__ = ["Gate", "QueueSlots"]


@dataclass
class Gate:
    """Decides whether one more call of a pool may be polled for."""

    pool: Pool[Any]
    queues: list[QueueSlots] = field(default_factory=list)

    def supplier(self) -> QueueSlots:
        """Return the slots of one more task queue of the pool."""
        slots = QueueSlots(self)
        self.queues.append(slots)
        return slots

    def opens_for(self, queue: QueueSlots) -> bool:
        """Tell whether a queue may have one more slot.

        A slot counts from its reservation in its own queue, and from its use in
        the others: idle pollers of one queue would starve the others.
        """
        if self.pool.trouble:
            return False
        used = sum(other.used for other in self.queues if other is not queue)
        return queue.issued + used < self.pool.limit


class QueueSlots(CustomSlotSupplier):
    """Slots of one task queue.

    Slots are reserved on the event loop; the other callbacks come on foreign
    threads.
    """

    def __init__(self, gate: Gate) -> None:
        """Take the gate that decides."""
        self._gate = gate
        self._loop: asyncio.AbstractEventLoop | None = None
        self.issued = 0
        """Slots that pollers and calls hold."""
        self.used = 0
        """Slots that calls hold."""

    async def reserve_slot(self, ctx: SlotReserveContext) -> SlotPermit:
        """See base class."""
        self._loop = asyncio.get_running_loop()
        while not self._gate.opens_for(self):
            await self._gate.pool.change()
        self.issued += 1
        return SlotPermit()

    def try_reserve_slot(self, ctx: SlotReserveContext) -> SlotPermit | None:
        """See base class: eager calls would pass the queue by."""
        return None

    def mark_slot_used(self, ctx: SlotMarkUsedContext) -> None:
        """See base class."""
        self._later(0, 1)

    def release_slot(self, ctx: SlotReleaseContext) -> None:
        """See base class; without `slot_info` the slot was never used."""
        self._later(-1, 0 if ctx.slot_info is None else -1)

    def _later(self, issued: int, used: int) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._change, issued, used)

    def _change(self, issued: int, used: int) -> None:
        self.issued += issued
        self.used += used
        self._gate.pool.changed()
