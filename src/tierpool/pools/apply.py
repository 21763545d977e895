"""`tierpool apply`: what can change in a running fleet, and changing it.

`refusals` compares, purely; `apply_limits` tells the fleet and waits until its
workers follow.
"""

from __future__ import annotations

import asyncio
import getpass
import socket
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from temporalio.client import (
    Client,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.service import RPCError, RPCStatusCode

from tierpool.budget.claim_limits import claim_limits
from tierpool.budget.limits import fleet_limits
from tierpool.contracts.limits import (
    APPLY_UPDATE,
    AppliedLimits,
    LimitsRequest,
    PoolLimits,
    limits_id,
)
from tierpool.contracts.reports import WorkerReport
from tierpool.errors import Problem, TierpoolError
from tierpool.fleet import LoadedFleet, fixed_parts, pool_specs
from tierpool.pools.announce import EVERY, living_workers
from tierpool.pools.statistics import queue_statistics

__all__ = [
    "apply_limits",
    "is_kept",
    "pool_limits",
    "refusals",
    "wait_for_followers",
    "wanted_limits",
]

_LOOKS = 6
_UPDATE_TIMEOUT = timedelta(seconds=15)
_FOLLOW_SECONDS = 3 * EVERY.total_seconds()


def pool_limits(fleet: LoadedFleet) -> dict[str, PoolLimits]:
    """Return what a fleet file says of its pools, that of the tools included."""
    return {
        name: PoolLimits(**spec.model_dump(include=set(PoolLimits.model_fields)))
        for name, spec in pool_specs(fleet).items()
    }


def wanted_limits(fleet: LoadedFleet) -> LimitsRequest:
    """Return all that a fleet file limits."""
    return LimitsRequest(
        pools=pool_limits(fleet),
        shared=fleet_limits(fleet),
        claims=claim_limits(fleet),
    )


def refusals(fleet: LoadedFleet, workers: Sequence[WorkerReport]) -> list[Problem]:
    """Name everything in which a file differs from what cannot change live.

    Args:
        fleet: The file.
        workers: What the processes of the fleet said last.
    """
    wanted = fixed_parts(fleet)
    known: dict[str, set[str]] = {}
    staying = [worker for worker in workers if worker.stays]
    for worker in staying or workers:
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
    client: Client, fleet: str, wanted: LimitsRequest, by: str = ""
) -> AppliedLimits:
    """Replace the limits of a running fleet.

    Args:
        client: Of the fleet's server.
        fleet: Its name.
        wanted: All of them; an empty one lets the files of the workers count again.
        by: Who applies, for people; default: the user and the machine.

    Raises:
        TierpoolError: if they are not taken; then they never are.
        RPCError: if the server does not answer.
    """
    until = datetime.now(UTC) + _UPDATE_TIMEOUT
    handle = await client.start_workflow(
        "LimitsWorkflow",
        AppliedLimits(),
        id=limits_id(fleet),
        task_queue=f"{fleet}-control",
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        static_summary="limits applied to the running fleet",
    )
    request = wanted.model_copy(update={"by": by or _who(), "until": until})
    try:
        applied: AppliedLimits = await handle.execute_update(
            APPLY_UPDATE,
            request,
            result_type=AppliedLimits,
            rpc_timeout=_UPDATE_TIMEOUT,
        )
    except WorkflowUpdateFailedError as error:
        raise TierpoolError(f"the limits were not taken: {error.cause}") from error
    except WorkflowUpdateRPCTimeoutOrCancelledError:
        raise TierpoolError(
            f"nobody took the limits within {_UPDATE_TIMEOUT.seconds} s, and nobody will: "
            "the worker that runs `--control` does not answer"
        ) from None
    return applied


async def is_kept(client: Client, fleet: str) -> bool:
    """Tell whether a worker keeps the fleet's limits; one may just be starting.

    Raises:
        RPCError: if the server does not answer.
    """
    for _ in range(_LOOKS):
        workers = await living_workers(client, fleet)
        if workers is None:
            kept = await _pollers(client, f"{fleet}-control") != 0
        else:
            kept = any("control" in w.serves and w.stays for w in workers)
        if kept:
            return True
        await asyncio.sleep(0.5)
    return False


async def _pollers(client: Client, queue: str) -> int | None:
    try:
        return len((await queue_statistics(client, queue, workflows=True)).pollers)
    except RPCError as error:
        if error.status is RPCStatusCode.UNIMPLEMENTED:
            return None
        raise


async def wait_for_followers(
    client: Client, fleet: str, applied: AppliedLimits
) -> tuple[list[WorkerReport], list[WorkerReport]]:
    """Wait a while for the workers; return those that follow, and the others.

    Who drains does not matter any more, and who is not heard is not waited for.

    Raises:
        RPCError: if the server does not answer.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + _FOLLOW_SECONDS
    while True:
        heard = await living_workers(client, fleet) or []
        pools = [w for w in heard if w.pools and w.stays]
        behind = [w for w in pools if w.limits != applied.id]
        if not behind or loop.time() >= end or all(w.refused_limits for w in behind):
            return [w for w in pools if w not in behind], behind
        await asyncio.sleep(0.5)


def _who() -> str:
    """Name who applies: for people, not for proof."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):
        user = "somebody"
    return f"{user}@{socket.gethostname()}"
