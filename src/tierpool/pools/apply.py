"""`tierpool apply`: what can change in a running fleet, and changing it.

`refusals` compares, purely; `apply_limits` tells the fleet and waits until its
workers follow.
"""

from __future__ import annotations

import asyncio
import getpass
import socket
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from temporalio.client import (
    Client,
    WithStartWorkflowOperation,
    WorkflowUpdateFailedError,
)
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.service import RPCError

from tierpool.blueprint import PoolSpec
from tierpool.contracts.limits import (
    APPLY_UPDATE,
    AppliedLimits,
    LimitsRequest,
    PoolLimits,
    limits_id,
)
from tierpool.contracts.reports import WorkerReport
from tierpool.errors import Problem, ServerError, TierpoolError
from tierpool.fleet import LoadedFleet, fixed_parts
from tierpool.pools.announce import EVERY, announced
from tierpool.pools.statistics import queue_statistics

__all__ = ["apply_limits", "pool_limits", "refusals", "wait_for_followers"]

_LOOKS = 6
_UPDATE_TIMEOUT = timedelta(seconds=20)
_FOLLOW_SECONDS = 3 * EVERY.total_seconds()


def pool_limits(fleet: LoadedFleet) -> dict[str, PoolLimits]:
    """Return what a fleet file says of its pools."""
    return {name: _limits(tier.pool) for name, tier in fleet.fleet.tiers.items()}


def _limits(spec: PoolSpec) -> PoolLimits:
    return PoolLimits(**spec.model_dump())


def refusals(fleet: LoadedFleet, workers: Sequence[WorkerReport]) -> list[Problem]:
    """Name everything in which a file differs from what cannot change live.

    Args:
        fleet: The file.
        workers: What the processes of the fleet said last.
    """
    wanted = fixed_parts(fleet)
    known: dict[str, set[str]] = {}
    for worker in workers:
        for place, value in worker.file.items():
            known.setdefault(place, set()).add(value)
    return [
        Problem(
            message=_why(place, known.get(place, set())),
            path=place,
            file=str(fleet.path),
            value=wanted.get(place, "nothing"),
            hint="start the workers anew with this file, one after the other",
        )
        for place in sorted(wanted.keys() | known.keys())
        if known.get(place, set()) - {wanted.get(place)} or place not in known
    ]


def _why(place: str, running: set[str]) -> str:
    runs = f"the workers run {', '.join(sorted(running)) or 'nothing'}"
    if place == "tiers":
        return f"tiers cannot come, go or change places live: {runs}"
    return f"cannot change live, because workers connect at their start: {runs}"


async def apply_limits(
    client: Client, fleet: str, pools: Mapping[str, PoolLimits], by: str = ""
) -> AppliedLimits:
    """Replace the limits of a running fleet.

    Args:
        client: Of the fleet's server.
        fleet: Its name.
        pools: By tier; none: those of the workers' files count again.
        by: Who applies, for people; default: the user and the machine.

    Raises:
        TierpoolError: if no process keeps the limits.
        ServerError: if the server does not answer.
    """
    queue = f"{fleet}-control"
    try:
        if not await _is_polled(client, queue):
            raise TierpoolError(
                f"nobody keeps the limits of the fleet {fleet}; start "
                "`tierpool worker --control` beside its other workers"
            )
        start: WithStartWorkflowOperation[Any, Any] = WithStartWorkflowOperation(
            "LimitsWorkflow",
            AppliedLimits(),
            id=limits_id(fleet),
            task_queue=queue,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            static_summary="limits applied to the running fleet",
        )
        applied: AppliedLimits = await client.execute_update_with_start_workflow(
            APPLY_UPDATE,
            LimitsRequest(by=by or _who(), pools=dict(pools)),
            start_workflow_operation=start,
            result_type=AppliedLimits,
            rpc_timeout=_UPDATE_TIMEOUT,
        )
    except WorkflowUpdateFailedError as error:
        raise TierpoolError(f"the limits were not taken: {error.cause}") from error
    except RPCError as error:
        raise ServerError(
            f"the limits were not taken: {error.message}; the worker that runs "
            f"`--control` must be up, and the fleet file's `fleet` be {fleet}"
        ) from error
    return applied


async def _is_polled(client: Client, queue: str) -> bool:
    """Tell whether anybody serves a queue; a worker may just be starting."""
    for _ in range(_LOOKS):
        if (await queue_statistics(client, queue, workflows=True)).pollers:
            return True
        await asyncio.sleep(0.5)
    return False


async def wait_for_followers(
    client: Client, fleet: str, applied: AppliedLimits
) -> tuple[list[WorkerReport], list[WorkerReport]]:
    """Wait a while for the workers; return those that follow, and the others.

    Raises:
        RPCError: if the server does not answer.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + _FOLLOW_SECONDS
    while True:
        pools = [w for w in await announced(client, fleet) or [] if w.pools]
        behind = [w for w in pools if w.limits != applied.generation]
        if not behind or loop.time() >= end:
            return [w for w in pools if w not in behind], behind
        await asyncio.sleep(0.5)


def _who() -> str:
    """Name who applies: for people, not for proof."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):
        user = "somebody"
    return f"{user}@{socket.gethostname()}"
