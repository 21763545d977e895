"""Admission: whether a process may poll for a call, and whether a call may start.

The one place where this is decided, for each pool and process. The queue in
Temporal is the truth about what waits, because nothing waits in the workers:
what cannot start is not polled for. A poll that was under way when the gate
closed may still bring a call; that one waits a second, and then goes back to
its workflow, which waits in a timer.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Protocol

import structlog

from tierpool.budget.rates import Headroom
from tierpool.contracts import Usage
from tierpool.contracts.ledger import USD
from tierpool.contracts.reports import Bound, PoolReport
from tierpool.errors import ModelUnavailable, NotAdmitted
from tierpool.leases import Ask, Held, LeaseAgent
from tierpool.pools.instances import Instance, Pool, PoolView
from tierpool.pools.throttle import Throttle

__all__ = ["Admitted", "Gate", "bound_of"]

_log = structlog.get_logger()

_COME_BACK = timedelta(seconds=2)
"""Until then a call that was sent back waits at least."""
_PATIENCE = 1.0
"""Seconds that a call waits for a gate that closed while it was on its way."""


class Slots(Protocol):
    """The slots of one task queue, as far as the gate counts them."""

    name: str
    """Of the task queue."""
    issued: int
    """Slots that pollers and calls hold."""
    used: int
    """Slots that calls hold."""


@dataclass
class Admitted:
    """A call that may start: its instance, and whom it tells of the answer."""

    instance: Instance[Any]
    throttle: Throttle | None
    pool: Pool[Any]
    held: Held
    """What it holds of the fleet's limits."""
    elsewhere: bool = False
    """Whether the tier has other models, which may have keys of their own."""

    @property
    def agent(self) -> Any:
        """What the instance calls models with."""
        return self.instance.agent

    def broken(self) -> None:
        """Say that the instance's connections are in doubt: it is replaced."""
        self.instance.failed = True

    def refused_key(self, reason: str) -> timedelta:
        """Say that the provider does not take the key; returns when to try again."""
        self.broken()
        if self.throttle is None:
            return _COME_BACK
        if self.elsewhere and not self.throttle.trouble:
            _log.warning("pool.trouble", pool=self.pool.name, reason=reason)
        self.throttle.refused_key(reason)
        if not self.elsewhere:  # no item is sent before the key was shown again
            self.pool.in_trouble(reason)
        return timedelta(seconds=self.throttle.closed_for)

    def answered(self, told: Headroom | None) -> None:
        """Say that the provider answered, and what it still takes."""
        if self.throttle is not None:
            if self.throttle.trouble:
                _log.info("pool.recovered", pool=self.pool.name)
            self.throttle.answered(told)

    def settle(self, usage: Usage | None) -> None:
        """Say what the call used; None: nobody knows, it costs its reservation."""
        self.held.settle(usage)

    def release(self) -> None:
        """Say that nothing is owed for the call."""
        self.held.release()

    def refused(self, retry_after: timedelta | None) -> None:
        """Say that the provider takes no more for now (429 or 529)."""
        if self.throttle is not None:
            self.throttle.refused(retry_after.total_seconds() if retry_after else None)


@dataclass
class Gate:
    """Decides for one pool of this process."""

    pool: Pool[Any]
    throttles: dict[str, Throttle]
    """By task queue, the tier's own first; empty for tools."""
    lease: LeaseAgent
    """Of the process."""
    waits: bool = True
    """Whether calls wait in the queue while the money of the hour is used up; else
    they are taken, and sent back to be denied or downgraded."""
    queues: list[Slots] = field(default_factory=list)
    _begun: Counter[str] = field(default_factory=Counter)
    """Calls that were sent and have not ended, by task queue."""
    _look_at: float = 0.0
    """When the gate is looked at again, by the loop's time."""

    def __post_init__(self) -> None:
        for throttle in self.throttles.values():
            throttle.listeners.append(self.pool.changed)
        self.lease.listeners.append(self.pool.changed)

    def opens_for(self, queue: Slots) -> bool:
        """Tell whether a queue may have one more slot.

        A slot counts from its reservation in its own queue, and from its use in
        the others: idle pollers of one queue would starve the others.
        """
        if self.pool.trouble:
            return False
        used = sum(other.used for other in self.queues if other is not queue)
        if queue.issued + used >= self.pool.limit:
            return False
        throttle = self.throttles.get(queue.name)
        coming = queue.issued - self._begun[queue.name]
        if throttle is not None:
            if self._elsewhere(queue.name, throttle):
                return True  # to be sent on to the fallback
            if throttle.under_way + coming >= throttle.room:
                return False
        name = queue.name if throttle is not None else ""
        if self.lease.covers(name, coming):
            return True
        return not self.waits and self.lease.holds_back(name)[0] == USD

    @asynccontextmanager
    async def admit(self, queue: str, ask: Ask) -> AsyncIterator[Admitted]:
        """Let a call start, with an instance of its own.

        Args:
            queue: Task queue that it came on.
            ask: What it takes of the fleet's limits.

        Raises:
            NotAdmitted: if it cannot start now; nothing was sent.
            LeaseShort: if a limit of the fleet is in the way (a NotAdmitted).
            TierpoolError: if no instance can be built.
        """
        throttle = self.throttles.get(ask.queue)
        if throttle is not None and self._elsewhere(queue, throttle):
            wait = timedelta(seconds=throttle.closed_for)
            raise ModelUnavailable(throttle.why(), retry_after=wait)
        await self._open(throttle)
        held = await self.lease.reserve(ask)
        self._begun[queue] += 1
        if throttle is not None:
            throttle.begin()
        sent = False
        try:
            async with self.pool.lend() as instance:
                sent = True
                others = len(self.throttles) > 1
                yield Admitted(instance, throttle, self.pool, held, others)
        finally:
            # unless somebody has settled it
            held.settle(None) if sent else held.release()
            self._begun[queue] -= 1
            if throttle is not None:
                throttle.end()
                self._look_again_after(throttle.closed_for)

    def report(self, models: tuple[str, ...] = ()) -> PoolReport:
        """Show the pool as it is now."""
        view, meter = self.pool.view(), self.pool.meter
        bound, reason = bound_of(view, list(self.throttles.values()))
        if bound == "backlog":
            bound, reason = self._leased(bound, reason)
        room = self._room()
        startable = max(0.0, min(view.limit, room) - view.busy)
        cooling = max(0, view.ready - int(startable)) if room < view.limit else 0
        return PoolReport(
            pool=self.pool.name,
            models=models,
            limit=view.limit,
            scale_up_threshold=self.pool.spec.scale_up_threshold,
            scale_down_idle_secs=self.pool.spec.scale_down_idle_secs,
            wait_target_secs=self.pool.spec.scaling.wait_target_secs,
            ready=view.ready - cooling,
            busy=view.busy,
            starting=view.starting,
            cooldown=cooling,
            draining=view.draining,
            bound=bound,
            reason=reason,
            trouble=view.trouble or self._refused_keys(),
            built=view.built,
            calls=meter.calls,
            failed=meter.failed,
            call_seconds=meter.call_seconds,
            window=meter.window(),
        )

    def _leased(self, bound: Bound, reason: str) -> tuple[Bound, str]:
        """Say which limit of the fleet holds the pool back, if one does."""
        tried = [name for name, one in self.throttles.items() if not one.unavailable]
        queue = next(iter(tried or self.throttles), "")
        limit, why = self.lease.holds_back(queue)
        if not why:
            return bound, reason
        return ("budget" if limit in ("", USD) else "rate"), why

    def _elsewhere(self, queue: str, throttle: Throttle) -> bool:
        """Tell whether a call should go to the tier's next model at once."""
        if not throttle.unavailable:
            return False
        queues = list(self.throttles)
        others = queues[queues.index(queue) + 1 :]
        return any(not self.throttles[other].trouble for other in others)

    def _refused_keys(self) -> str:
        return "; ".join(t.trouble for t in self.throttles.values() if t.trouble)

    def _room(self) -> float:
        rooms = [throttle.room for throttle in self.throttles.values()]
        return sum(rooms) if rooms else math.inf

    async def _open(self, throttle: Throttle | None) -> None:
        """Wait a moment for a pool in trouble, and for a provider that cools down."""
        try:
            async with asyncio.timeout(_PATIENCE):
                while self.pool.trouble or (throttle is not None and throttle.full):
                    if throttle is not None:
                        self._look_again_after(throttle.closed_for)
                    await self.pool.change()
        except TimeoutError:
            wait = timedelta(seconds=throttle.closed_for if throttle else 0)
            raise NotAdmitted(
                self.pool.trouble or (throttle.why() if throttle else ""),
                retry_after=max(wait, _COME_BACK),
            ) from None

    def _look_again_after(self, seconds: float) -> None:
        """Wake who waits when the time is over; one timer is enough."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        if seconds and not now < self._look_at <= now + seconds:
            self._look_at = now + seconds
            loop.call_later(seconds, self.pool.changed)


def bound_of(view: PoolView, throttles: list[Throttle]) -> tuple[Bound, str]:
    """Say what keeps a pool of this process from making more calls."""
    if view.trouble:
        return "provider", view.trouble
    if not view.limit:
        return "max", "paused: max_instances is 0"
    # a model that is unavailable has sent its calls on to the next one
    tried = [throttle for throttle in throttles if not throttle.unavailable]
    first = next(iter(tried or throttles), None)
    if first is not None and first.full and first.room < view.limit:
        return "provider", "; ".join(filter(None, (t.why() for t in throttles)))
    if view.busy >= view.limit:
        return "max", f"all {view.limit} instances are busy"
    return "backlog", "instances are free"
