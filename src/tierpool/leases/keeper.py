"""Renews a process's lease in the background, and tells of dead neighbours."""

from __future__ import annotations

import asyncio
import math
import os
import random
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import structlog
from temporalio.client import Client

from tierpool.contracts.ledger import RenewalAnswer
from tierpool.fleet import LoadedFleet
from tierpool.leases.books import Books, last_renewal
from tierpool.leases.lease import Lease
from tierpool.leases.post import LedgerBusy, LedgerUnreachable, open_ledger, send

__all__ = ["Keeper"]

_GAP = 0.05
"""Seconds between two renewals, at least."""
_JITTER = 0.2
_RECOVERY = 0.97
"""By so much the period becomes shorter with each renewal that was quick."""
_SLOW_SHARE = 0.5
"""A renewal that takes more of its period than this makes the period longer."""
_SLOW_SECONDS = 1.0
_UPDATES_AT_A_TIME = 10
"""Of one workflow, unless the server is told otherwise."""
_LONGEST_PERIOD = 10.0
_AGAIN_SECONDS = (0.2, 5.0)
_BUSY_SECONDS = (0.05, 30.0)
_BUSY_FOR_LONG = 6
"""Refusals in a row after which a process without a lease says so."""
_COUNT_AGAIN_SECONDS = 60.0
"""Where nothing is limited, renewals only count, and nobody waits for them."""
_LOOK_FOR_ORPHANS = 1.0
_LOOK_AGAIN_SECONDS = 0.1
"""Whoever renews anyway looks so soon again whether it should be earlier."""
_LAST_WORDS_SECONDS = 1.0

_log = structlog.get_logger()


@dataclass
class Keeper:
    """Keeps one lease."""

    fleet: LoadedFleet
    lease: Lease
    clock: Callable[[], float]
    changed: Callable[[], None]
    """Called when calls may begin that could not before."""
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when something has happened to the lease."""
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the ledger has answered, or is known not to."""
    trouble: str = ""
    """Why no lease can be had; empty if all is well."""
    renewals: int = 0
    _period: float = 1.0
    _books: Books | None = None
    _opened: bool = False
    _looked_at: float = -math.inf
    _look_again_at: float = -math.inf
    _told_slow: bool = False

    def write(self) -> None:
        """Write the lease into the journal: before a call begins, and at its end."""
        if self._books is not None:
            self._books.write(self.lease.account)

    def poke(self) -> None:
        """Say that a call has begun or ended; many of them are looked at together."""
        if self.clock() >= self._look_again_at:
            self.wake.set()

    async def keep(self, client: Client) -> None:
        """Renew while there is something to do, until cancelled."""
        self._books = books = Books(self.fleet, client)
        lessee, in_vain = books.begin(), 0
        self.lease.changed = self.lease.limited  # so that the ledger knows of it
        while True:
            due = await self._until_due()
            try:
                await self._look_after(client, books)
                if due and not await self._renew(client, lessee):
                    lessee = books.begin()
                in_vain = 0
            except LedgerBusy as error:
                in_vain += 1
                await self._busy(str(error), in_vain)
            except LedgerUnreachable as error:
                in_vain += 1
                await self._stumbled(str(error), in_vain)
            except Exception as error:  # noqa: BLE001 - whatever it was, it goes on
                in_vain += 1
                _log.exception("lease.stumbled")
                reason = f"the lease could not be renewed: {type(error).__name__}"
                await self._stumbled(f"{reason} (see the worker's log)", in_vain)

    async def give_up(self, client: Client) -> None:
        """Close the lease: nothing more will begin here."""
        books, self._books = self._books, None
        lease = self.lease
        if books is None:
            return
        if not lease.account.number:
            books.close()
            return
        sent = lease.closing(books.lessee, self.clock())
        lease.begin_anew()
        told = False
        try:
            async with asyncio.timeout(_LAST_WORDS_SECONDS):
                await send(client, self.fleet.name, sent)
            told = True
        except (LedgerUnreachable, TimeoutError):
            pass
        finally:
            if told:
                books.close()
            else:
                books.abandon()  # others tell of it

    async def _until_due(self) -> bool:
        """Wait until it is time to renew, or at least to look after neighbours."""
        while True:
            self.wake.clear()
            now, lease = self.clock(), self.lease
            period = self._period * (1 + random.uniform(-_JITTER, _JITTER))
            wait = max(lease.due(now, period), lease.sent_at + _GAP - now)
            idle = math.isinf(wait)
            self._look_again_at = now if idle else now + _LOOK_AGAIN_SECONDS
            if wait <= _GAP:
                await asyncio.sleep(max(0.0, wait))
                return True
            look = self._looked_at + _LOOK_FOR_ORPHANS - now
            if look <= 0 and lease.limited:
                return False
            with suppress(TimeoutError):
                async with asyncio.timeout(min(wait, look if lease.limited else wait)):
                    await self.wake.wait()

    async def _look_after(self, client: Client, books: Books) -> None:
        """Start the ledger if need be; tell it what dead neighbours have used."""
        if not self.lease.limited:
            return
        if not self._opened:
            await open_ledger(client, self.fleet.name)
            self._opened = True
        now = self.clock()
        if now - self._looked_at < _LOOK_FOR_ORPHANS:
            return
        self._looked_at = now
        found = books.left()
        try:
            for left in found:
                await send(client, self.fleet.name, last_renewal(left))
                left.forget()
                _log.info("lease.adopted", lessee=left.lessee)
        finally:
            for left in found:
                left.leave()

    async def _renew(self, client: Client, lessee: str) -> bool:
        """Renew once; False if this lessee is not known any more."""
        lease, began = self.lease, self.clock()
        where = f"{socket.gethostname()}:{os.getpid()}"
        sent = lease.renewal(lessee, where, began, self._period)
        answer = await send(client, self.fleet.name, sent)
        self.renewals += 1
        if answer.unknown:
            lease.begin_anew()
            return False
        lease.answered(sent, answer, self.clock())
        self._pace(self.clock() - began, answer)
        self.asked.set()
        if self.trouble and not answer.closed:
            _log.info("lease.recovered")
        self.trouble = answer.closed
        self.changed()
        return True

    def _pace(self, took: float, answer: RenewalAnswer) -> None:
        """Renew less often while the ledger is slow."""
        if took <= _SLOW_SHARE * self._period:
            self._period = max(answer.period, _RECOVERY * self._period)
            return
        self._period = min(_LONGEST_PERIOD, max(2 * self._period, 2 * took))
        crowded = answer.lessees > _UPDATES_AT_A_TIME
        if took > _SLOW_SECONDS and crowded and not self._told_slow:
            self._told_slow = True
            _log.warning(
                "lease.slow",
                seconds=round(took, 1),
                lessees=answer.lessees,
                hint="many workers renew at once: set history.maxInFlightUpdates of "
                "the Temporal server to 500 (10 by default)",
            )

    async def _busy(self, reason: str, in_vain: int) -> None:
        """Try again later, and renew less often from now on.

        A server drops what it was about to answer whenever it turns an Update away,
        so nobody is heard until all are quiet enough.
        """
        self.lease.failed()
        self._period = min(_LONGEST_PERIOD, 1.5 * self._period)
        if not self._told_slow and in_vain > 1:
            self._told_slow = True
            _log.warning("lease.slow", reason=reason)
        if in_vain >= _BUSY_FOR_LONG and not self.lease.valid(self.clock()):
            self._lost(reason)
        first, longest = _BUSY_SECONDS
        await asyncio.sleep(
            random.uniform(0.0, min(longest, first * 2.0 ** min(in_vain, 10)))
        )

    async def _stumbled(self, reason: str, in_vain: int) -> None:
        self._opened = False
        self.lease.failed()
        if not self.lease.limited:
            await asyncio.sleep(_COUNT_AGAIN_SECONDS)
            return
        self._lost(reason)
        least, most = _AGAIN_SECONDS
        pause = min(most, least * 2.0 ** min(in_vain, 10))
        await asyncio.sleep(pause * random.uniform(0.5, 1.0))

    def _lost(self, reason: str) -> None:
        """Say why no lease can be had."""
        if reason != self.trouble:
            _log.warning("lease.lost", reason=reason)
        self.trouble = reason
        self.asked.set()
        self.changed()
