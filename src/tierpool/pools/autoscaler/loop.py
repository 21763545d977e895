"""An autoscaler process: looks, decides, asks to lead, acts; until it is stopped.

It may be killed at any moment: what it changed stays, and another one leads
when it has been silent for a while. While it cannot see the fleet, or nobody
says that it leads, it changes nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog
from temporalio.client import Client

from tierpool.contracts.reports import WorkerReport
from tierpool.contracts.scaling import PoolDecision
from tierpool.errors import ServerError
from tierpool.fleet import LoadedFleet
from tierpool.pools.autoscaler.acting import NotScaled, Target
from tierpool.pools.autoscaler.deciding import Brain
from tierpool.pools.autoscaler.leading import Candidate, NobodyAnswers
from tierpool.pools.autoscaler.limiting import pool_limits
from tierpool.pools.autoscaler.observing import Sight
from tierpool.pools.observe import FleetStatus, observe

__all__ = ["LEAD_SECONDS", "Autoscaler"]

LEAD_SECONDS = 30.0

_log = structlog.get_logger()


@dataclass
class Autoscaler:
    """Scales the pools of one fleet."""

    client: Client
    fleet: LoadedFleet
    target: Target
    brain: Brain
    every: float = 10.0
    """Seconds between two decisions."""
    lead_for: float = LEAD_SECONDS
    """Who has been silent for so many seconds leads no more."""
    clock: Callable[[], float] = time.monotonic
    leads: bool = False
    decisions: tuple[PoolDecision, ...] = ()
    """The last ones of all pools."""
    looked_at: float = 0.0
    """When it last began to look, by the clock."""
    trouble: str = ""
    """Why it does not see, lead or act; empty if all is well."""
    _sight: Sight = field(default_factory=Sight)
    _leader: str = ""

    def __post_init__(self) -> None:
        self.looked_at = self.clock()
        self.lead_for = max(self.lead_for, 3 * self.every)
        self._candidate = Candidate(
            self.client, self.fleet.name, self.target.name, self.lead_for
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Decide again and again until told to stop, then let others lead."""
        async with self.target.running():
            while not stop.is_set():
                began = self.clock()
                await self.step()
                with suppress(TimeoutError):
                    async with asyncio.timeout(self.every - (self.clock() - began)):
                        await stop.wait()
            with suppress(NobodyAnswers):
                await self._candidate.resign()
            self.leads = False

    async def step(self) -> None:
        """Observe, decide and act once."""
        self.looked_at = self.clock()
        try:
            status = await observe(self.client, self.fleet)
            self.decisions = self._decide(status)
            await self._ask()
            if self.leads:
                await self._act(status)
        except (ServerError, NobodyAnswers) as error:
            self.leads = False
            self._say(str(error))
        except NotScaled as error:
            self._say(str(error))
        else:
            self._say("")

    def _decide(self, status: FleetStatus) -> tuple[PoolDecision, ...]:
        """Decide on every tier's pool; also without the lead, to be warm for it."""
        now, at = datetime.now(UTC), self.clock()
        made = []
        for pool in status.pools:
            if pool.pool not in self.brain.policies:
                continue
            limits = pool_limits(self.fleet, status, pool, self.target.reach)
            seen = self._sight.see(status, pool, at)
            spec = status.limits.pools.get(
                pool.pool, self.fleet.fleet.tiers[pool.pool].pool
            )
            made.append(
                self.brain.decide(pool.pool, seen, limits, spec.max_instances, now)
            )
        return tuple(made)

    async def _ask(self) -> None:
        """Ask to lead; only who led before has decided knowing what was done."""
        led = self.leads
        answer = await self._candidate.ask(self.decisions if led else (), self.trouble)
        self.leads = answer.leads
        if answer.leads and not led:
            _log.info("autoscaler.leads", act=self.target.name)
        elif not answer.leads and answer.leader != self._leader:
            _log.info("autoscaler.follows", leader=answer.leader)
        self._leader = "" if answer.leads else answer.leader

    async def _act(self, status: FleetStatus) -> None:
        for one in self.decisions:
            if one.instances != one.before:
                _log.info(
                    "autoscaler.decided", pool=one.pool, instances=one.instances,
                    workers=one.workers, before=one.before, bound_by=one.constraint,
                    reason=one.reason, act=self.target.name,
                )  # fmt: skip
        if self.clock() - self.looked_at > self.lead_for / 2:
            return  # the answer came so late that somebody else may lead
        workers = {pool.pool: _taking(status, pool.pool) for pool in status.pools}
        await self.target.scale(self.decisions, workers)

    def _say(self, trouble: str) -> None:
        if trouble and trouble != self.trouble:
            _log.warning("autoscaler.stumbled", reason=trouble)
        elif self.trouble and not trouble:
            _log.info("autoscaler.recovered")
        self.trouble = trouble


def _taking(status: FleetStatus, pool: str) -> int:
    """Count the processes that take calls of a pool, and go on doing so."""
    return sum(1 for one in _staying(status) if pool in one.serves)


def _staying(status: FleetStatus) -> Sequence[WorkerReport]:
    return [worker for worker in status.workers if worker.stays]
