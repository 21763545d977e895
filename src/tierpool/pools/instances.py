"""Instances of one pool in this process: built, kept warm, lent and replaced.

An instance is what one call at a time needs; for model calls that is a client
with connections of its own. Whether a call may start at all is `slots`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Generic, Protocol, TypeVar

import structlog

from tierpool.blueprint import PoolSpec
from tierpool.errors import NotAdmitted, TierpoolError, UsageError
from tierpool.pools.meter import Meter

__all__ = ["Agent", "Instance", "Pool", "PoolView", "surplus"]

_TEND_SECONDS = 1.0
_FULL_SECONDS = 5.0
"""How long a call that came as its pool became smaller waits for an instance."""
_KEEP_SECONDS = 45.0
"""Idle connections are used again before the provider closes them."""
_BUILD_AGAIN_SECONDS = (1.0, 60.0)

_log = structlog.get_logger()


class Agent(Protocol):
    """What an instance holds."""

    async def keep(self) -> None:
        """Do what keeps it warm while it waits."""
        ...

    async def close(self) -> None:
        """Let go of what it holds."""
        ...


A = TypeVar("A", bound=Agent)


@dataclass(eq=False)
class Instance(Generic[A]):
    """One agent, for one call at a time."""

    agent: A
    requests: int = 0
    """Calls that it has made."""
    idle_since: float = 0.0
    kept: float = 0.0
    """When it was kept warm last, by a call or otherwise."""
    failed: bool = False
    """Set by its call when the agent itself is in doubt: it is replaced then."""


@dataclass(frozen=True, slots=True)
class PoolView:
    """A pool of this process at one moment."""

    ready: int
    busy: int
    starting: int
    limit: int
    """What `max_instances` is by now; calls above it come to their end."""
    built: int
    """Instances built since the start."""
    trouble: str = ""
    """Why no instance can be built; empty if all is well. Nothing is polled then."""

    @property
    def draining(self) -> int:
        """Busy instances that go when their call has ended."""
        return max(0, self.busy - self.limit)


def surplus(
    idle: list[float], size: int, *, least: int, most: int, now: float, patience: float
) -> int:
    """Return how many idle instances have to go; pure.

    Args:
        idle: Since when each of them is idle, the longest first.
        size: All instances, busy ones included.
        least: `min_instances`.
        most: The limit.
        now: The time, in the same unit.
        patience: `scale_down_idle_secs`.
    """
    over = max(0, size - most)
    expired = sum(1 for since in idle if now - since >= patience)
    return min(len(idle), max(over, min(expired, size - min(least, most))))


@dataclass
class Pool(Generic[A]):
    """All instances of one pool in this process; used on one event loop."""

    name: str
    spec: PoolSpec
    build: Callable[[bool], Awaitable[A]]
    """Makes an agent; told whether to warm it up, which a call does by itself."""
    clock: Callable[[], float] = time.monotonic
    limit: int = -1
    trouble: str = ""
    built: int = 0
    meter: Meter = field(init=False)
    _ready: list[Instance[A]] = field(default_factory=list)
    """The last one was used last: the others may grow old."""
    _busy: set[Instance[A]] = field(default_factory=set)
    _starting: int = 0
    _users: int = 0
    _tending: asyncio.Task[None] | None = None
    _waiting: set[asyncio.Future[None]] = field(default_factory=set)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        if self.limit < 0:
            self.limit = self.spec.max_instances
        self.meter = Meter(self.clock)
        self._note()

    @property
    def size(self) -> int:
        """All instances, those that are being built included."""
        return len(self._ready) + len(self._busy) + self._starting

    def view(self) -> PoolView:
        """Show the pool."""
        return PoolView(
            ready=len(self._ready),
            busy=len(self._busy),
            starting=self._starting,
            limit=self.limit,
            built=self.built,
            trouble=self.trouble,
        )

    def resize(self, limit: int) -> None:
        """Change `max_instances` at once; calls under way come to their end.

        Args:
            limit: 0 pauses the pool.

        Raises:
            UsageError: for a number below 0.
        """
        if limit < 0:
            raise UsageError(f"a pool has 0 instances at least, not {limit}")
        before, self.limit = self.limit, limit
        if limit != before:
            _log.info("pool.resized", pool=self.name, before=before, limit=limit)
        self._note()
        self._trim()
        self.changed()

    def change_spec(self, spec: PoolSpec) -> None:
        """Follow another declaration of the pool from now on."""
        self.spec = spec
        self.resize(spec.max_instances)

    def in_trouble(self, reason: str) -> None:
        """Poll nothing until an instance could be built and shown to its provider."""
        if not self.trouble:
            _log.warning("pool.trouble", pool=self.name, reason=reason)
        self.trouble = reason

    async def ready(self) -> None:
        """Build `min_instances`, before the first poll.

        What cannot be built is tried again while the pool is tended.
        """
        missing = min(self.spec.min_instances, self.limit) - self.size
        await asyncio.gather(*(self._add() for _ in range(missing)))

    @asynccontextmanager
    async def tended(self) -> AsyncIterator[None]:
        """Make the pool ready, and look after it until the last block ends."""
        self._users += 1
        try:
            if self._users == 1:
                self._tending = asyncio.create_task(self.tend())
            await self.ready()
            yield
        finally:
            self._users -= 1
            if not self._users and self._tending is not None:
                self._tending.cancel()
                await self.close()

    async def tend(self) -> None:
        """Let idle instances go and replace what is missing, until cancelled."""
        wait, longest = _BUILD_AGAIN_SECONDS
        while True:
            await asyncio.sleep(wait if self.trouble else _TEND_SECONDS)
            try:
                await self._look_after()
            except Exception:  # noqa: BLE001 - whatever it was, the pool goes on
                _log.exception("pool.stumbled", pool=self.name)
            wait = min(2 * wait, longest) if self.trouble else _BUILD_AGAIN_SECONDS[0]

    async def _look_after(self) -> None:
        self._trim()
        self._note()
        self._keep_warm()
        self.changed()  # time alone may have opened the gate
        if self.trouble and self.limit:
            await self._add()  # the others wait until one can be built
        if not self.trouble:
            await self.ready()

    async def close(self) -> None:
        """Let all idle instances go and wait for what is under way."""
        self._close(self._ready)
        self._ready = []
        while self._tasks:
            await asyncio.wait(self._tasks)

    @asynccontextmanager
    async def lend(self) -> AsyncIterator[Instance[A]]:
        """Lend an instance for one call.

        Raises:
            NotAdmitted: if the pool is full, for calls that were on their way when
                it became smaller.
            TierpoolError: if no instance can be built.
        """
        instance = await self._take()
        self._busy.add(instance)
        self._note()
        begun, failed = self.clock(), True
        try:
            yield instance
            failed = False
        finally:
            self.meter.ended(self.clock() - begun, failed=failed)
            self._busy.discard(instance)
            self._note()
            self._give_back(instance)
            self.changed()

    async def change(self) -> None:
        """Wait until something has happened that may let a call start."""
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(woken)
        try:
            await woken
        finally:
            self._waiting.discard(woken)

    def changed(self) -> None:
        """Let everybody who waits look again."""
        for woken in self._waiting:
            if not woken.done():
                woken.set_result(None)

    async def _take(self) -> Instance[A]:
        try:
            async with asyncio.timeout(_FULL_SECONDS):
                while len(self._busy) + self._starting >= self.limit:
                    await self.change()
        except TimeoutError:
            raise NotAdmitted(
                f"the pool {self.name} has {self.limit} instances, and all are busy",
                retry_after=timedelta(seconds=1),
            ) from None
        return self._ready.pop() if self._ready else await self._new(warm=False)

    def _give_back(self, instance: Instance[A]) -> None:
        instance.requests += 1
        instance.idle_since = instance.kept = self.clock()
        worn = instance.requests >= self.spec.max_requests_per_agent
        if worn or instance.failed or self.size >= self.limit:
            self._close([instance])
            if self.size < min(self.spec.min_instances, self.limit):
                self._go_on(self._add())
        else:
            self._ready.append(instance)

    async def _new(self, *, warm: bool) -> Instance[A]:
        self._starting += 1
        try:
            agent = await self.build(warm)
        except TierpoolError as error:
            self.in_trouble(str(error))
            raise
        except Exception as error:
            self.in_trouble(f"no instance can be built: {type(error).__name__}")
            raise NotAdmitted(self.trouble) from error
        finally:
            self._starting -= 1
        if self.trouble and warm:  # only warming shows whether it can be used
            _log.info("pool.recovered", pool=self.name)
            self.trouble = ""
        self.built += 1
        return Instance(agent, idle_since=self.clock(), kept=self.clock())

    async def _add(self) -> None:
        try:
            self._ready.append(await self._new(warm=True))
        except TierpoolError:
            return  # it is in `trouble`
        self.changed()

    def _keep_warm(self) -> None:
        now = self.clock()
        for instance in self._ready:
            if now - instance.kept >= _KEEP_SECONDS:
                instance.kept = now
                self._go_on(instance.agent.keep())

    def _note(self) -> None:
        self.meter.note(len(self._busy), self.limit)

    def _trim(self) -> None:
        gone = surplus(
            [instance.idle_since for instance in self._ready],
            self.size,
            least=self.spec.min_instances,
            most=self.limit,
            now=self.clock(),
            patience=self.spec.scale_down_idle_secs,
        )
        self._close(self._ready[:gone])
        del self._ready[:gone]

    def _close(self, instances: list[Instance[A]]) -> None:
        for instance in instances:
            self._go_on(instance.agent.close())

    def _go_on(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
