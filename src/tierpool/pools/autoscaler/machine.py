"""Scales worker processes of this machine: one supervisor for each pool."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from tierpool.contracts.scaling import PoolDecision
from tierpool.pools.autoscaler.acting import NotScaled
from tierpool.pools.autoscaler.limiting import Reach
from tierpool.pools.processes.supervisor import Supervisor

__all__ = ["Processes"]


class Processes:
    """Starts, drains and respawns `tierpool worker --pool NAME`.

    The processes begin when the first decision of a leader comes, and drain when
    the block ends; if this process is killed, they notice and drain.
    """

    name = "processes"

    def __init__(
        self, supervisors: Mapping[str, Supervisor], lead_seconds: float
    ) -> None:
        """Take a supervisor for each pool, that is not running yet."""
        self._supervisors = supervisors
        self.reach = Reach(lead_seconds, whole_workers=True)
        self._running: dict[str, asyncio.Task[int]] = {}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """See base class; at its end all calls may finish, within their grace."""
        try:
            yield
        finally:
            for name in self._running:
                self._supervisors[name].stop()
            await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def scale(
        self, decisions: Sequence[PoolDecision], workers: Mapping[str, int]
    ) -> None:
        """See base class."""
        ended = []
        for one in decisions:
            supervisor = self._supervisors.get(one.pool)
            if supervisor is None:
                continue
            supervisor.limits = replace(supervisor.limits, target=one.workers)
            task = self._running.get(one.pool)
            if task is None:
                self._running[one.pool] = asyncio.create_task(
                    supervisor.run(on_signals=False)
                )
            elif task.done():
                ended.append(f"{one.pool}: no worker process can run; see its log")
        if ended:
            raise NotScaled("; ".join(ended))
