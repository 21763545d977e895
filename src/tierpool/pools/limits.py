"""The worker's side of `tierpool apply`: pools follow what was applied.

What was applied last goes before the file that the worker was started with,
until it is withdrawn; a difference is logged.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from pydantic import ValidationError
from temporalio.client import Client
from temporalio.service import RPCError

from tierpool.blueprint import PoolSpec
from tierpool.budget.limits import fleet_limits
from tierpool.contracts.limits import AppliedLimits
from tierpool.fleet import LoadedFleet
from tierpool.leases import LeaseAgent
from tierpool.leases.applied import applied_limits, limits_of_claims, tell_claims
from tierpool.pools.instances import Pool
from tierpool.pools.report import Reporter

__all__ = ["Follower"]

_EVERY = timedelta(seconds=2)
_WHILE_THERE_IS_NONE = timedelta(seconds=10)
"""The server counts each question for what is not there as a failed request."""
_TIMEOUT = timedelta(seconds=5)

_log = structlog.get_logger()


class Follower:
    """Lets this process follow: its pools, its lease, and the claims if it keeps them."""

    def __init__(
        self,
        client: Client,
        reporter: Reporter,
        pools: Mapping[str, Pool[Any]],
        fleet: LoadedFleet,
        lease: LeaseAgent,
    ) -> None:
        """Take the pools; what their file says is what they have now."""
        self._client, self._reporter, self._pools = client, reporter, pools
        self._fleet, self._lease = fleet, lease
        self._keeps_claims = "control" in reporter.serves
        self._of_file = {name: pool.spec for name, pool in pools.items()}
        self._told = ""
        self._scaled: dict[str, int] = {}
        """What an autoscaler wants of this process."""

    async def follow(self) -> None:
        """Look again and again, until cancelled."""
        while self._pools or self._keeps_claims:
            known = self._reporter.limits or self._scaled
            wait = _EVERY if known else _WHILE_THERE_IS_NONE
            await asyncio.sleep(wait.total_seconds())
            await self.look()

    async def look(self) -> None:
        """Follow what is applied now; while nobody tells, nothing changes."""
        if not (self._pools or self._keeps_claims):
            return
        try:
            applied = await applied_limits(self._client, self._reporter.fleet)
            self._reporter.heard = time.monotonic()
            scaled = applied.scaled_now(datetime.now(UTC))
            if applied.id != self._reporter.limits or scaled != self._scaled:
                specs = self._specs(applied, scaled)
                if self._keeps_claims and applied.id != self._reporter.limits:
                    await self._tell_claims(applied)
                self._take(applied, specs)
                self._scaled = scaled
        except (RPCError, ValidationError) as error:
            self._keep(error)
            return
        self._told = self._reporter.refused_limits = ""

    def _keep(self, error: RPCError | ValidationError) -> None:
        """Go on as it is; say why once."""
        reason = str(error)
        if isinstance(error, ValidationError):
            reason = "; ".join(one["msg"] for one in error.errors())
            self._reporter.refused_limits = reason
        if reason != self._told:
            _log.warning("limits.not_followed", reason=reason)
        self._told = reason

    def _specs(
        self, applied: AppliedLimits, scaled: Mapping[str, int]
    ) -> dict[str, PoolSpec]:
        """Return what each pool has to follow.

        Raises:
            ValidationError: if one of them cannot be: then none is.
        """
        specs = {}
        for name, of_file in self._of_file.items():
            given = applied.pools.get(name)
            spec = of_file
            if given is not None:
                spec = PoolSpec(**of_file.model_dump() | given.model_dump())
            specs[name] = _scaled(spec, scaled.get(name))
        return specs

    async def _tell_claims(self, applied: AppliedLimits) -> None:
        """Let the claims follow, if there are any."""
        limits = limits_of_claims(applied, self._fleet)
        await tell_claims(self._client, self._fleet.name, limits, _TIMEOUT)

    def _take(self, applied: AppliedLimits, specs: Mapping[str, PoolSpec]) -> None:
        for name, spec in specs.items():
            pool = self._pools[name]
            if spec != pool.spec:
                _log.info(
                    "limits.followed", pool=name, generation=applied.generation,
                    by=applied.by, max_instances=spec.max_instances,
                    of_the_file=self._of_file[name].max_instances,
                )  # fmt: skip
                pool.change_spec(spec)
        self._lease.follow(applied.shared or fleet_limits(self._fleet))
        self._reporter.limits = applied.id
        self._reporter.news.set()


def _scaled(spec: PoolSpec, instances: int | None) -> PoolSpec:
    """Keep as many instances as an autoscaler wants, within the pool's limits."""
    if instances is None:
        return spec
    count = min(spec.max_instances, max(spec.min_instances, instances, 1))
    return spec.model_copy(update={"min_instances": count, "max_instances": count})
