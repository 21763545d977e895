"""The worker's side of `tierpool apply`: pools follow what was applied.

What was applied last goes before the file that the worker was started with,
until it is withdrawn; a difference is logged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import structlog
from pydantic import ValidationError
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from tierpool.blueprint import PoolSpec
from tierpool.contracts.limits import LIMITS_MEMO, AppliedLimits, limits_id
from tierpool.pools.instances import Pool
from tierpool.pools.report import Reporter

__all__ = ["Follower", "applied_limits"]

_EVERY = timedelta(seconds=2)

_log = structlog.get_logger()


async def applied_limits(client: Client, fleet: str) -> AppliedLimits:
    """Read what is applied to a fleet; generation 0 if nothing is.

    Only a running record counts: ending it by hand withdraws it.

    Raises:
        RPCError: if the server does not answer.
    """
    try:
        found = await client.get_workflow_handle(limits_id(fleet)).describe()
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return AppliedLimits()
        raise
    if found.status is not WorkflowExecutionStatus.RUNNING:
        return AppliedLimits()
    written = await found.memo_value(LIMITS_MEMO, "", type_hint=str)
    return AppliedLimits.model_validate_json(written) if written else AppliedLimits()


class Follower:
    """Lets the pools of this process follow."""

    def __init__(
        self, client: Client, reporter: Reporter, pools: Mapping[str, Pool[Any]]
    ) -> None:
        """Take the pools; what their file says is what they have now."""
        self._client, self._reporter, self._pools = client, reporter, pools
        self._of_file = {name: pool.spec for name, pool in pools.items()}
        self._told = ""

    async def follow(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await asyncio.sleep(_EVERY.total_seconds())
            await self.look()

    async def look(self) -> None:
        """Follow what is applied now; while nobody tells, nothing changes."""
        try:
            applied = await applied_limits(self._client, self._reporter.fleet)
        except (RPCError, ValidationError) as error:
            if not self._told:
                self._told = str(error)
                _log.warning("limits.unknown", reason=self._told)
            return
        self._told = ""
        if applied.generation != self._reporter.limits:
            self._take(applied)

    def _take(self, applied: AppliedLimits) -> None:
        for name, pool in self._pools.items():
            given, of_file = applied.pools.get(name), self._of_file[name]
            spec = PoolSpec(**given.model_dump()) if given else of_file
            if spec != pool.spec:
                _log.info(
                    "limits.followed", pool=name, generation=applied.generation,
                    by=applied.by, max_instances=spec.max_instances,
                    of_the_file=of_file.max_instances,
                )  # fmt: skip
                pool.change_spec(spec)
        self._reporter.limits = applied.generation
        self._reporter.news.set()
