"""A process's side of the ledger: it holds a lease, and lets calls begin under it.

One agent for each process and fleet. Calls are reserved and settled here,
without asking anybody; the lease is renewed in the background while there is
something to do. Without a valid lease nothing that is limited begins.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal

from temporalio.client import Client

from tierpool.budget.cost import cost_usd
from tierpool.budget.limits import fleet_limits
from tierpool.budget.resources import called, nano, told
from tierpool.contracts import Usage
from tierpool.contracts.ledger import (
    CALLS,
    USD,
    FleetLimits,
    RenewalAnswer,
    Total,
    tokens_of,
)
from tierpool.errors import LeaseShort
from tierpool.fleet import LoadedFleet
from tierpool.leases.account import Needs
from tierpool.leases.keeper import Keeper
from tierpool.leases.lease import LEASE, Blocked, Lease
from tierpool.leases.needs import Ask, Habits

__all__ = ["Held", "LeaseAgent", "LeaseView", "boot_time"]

_PATIENCE = 1.0
"""Seconds that a call waits for a renewal."""
_FIRST_SECONDS = 5.0
"""Workers wait so long for their first lease before they poll."""
_LONGEST_HINT = 120.0
_WAIT_IN_QUEUE = 10.0
"""Longest hint where calls wait in the queue: it is not polled meanwhile, so that they
come to no worker before they may begin, and begin at once then."""
_COME_BACK = 2.0

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boot_time() -> float:
    """Return seconds of a clock that goes on while the machine is suspended."""
    return time.clock_gettime(_CLOCK)


@dataclass(eq=False)
class Held:
    """What a call has taken; it is settled once, at its end."""

    agent: LeaseAgent
    lease: object
    ask: Ask
    needs: Mapping[str, int]
    began: float
    over: bool = False

    def settle(self, usage: Usage | None, cost: Decimal | None = None) -> None:
        """Say what the call used; None: nobody knows, so it costs its reservation.

        Args:
            usage: Of the whole call.
            cost: USD, where that is more exact than the price of the whole usage.
        """
        self.agent.end(self, usage, cost=cost)

    def release(self) -> None:
        """Say that nothing was sent, or that nothing is owed for it."""
        self.agent.end(self, None, unbilled=True)


@dataclass(frozen=True, slots=True)
class LeaseView:
    """The lease at one moment, for people."""

    limited: bool
    """Whether anything is limited at all."""
    valid: bool
    trouble: str
    """Why there is no lease; empty if all is well."""
    free: Mapping[str, int]
    reserved: Mapping[str, int]
    blocked: Mapping[str, float]
    """Seconds until more of a resource can be had."""
    last: RenewalAnswer
    totals: tuple[Total, ...]
    renewals: int
    refused: Mapping[str, int]
    """Calls that were sent back, by resource."""


@dataclass
class LeaseAgent:
    """Holds the lease of this process."""

    fleet: LoadedFleet
    clock: Callable[[], float] = boot_time
    listeners: list[Callable[[], None]] = field(default_factory=list)
    """Called when calls may begin that could not before."""
    refused: Counter[str] = field(default_factory=Counter)
    _users: int = 0
    _work: asyncio.Task[None] | None = None
    _changes: set[asyncio.Future[None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._habits = Habits.of(self.fleet)
        self._lease = Lease(fleet_limits(self.fleet), self._habits)
        self._keeper = Keeper(self.fleet, self._lease, self.clock, self._tell)
        waits = self.fleet.fleet.guardrails.on_exhausted == "wait"
        self._longest_hint = _WAIT_IN_QUEUE if waits else _LONGEST_HINT
        self._top = list(self.fleet.snapshot.tiers.values())[-1].models[0].price

    @property
    def trouble(self) -> str:
        """Why no lease can be had; empty if all is well."""
        return self._keeper.trouble

    @property
    def limited(self) -> bool:
        """Whether anything is limited, so that a lease is needed."""
        return self._lease.limited

    @asynccontextmanager
    async def running(self, client: Client) -> AsyncIterator[None]:
        """Keep the lease until the last of these blocks ends, then give it back."""
        self._users += 1
        if self._users == 1:
            self._work = asyncio.create_task(self._keeper.keep(client))
        try:
            if self.limited:  # a call that comes first would not find a lease
                with suppress(TimeoutError):
                    async with asyncio.timeout(_FIRST_SECONDS):
                        await self._keeper.asked.wait()
            yield
        finally:
            self._users -= 1
            if not self._users and self._work is not None:
                self._work.cancel()
                with suppress(asyncio.CancelledError):
                    await self._work
                await self._keeper.give_up(client)

    def follow(self, limits: FleetLimits) -> None:
        """Obey other limits from now on: those that were applied."""
        if limits != self._lease.limits:
            self._lease.follow(limits)
            self._keeper.wake.set()
            self._tell()

    def covers(self, queue: str, coming: int) -> bool:
        """Tell whether one more call of a queue may come from the server.

        Args:
            queue: Task queue of the model; empty for tools.
            coming: Calls that may come already, and have not begun.
        """
        now = self.clock()
        if not self._lease.limited:
            return True
        if self.trouble and not self._lease.valid(now):
            return False
        if self._lease.covers(queue, coming, now):
            return True
        self._keeper.wake.set()
        return False

    def holds_back(self, queue: str) -> tuple[str, str]:
        """Return the resource that keeps calls of a queue waiting, and why.

        Both are empty while nothing does; the resource is if there is no lease.
        """
        now = self.clock()
        if not self._lease.limited:
            return "", ""
        if self.trouble and not self._lease.valid(now):
            return LEASE, self.trouble
        blocked = self._lease.blocked_by(queue, now)
        if blocked is None:
            return "", ""
        wait = blocked.until - now
        why = f"{called(blocked.resource)} leaves too little for another call"
        if wait > _COME_BACK:  # less: nobody knows when something comes back
            why += f" for {wait:.0f} s"
        return blocked.resource, why

    async def reserve(self, ask: Ask) -> Held:
        """Let a call begin, if need be after a renewal.

        Raises:
            LeaseShort: if it cannot begin now; nothing was taken.
        """
        lease = self._lease
        habits = self._habits.get(ask.queue)
        needs = habits.needs(ask) if habits else {USD: nano(ask.usd), CALLS: 1}
        lease.called_at = self.clock()
        end = lease.called_at + _PATIENCE
        while short := lease.short_of(needs, self.clock()):
            now = self.clock()
            blocked = lease.hinders(ask.queue, needs, now)
            if now >= end or (blocked and blocked.until > end):
                if habits is not None:
                    habits.sent_back(needs)
                lease.hungry(ask.queue, now)
                raise self._refusal(ask, needs, short, blocked)
            await self._more(ask.queue, needs, end - now)
        now = self.clock()
        taken = lease.account.take(needs, now)
        lease.changed = True
        self._write()
        if habits is not None:
            habits.began(needs, now)
        self._keeper.poke()
        return Held(self, lease.account, ask, taken, now)

    def end(
        self,
        held: Held,
        usage: Usage | None,
        *,
        cost: Decimal | None = None,
        unbilled: bool = False,
    ) -> None:
        """Settle a call; a second time changes nothing."""
        if held.over:
            return
        held.over = True
        ask, lease = held.ask, self._lease
        habits = self._habits.get(ask.queue)
        used: dict[str, int] = {}
        if unbilled:
            cost, used[tokens_of(ask.queue)] = Decimal(0), 0
        elif usage is not None:
            if cost is None and habits is not None and habits.price is not None:
                cost = cost_usd(usage, habits.price)
            used[tokens_of(ask.queue)] = usage.input_tokens + usage.output_tokens
            if habits is not None:
                habits.ended(ask, usage)
        if cost is None:
            cost = ask.usd
        else:
            used[USD] = nano(cost)
        lease.called_at = now = self.clock()
        if held.lease is lease.account:  # else it is charged to the lessee before
            lease.account.end(held.needs, used, held.began, now)
            lease.account.shrink(lease.last.most)
            self._write()
        lease.changed = True
        lease.tally.add(self._total(ask, usage, cost, unbilled=unbilled))
        if lease.limited:  # else nobody waits for it
            self._tell()
        self._keeper.poke()

    def view(self) -> LeaseView:
        """Show the lease."""
        now, lease = self.clock(), self._lease
        names = sorted(lease.account.capped)
        return LeaseView(
            limited=lease.limited,
            valid=lease.valid(now),
            trouble=self.trouble,
            free={name: lease.account.free(name) for name in names},
            reserved={name: lease.account.reserved(name) for name in names},
            blocked={
                one.resource: one.until - now
                for one in lease.blocked.values()
                if one.until > now
            },
            last=lease.last,
            totals=lease.tally.totals,
            renewals=self._keeper.renewals,
            refused=dict(self.refused),
        )

    def _refusal(
        self, ask: Ask, needs: Needs, short: list[str], blocked: Blocked | None
    ) -> LeaseShort:
        limit, wait = short[0], 0.0
        if blocked is not None:
            limit, wait = blocked.resource, blocked.until - self.clock()
        most = blocked.cap if blocked is not None else None
        if most is not None and needs.get(limit, 0) > most:
            what = f"{called(limit)} allows {told(limit, most)} in all"
            why = f"the call may take {told(limit, needs[limit])}, and {what}"
            return self._refused(ask, LeaseShort(why, limit=limit, never=True))
        if limit == LEASE:
            why = self.trouble or "this worker has no valid lease of the fleet's limits"
        else:
            needed = told(limit, needs[limit])
            why = f"{called(limit)} leaves too little: the call may take {needed}"
        hint = timedelta(seconds=min(self._longest_hint, max(_COME_BACK, wait)))
        return self._refused(ask, LeaseShort(why, limit=limit, retry_after=hint))

    def _refused(self, ask: Ask, error: LeaseShort) -> LeaseShort:
        self.refused[error.limit or "lease"] += 1
        denied = Total(
            flow=ask.flow, role=ask.role, tier=ask.tier, model=ask.model, denied=1
        )
        self._lease.tally.add(denied)
        return error

    def _total(
        self, ask: Ask, usage: Usage | None, cost: Decimal, *, unbilled: bool
    ) -> Total:
        known = usage if usage is not None else Usage()
        top = cost if usage is None else cost_usd(usage, self._top)
        return Total(
            flow=ask.flow,
            role=ask.role,
            tier=ask.tier,
            model=ask.model,
            calls=1,
            unknown=int(usage is None and not unbilled and bool(ask.model)),
            unbilled=int(unbilled),
            reserved_usd=ask.usd,
            settled_usd=cost,
            top_usd=top,
            usage=known,
        )

    async def _more(self, queue: str, needs: Needs, seconds: float) -> None:
        """Wait until something has changed, at most so long."""
        change: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lease.waiting.append((queue, needs))
        self._changes.add(change)
        self._keeper.wake.set()
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await change
        except TimeoutError:
            pass
        finally:
            self._changes.discard(change)
            self._lease.waiting.remove((queue, needs))

    def _tell(self) -> None:
        """Let everybody look again who waits for more."""
        for change in self._changes:
            if not change.done():
                change.set_result(None)
        for listener in self.listeners:
            listener()

    def _write(self) -> None:
        if self._lease.limited:
            self._keeper.write()
