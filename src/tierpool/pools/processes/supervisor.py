"""Keeps the worker processes of one machine: observes them, and acts.

What to do is decided in `processes`. This process makes no agent call and has
no connection to Temporal: nothing in it can hang or leak with the work.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import structlog

from tierpool.pools.processes.children import Child, spawn
from tierpool.pools.processes.decisions import Action, State, decide, drain_all
from tierpool.pools.processes.view import Ended, Limits

__all__ = ["Supervisor"]

_LOOK_EVERY = 1.0
_ABORT_SECONDS = 3.0
"""Time that children have to abort before they are killed."""
_NO_PROCESS = 71
"""Stands for the exit status of a process that the system did not start."""

_log = structlog.get_logger()


@dataclass(eq=False)
class Supervisor:
    """Runs `tierpool worker` as often as it is called for."""

    options: Sequence[str]
    """Of each worker."""
    limits: Limits
    clock: Callable[[], float] = time.monotonic
    children: dict[int, Child] = field(default_factory=dict)
    """Those that run, by index."""
    ends: Counter[str] = field(default_factory=Counter)
    """Ended processes since the start: `drained`, `died`."""
    _ended: list[Ended] = field(default_factory=list)
    _waits: set[asyncio.Task[None]] = field(default_factory=set)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _signals: int = 0
    _failed: bool = False

    def __post_init__(self) -> None:
        """Want the least number of processes."""
        self.state = State(wanted=self.limits.least)

    @property
    def stopping(self) -> bool:
        """Whether all processes drain."""
        return self._signals > 0

    @property
    def ready(self) -> int:
        """Processes that take calls."""
        return sum(child.state == "running" for child in self.children.values())

    def stop(self) -> None:
        """Drain all processes; a second time, abort them."""
        self._signals += 1
        event = ("supervisor.draining", "supervisor.aborted")[self._signals > 1]
        _log.info(event, processes=len(self.children))
        self._wake.set()

    async def run(self, *, on_signals: bool = True) -> int:
        """Keep the processes until told to stop; return the exit status.

        If this process is killed, they notice and drain (see `lifeline`).

        Args:
            on_signals: Whether SIGTERM and Ctrl-C tell it; else `stop` does.
        """
        with self._on_signals() if on_signals else contextlib.nullcontext():
            while self._signals < 2:
                began = self.clock()
                self._wake.clear()
                await asyncio.gather(*(c.look() for c in self.children.values()))
                status = await self._step()
                if status is not None:
                    return status
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_EVERY - (self.clock() - began)):
                        await self._wake.wait()
            return await self._abort()

    async def _step(self) -> int | None:
        """Do what is called for now; return the exit status when all is over."""
        self._tell_who_is_ready()
        ended, self._ended = self._ended, []
        seen = [child.view() for child in self.children.values()]
        now = self.clock()
        if self.stopping:
            self._failed |= any(e.status not in (0, -signal.SIGTERM) for e in ended)
            if not seen:
                return int(self._failed)
            actions: Sequence[Action] = drain_all(seen, self.limits, now)
        else:
            decision = decide(self.state, self.limits, seen, ended, now)
            self.state, actions = decision.state, decision.actions
            if decision.status is not None:
                _log.error("supervisor.gave_up", status=decision.status)
                return decision.status
        for action in actions:
            await self._act(action)
        return None

    async def _act(self, action: Action) -> None:
        if action.do == "start":
            await self._start(action.index, action.reason)
            return
        child = self.children.get(action.index)
        if child is None:
            return  # it has ended since
        about = {"index": child.index, "pid": child.pid, "reason": action.reason}
        if action.do == "drain":
            _log.info("process.draining", **about)
            child.drain(action.reason)
        else:
            if child.why != action.reason:  # it may take another look until it is gone
                _log.error("process.killed", **about)
            child.why = action.reason
            child.send(signal.SIGKILL)

    async def _start(self, index: int, reason: str) -> None:
        try:
            child = await spawn(index, self.options, self.clock)
        except OSError as error:
            _log.error("process.not_started", index=index, reason=str(error))
            self._ended.append(Ended(index, _NO_PROCESS, self.clock()))
            return
        self.children[index] = child
        event = "process.respawned" if reason == "respawned" else "process.started"
        _log.info(event, index=index, pid=child.pid, reason=reason, port=child.port)
        waiting = asyncio.create_task(self._wait(child))
        self._waits.add(waiting)
        waiting.add_done_callback(self._waits.discard)

    async def _wait(self, child: Child) -> None:
        """Take a child out of the books once it has ended."""
        status = await child.process.wait()
        os.close(child.lifeline)
        del self.children[child.index]
        ended = child.ended()
        self._ended.append(ended)
        self.ends["drained" if ended.drained else "died"] += 1
        log = _log.info if ended.drained and not status else _log.warning
        why = child.why or "by itself"
        log(
            "process.ended", index=child.index, pid=child.pid, status=status, reason=why
        )
        self._wake.set()

    def _tell_who_is_ready(self) -> None:
        for child in self.children.values():
            if child.ready_since is not None and not child.told_ready:
                child.told_ready = True
                _log.info("process.ready", index=child.index, pid=child.pid)

    async def _abort(self) -> int:
        """Pass the second signal on, and kill what does not follow."""
        for child in self.children.values():
            child.send(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ABORT_SECONDS):
                await self._all_ended()
        for child in self.children.values():
            child.send(signal.SIGKILL)
        await self._all_ended()
        return 1

    async def _all_ended(self) -> None:
        if self._waits:
            await asyncio.wait(self._waits)

    @contextlib.contextmanager
    def _on_signals(self) -> Iterator[None]:
        """Drain on the first SIGTERM or Ctrl-C, abort on the second."""
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGTERM, signal.SIGINT)
        for number in numbers:
            loop.add_signal_handler(number, self.stop)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)
