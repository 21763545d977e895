"""An autoscaler process: looks, decides, asks to lead, acts; until it is stopped.

It may be killed at any moment: what it changed stays, and another one leads
when it has been silent for a while. While it cannot see the fleet, or nobody
says that it leads, it changes nothing. What it does as the one that leads ends
before somebody else may lead.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog
from pydantic import ValidationError
from temporalio.client import Client

from tierpool.contracts.scaling import PoolDecision
from tierpool.errors import ServerError
from tierpool.fleet import LoadedFleet
from tierpool.pools.autoscaler.acting import NotScaled, Target
from tierpool.pools.autoscaler.asked import Asked
from tierpool.pools.autoscaler.deciding import About, Brain
from tierpool.pools.autoscaler.leading import Candidate, NobodyAnswers
from tierpool.pools.autoscaler.limiting import pool_limits, taking
from tierpool.pools.autoscaler.observing import Sight
from tierpool.pools.observe import FleetStatus, PoolStatus, observe

__all__ = ["LEAD_SECONDS", "Autoscaler"]

LEAD_SECONDS = 10.0
_PERIODS = 3
_LONGEST = 300.0
"""Seconds for which the lead is given at most."""
_NO_REGISTRY = "this server keeps no registry of workers, so sizes stay as they are"
_NO_STATISTICS = (
    "this server has no statistics of task queues, so sizes stay as they are; the "
    "policy `utilisation` needs none"
)
_NO_WORKER = (
    "no worker whose instances could change; start one: `tierpool worker --pool TIER`"
)

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
    """Who has been silent for so many seconds, and for three periods, leads no more."""
    clock: Callable[[], float] = time.monotonic
    leads: bool = False
    decisions: tuple[PoolDecision, ...] = ()
    """The last ones; of a pool of which nothing is known there is none."""
    looked_at: float = 0.0
    """When it last began to look, by the clock."""
    trouble: str = ""
    """Why it does not see, lead or act; empty if all is well."""
    _told: dict[str, int] = field(default_factory=dict)
    """Sizes that were logged last."""
    _leader: str = ""

    def __post_init__(self) -> None:
        self.looked_at = self.clock()
        self.lead_for = min(_LONGEST, max(self.lead_for, _PERIODS * self.every))
        self._asked = Asked(self.target.reach.lead_seconds)
        self._sight = Sight(self._asked)
        self._candidate = Candidate(
            self.client, self.fleet.name, self.target.name, self.lead_for
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Decide again and again until told to stop, then let others lead."""
        async with self.target.running():
            while not stop.is_set():
                began = self.clock()
                await _unless(stop, self.step())
                with suppress(TimeoutError):
                    async with asyncio.timeout(self.every - (self.clock() - began)):
                        await stop.wait()
            with suppress(NobodyAnswers):
                await self._candidate.resign()
            self.leads = False

    async def step(self) -> None:
        """Observe, decide and act once."""
        self.looked_at = self.clock()
        unknown: list[str] = []
        try:
            status = await observe(self.client, self.fleet)
            self.decisions, unknown = self._decide(status)
            await self._ask()
            if self.leads:
                await self._act(status)
        except (ServerError, NobodyAnswers) as error:
            self.leads = False
            self._say(str(error))
        except ValidationError as error:
            self.leads = False
            what = f"{error.title}, {error.error_count()} problems"
            self._say(f"not understood, of another version of tierpool? {what}")
        except NotScaled as error:
            self._say("; ".join([*unknown, str(error)]))
        else:
            self._say("; ".join(unknown))

    def _decide(
        self, status: FleetStatus
    ) -> tuple[tuple[PoolDecision, ...], list[str]]:
        """Decide on every tier's pool; also without the lead, to be warm for it.

        Returns:
            The decisions, and why there are none on some pools.
        """
        now, at = datetime.now(UTC), self.clock()
        self._remember(status, now, at)
        made, missing = [], defaultdict[str, list[str]](list)
        for pool in status.pools:
            if pool.pool not in self.brain.policies:
                continue
            why = self._blind(status, pool)
            if why:
                missing[why].append(pool.pool)
                continue
            limits = pool_limits(self.fleet, status, pool, self.target.reach)
            seen = self._sight.see(status, pool, at)
            there = None
            if not self.target.reach.whole_workers:
                there = len(taking(status, pool.pool))
            least = self.fleet.fleet.tiers[pool.pool].pool.scaling.min_workers
            about = About(now, pool.limit, least, there)
            one = self.brain.decide(pool.pool, seen, limits, about)
            made.append(one)
            if one.constraint == "no_data" and not pool.statistics:
                missing[_NO_STATISTICS].append(pool.pool)
        return tuple(made), [f"{', '.join(p)}: {why}" for why, p in missing.items()]

    def _remember(self, status: FleetStatus, now: datetime, at: float) -> None:
        """Note what the one that leads has decided, be it this one or another."""
        for one in status.scaling.decisions if status.scaling else ():
            ago = max(0.0, (now - one.at).total_seconds())
            if ago < self._asked.patience:
                self._asked.note(one.pool, one.instances, at - ago)

    def _blind(self, status: FleetStatus, pool: PoolStatus) -> str:
        """Say why nothing can be decided on a pool; nothing if something can."""
        if not status.registry:
            return _NO_REGISTRY
        if self.target.reach.whole_workers or taking(status, pool.pool):
            return ""
        return _NO_WORKER

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
            if one.instances != self._told.get(one.pool, one.before):
                _log.info(
                    "autoscaler.decided", pool=one.pool, instances=one.instances,
                    workers=one.workers, before=one.before, bound_by=one.constraint,
                    reason=one.reason, act=self.target.name,
                )  # fmt: skip
            self._told[one.pool] = one.instances
            self._asked.note(one.pool, one.instances, self.clock())
        left = self.lead_for - (self.clock() - self.looked_at)
        if left < self.lead_for / 2:
            raise NotScaled(
                f"it took {self.lead_for - left:.0f} s to look at the fleet and to "
                "lead, so that somebody else may lead soon: is the server overloaded?"
            )
        workers = {pool.pool: taking(status, pool.pool) for pool in status.pools}
        try:
            async with asyncio.timeout(left):
                await self.target.scale(self.decisions, workers)
        except TimeoutError:
            raise NotScaled(
                f"no answer from {self.target.name} in {left:.0f} s"
            ) from None

    def _say(self, trouble: str) -> None:
        if trouble and trouble != self.trouble:
            _log.warning("autoscaler.stumbled", reason=trouble)
        elif self.trouble and not trouble:
            _log.info("autoscaler.recovered")
        self.trouble = trouble


async def _unless(stop: asyncio.Event, work: Coroutine[None, None, None]) -> None:
    """Do something, but give it up when told to stop."""
    doing, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([doing, stopping], return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            doing.result()
    finally:
        for task in (doing, stopping):
            task.cancel()
        await asyncio.gather(doing, stopping, return_exceptions=True)
