"""Scales worker processes of this machine: one supervisor for each pool."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from tierpool.contracts.reports import WorkerReport
from tierpool.contracts.scaling import PoolDecision
from tierpool.pools.autoscaler.acting import NotScaled, Workers
from tierpool.pools.autoscaler.limiting import Reach
from tierpool.pools.processes.supervisor import Supervisor

__all__ = ["Processes"]


class Processes:
    """Starts, drains and respawns `tierpool worker --pool NAME`.

    The processes begin when the first decision of a leader comes, and drain when
    the block ends; if this process is killed, they notice and drain. Workers
    that others have started count: only what is missing is started.
    """

    name = "processes"

    def __init__(
        self, supervisors: Mapping[str, Supervisor], lead_seconds: float
    ) -> None:
        """Take a supervisor for each pool, that is not running yet."""
        self._supervisors = supervisors
        self.reach = Reach(lead_seconds, whole_workers=True)
        self._running: dict[str, asyncio.Task[int]] = {}
        self._mine: set[int] = set()
        """PIDs of all processes that were started here."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """See base class; at its end all calls may finish, within their grace."""
        try:
            yield
        finally:
            self._stop()
            await asyncio.gather(*self._running.values(), return_exceptions=True)

    def abort(self) -> None:
        """End processes that drain already without waiting for their calls."""
        if any(self._supervisors[name].stopping for name in self._running):
            self._stop()

    async def scale(self, decisions: Sequence[PoolDecision], workers: Workers) -> None:
        """See base class."""
        ended = []
        for one in decisions:
            supervisor = self._supervisors.get(one.pool)
            if supervisor is None:
                continue
            self._mine |= {child.pid for child in supervisor.children.values()}
            others = sum(self._foreign(who) for who in workers.get(one.pool, ()))
            missing = max(0, one.workers - others)
            supervisor.limits = replace(supervisor.limits, target=missing)
            task = self._running.get(one.pool)
            if task is None:
                self._running[one.pool] = asyncio.create_task(
                    supervisor.run(on_signals=False)
                )
            elif task.done():
                ended.append(
                    f"{one.pool}: no worker process can run; its log says why. Mend "
                    "it and start the autoscaler again"
                )
        if ended:
            raise NotScaled("; ".join(ended))

    def _foreign(self, worker: WorkerReport) -> bool:
        """Tell whether somebody else has started a worker."""
        return worker.host != socket.gethostname() or worker.pid not in self._mine

    def _stop(self) -> None:
        for name in self._running:
            self._supervisors[name].stop()
