"""What an autoscaler changes: nothing, or the instances of running workers.

Other targets are in `kubernetes` and `machine`; all are told the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from datetime import UTC, datetime, timedelta
from typing import Protocol, TypeAlias

from temporalio.client import (
    Client,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.service import RPCError

from tierpool.contracts.limits import (
    SCALE_UPDATE,
    AppliedLimits,
    ScaleRequest,
    limits_id,
)
from tierpool.contracts.reports import WorkerReport
from tierpool.contracts.scaling import PoolDecision
from tierpool.errors import TierpoolError
from tierpool.pools.autoscaler.limiting import Reach

__all__ = ["Advice", "NotScaled", "Slots", "Target", "Workers"]

Workers: TypeAlias = Mapping[str, Sequence[WorkerReport]]
"""The processes of each pool that take calls, and go on doing so."""

_TIMEOUT = timedelta(seconds=10)
_HEARD = timedelta(seconds=120)
"""Workers go by their own limits again if nothing is heard for so long."""
_SAY_AGAIN = timedelta(seconds=40)


class NotScaled(TierpoolError):
    """A target refused, or did not answer; it is told again."""


class Target(Protocol):
    """Something that can be scaled."""

    @property
    def name(self) -> str:
        """Name on the command line."""

    @property
    def reach(self) -> Reach:
        """What it can change."""

    def running(self) -> AbstractAsyncContextManager[object]:
        """Keep what it needs until the block ends."""

    async def scale(self, decisions: Sequence[PoolDecision], workers: Workers) -> None:
        """Bring the pools to what was decided; the same again changes nothing.

        Args:
            decisions: One for each pool.
            workers: Who works there now.

        Raises:
            NotScaled: if it is refused; nothing else is lost.
        """


class Advice:
    """Changes nothing: others read the metric, or the log."""

    name = "advise"

    def __init__(self, lead_seconds: float) -> None:
        """Take how long it takes others to follow."""
        self.reach = Reach(lead_seconds, whole_workers=True)

    def running(self) -> AbstractAsyncContextManager[object]:
        """See base class."""
        return nullcontext()

    async def scale(self, decisions: Sequence[PoolDecision], workers: Workers) -> None:
        """See base class."""


class Slots:
    """Changes the instances of the workers that run, through Temporal."""

    name = "slots"

    def __init__(self, client: Client, fleet: str, lead_seconds: float) -> None:
        """Take a client of the fleet's server, and the fleet's name."""
        self._client, self._fleet = client, fleet
        self.reach = Reach(lead_seconds, whole_workers=False)
        self._told: dict[str, int] = {}
        self._told_at = datetime.min.replace(tzinfo=UTC)

    def running(self) -> AbstractAsyncContextManager[object]:
        """See base class."""
        return nullcontext()

    async def scale(self, decisions: Sequence[PoolDecision], workers: Workers) -> None:
        """See base class."""
        if not decisions:
            return
        # of which nothing is known now keeps what it was told last
        each = self._told | {
            one.pool: math.ceil(one.instances / len(workers[one.pool]))
            for one in decisions
            if workers.get(one.pool)
        }
        now = datetime.now(UTC)
        if each == self._told and now - self._told_at < _SAY_AGAIN:
            return
        try:
            handle = await self._client.start_workflow(
                "LimitsWorkflow",
                AppliedLimits(),
                id=limits_id(self._fleet),
                task_queue=f"{self._fleet}-control",
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                static_summary="limits applied to the running fleet",
                rpc_timeout=_TIMEOUT,
            )
            await handle.execute_update(
                SCALE_UPDATE,
                ScaleRequest(pools=each, until=now + _HEARD),
                result_type=AppliedLimits,
                rpc_timeout=_TIMEOUT,
            )
        except WorkflowUpdateFailedError as error:
            raise NotScaled(f"the limits do not take it: {error.cause}") from error
        except RPCError as error:
            raise NotScaled(f"the Temporal server says: {error.message}") from error
        except WorkflowUpdateRPCTimeoutOrCancelledError:
            raise NotScaled(
                "nobody keeps the limits of the fleet: is there a "
                f"`tierpool worker --control` of {self._fleet}?"
            ) from None
        self._told, self._told_at = each, now
