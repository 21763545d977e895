"""Temporal's slots of a pool: each task queue has a supplier that asks the gate."""

from __future__ import annotations

import asyncio
import threading

from temporalio.worker import (
    CustomSlotSupplier,
    SlotMarkUsedContext,
    SlotPermit,
    SlotReleaseContext,
    SlotReserveContext,
)

from tierpool.pools.gate import Gate

__all__ = ["QueueSlots"]


class QueueSlots(CustomSlotSupplier):
    """Slots of one task queue.

    Slots are reserved on the event loop; the other callbacks come on foreign
    threads.
    """

    def __init__(self, gate: Gate, name: str) -> None:
        """Take the gate that decides, and the name of the task queue."""
        self._gate, self.name = gate, name
        gate.queues.append(self)
        self._loop: asyncio.AbstractEventLoop | None = None
        self.issued = 0
        """Slots that pollers and calls hold."""
        self.used = 0
        """Slots that calls hold."""
        self._using = threading.Lock()

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
        """See base class; it lets nobody else in, so the event loop sleeps on."""
        with self._using:
            self.used += 1

    def release_slot(self, ctx: SlotReleaseContext) -> None:
        """See base class; without `slot_info` the slot was never used."""
        if ctx.slot_info is not None:
            with self._using:
                self.used -= 1
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._released)

    def _released(self) -> None:
        self.issued -= 1
        self._gate.pool.changed()
