"""The fleet at one moment: what the server knows, and what its workers say.

Reads only, from anywhere that reaches the Temporal server.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Literal

from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from tierpool.contracts.limits import AppliedLimits
from tierpool.contracts.reports import Bound, PoolReport, Window, WorkerReport
from tierpool.contracts.scaling import ScalingState
from tierpool.errors import ServerError
from tierpool.fleet import TOOLS, LoadedFleet
from tierpool.leases.applied import applied_limits
from tierpool.pools.announce import SILENT, announced, living
from tierpool.pools.entities import ask_scaling
from tierpool.pools.shared import SharedStatus, as_workers_know, observe_shared
from tierpool.pools.shared_notes import notes_on_shared
from tierpool.pools.statistics import QueueStatistics, queue_statistics, together
from tierpool.telemetry import ATTRIBUTE_FLOW, ATTRIBUTE_STATE

__all__ = [
    "WITHOUT_CALLS",
    "FleetStatus",
    "ItemCount",
    "PoolStatus",
    "notes_on",
    "observe",
    "pool_status",
]

WITHOUT_CALLS = ("flows", "control")
"""Parts of a fleet that run workflows and make no calls."""

_REMEMBERED = timedelta(minutes=10)
_NO_REGISTRY = "this server keeps no registry of workers: nothing is known of instances"
_ITEMS_COUNTED = 5000
_UNDERSIZED, _OVERSIZED = 0.8, 0.2
_ENOUGH_SECONDS = 60.0
"""A pool is called too small or too large by what it did for so long at least."""


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """All workers on the queues of one tier, of the tools, or of the flows."""

    pool: str
    """Name of the tier, or `tools`, `flows`, `control`."""
    models: tuple[str, ...]
    """`provider:model`, the tier's own first."""
    workers: int
    """Processes."""
    silent: int
    """Processes that polled within the last minutes and report nothing: users' own
    workers, and some that have just gone."""
    limit: int
    """Instances that all of them may have."""
    ready: int
    busy: int
    starting: int
    cooldown: int
    draining: int
    utilisation: float | None
    """Share of the capacity that was used within the last 5 minutes."""
    sizing: Literal["", "undersized", "oversized"]
    backlog: int
    """Tasks that nobody has taken yet; approximate, and some seconds old."""
    oldest_seconds: float
    """Age of the oldest of them."""
    arrivals_per_second: float
    """Mean over 30 s."""
    completed: int
    """Calls that ended within the last 5 minutes."""
    mean_seconds: float | None
    """Mean duration of a call in that time."""
    bound: Bound | None
    """What keeps it from making more calls; None if nobody knows."""
    reason: str
    """The same in words."""
    trouble: str
    """Why a process cannot build instances; it polls nothing then."""
    statistics: bool = True
    """Whether the server knows of backlog and arrivals."""


@dataclass(frozen=True, slots=True)
class ItemCount:
    """Running items of a flow in a state."""

    flow: str
    state: str
    items: int


@dataclass(frozen=True, slots=True)
class FleetStatus:
    """The fleet at one moment."""

    fleet: str
    pools: tuple[PoolStatus, ...]
    workers: tuple[WorkerReport, ...]
    limits: AppliedLimits
    """What `tierpool apply` applied last."""
    items: tuple[ItemCount, ...]
    items_complete: bool
    """False if there are more items than were counted."""
    notes: tuple[str, ...]
    """What somebody should look at."""
    shared: SharedStatus
    """What is limited for the whole fleet."""
    scaling: ScalingState | None = None
    """What an autoscaler decided last; None if there never was one, or nobody tells."""
    registry: bool = True
    """Whether the server keeps one of workers; if not, nothing is known of them."""


async def observe(client: Client, fleet: LoadedFleet) -> FleetStatus:
    """Ask the server about queues, workers, limits and running items.

    What a server does not keep is left out, with a note.

    Raises:
        ServerError: if it does not answer.
    """
    notes: list[str] = []
    try:
        queues, reports, limits, items, shared, scaling = await asyncio.gather(
            _queues(client, fleet, notes),
            announced(client, fleet.name),
            applied_limits(client, fleet.name),
            _items(client, fleet, notes),
            observe_shared(client, fleet),
            ask_scaling(client, fleet.name),
        )
    except RPCError as error:
        raise ServerError(f"the Temporal server says: {error.message}") from error
    now = datetime.now(UTC)
    heard = None if reports is None else living(reports, now)
    pools = [
        pool_status(name, _models(fleet, name), seen, heard)
        for name, seen in queues.items()
    ]
    if reports is None:
        notes.append(_NO_REGISTRY)
    else:
        notes += notes_on(pools, reports, limits, now)
    shared = replace(shared, ledger=as_workers_know(shared.ledger, heard or ()))
    notes += notes_on_shared(shared, fleet, heard or (), limits)
    return FleetStatus(
        fleet=fleet.name,
        pools=tuple(pools),
        workers=tuple(heard or ()),
        limits=limits,
        items=tuple(items or ()),
        items_complete=items is not None
        and sum(i.items for i in items) < _ITEMS_COUNTED,
        notes=tuple(notes),
        shared=shared,
        scaling=scaling.answer,
        registry=reports is not None,
    )


def pool_status(
    name: str,
    models: tuple[str, ...],
    seen: QueueStatistics,
    reports: Sequence[WorkerReport] | None,
) -> PoolStatus:
    """Put together what the server and the workers say of one pool; pure.

    Args:
        name: The pool.
        models: Of the fleet file, for a pool that nobody serves.
        seen: Its queues as the server sees them.
        reports: None if the server keeps no registry of workers.
    """
    serving = [r for r in reports or () if name in r.serves]
    parts = _parts(serving, name)
    staying = _parts([r for r in serving if r.stays], name)
    window = sum((part.window for part in parts), Window())
    workers = len(serving) if reports is not None else len(seen.pollers)
    bound, reason = _bound(staying or parts) if parts else (None, "")
    return PoolStatus(
        pool=name,
        models=parts[0].models if parts and parts[0].models else models,
        workers=workers,
        silent=max(0, len(seen.pollers) - workers),
        limit=sum(part.limit for part in parts),
        ready=sum(part.ready for part in parts),
        busy=sum(part.busy for part in parts),
        starting=sum(part.starting for part in parts),
        cooldown=sum(part.cooldown for part in parts),
        draining=sum(part.draining for part in parts),
        utilisation=window.utilisation,
        sizing=_sizing(window, bound),
        backlog=seen.backlog,
        oldest_seconds=round(seen.oldest.total_seconds(), 1),
        arrivals_per_second=seen.added_per_second,
        completed=window.completed,
        mean_seconds=window.mean_seconds,
        bound=bound,
        reason=reason if workers else "no worker",
        trouble=next((part.trouble for part in parts if part.trouble), ""),
        statistics=seen.known,
    )


def _parts(reports: Sequence[WorkerReport], name: str) -> list[PoolReport]:
    return [pool for r in reports for pool in r.pools if pool.pool == name]


def _bound(parts: Sequence[PoolReport]) -> tuple[Bound, str]:
    """Say what holds a pool back: nothing, while one of its processes is free."""
    free = [part for part in parts if part.bound == "backlog"]
    if free:
        return "backlog", free[0].reason
    most = Counter(part.bound for part in parts).most_common(1)[0][0]
    return most, next(part.reason for part in parts if part.bound == most)


def _sizing(
    window: Window, bound: Bound | None
) -> Literal["", "undersized", "oversized"]:
    used = window.utilisation
    if used is None or window.seconds < _ENOUGH_SECONDS:
        return ""
    if used > _UNDERSIZED:
        return "undersized"
    # a pool that is held back idles, and is no larger than it should be for that
    return "oversized" if used < _OVERSIZED and bound == "backlog" else ""


def notes_on(
    pools: Sequence[PoolStatus],
    reports: Sequence[WorkerReport],
    limits: AppliedLimits,
    now: datetime,
) -> list[str]:
    """Say what somebody should look at.

    Args:
        pools: All of them.
        reports: What the processes said last, also those that are gone.
        limits: What is applied.
        now: The time of this machine's clock.
    """
    heard = living(reports, now)
    notes = [f"{pool.pool}: {pool.trouble}" for pool in pools if pool.trouble]
    versions = Counter(report.version for report in heard)
    if len(versions) > 1:
        counted = ", ".join(f"{n} of {v}" for v, n in sorted(versions.items()))
        notes.append(f"workers of different versions of tierpool: {counted}")
    notes += [
        f"{pool.pool}: polled now, or within the last minutes, by processes that do "
        f"not report, and do not follow `tierpool apply` ({pool.silent})"
        for pool in pools
        if pool.silent and not pool.workers
    ]
    notes += _differing_files(heard)
    notes += _on_limits(pools, heard, limits)
    return notes + _on_clocks(reports, now)


def _on_limits(
    pools: Sequence[PoolStatus], heard: Sequence[WorkerReport], limits: AppliedLimits
) -> list[str]:
    behind = [
        r.where + (f" ({r.refused_limits})" if r.refused_limits else "")
        for r in heard
        if r.pools and r.stays and r.limits != limits.id
    ]
    notes = []
    if behind:
        notes.append(f"do not follow the applied limits (yet): {', '.join(behind)}")
    kept = any(pool.pool == "control" and pool.workers for pool in pools)
    if limits.pools and not kept:
        notes.append(
            "limits are applied, and nobody keeps them: start `tierpool worker "
            "--control` to change them"
        )
    return notes


def _on_clocks(reports: Sequence[WorkerReport], now: datetime) -> list[str]:
    """Name who was heard lately but not just now, and whose clock is ahead."""
    notes = []
    for report in reports:
        seconds = (now - report.at).total_seconds()
        who = report.where
        if SILENT.total_seconds() < seconds < _REMEMBERED.total_seconds():
            what = f"{who} has not reported for {seconds:.0f} s: it is gone"
            notes.append(f"{what}, or its clock or this machine's is wrong")
        if seconds < -SILENT.total_seconds():
            notes.append(f"the clock of {who} is {-seconds:.0f} s ahead of this one's")
    return notes


def _differing_files(reports: Sequence[WorkerReport]) -> list[str]:
    """Name what the files of the workers do not agree on."""
    said: dict[str, Counter[str]] = {}
    for report in reports:
        for place, value in report.file.items():
            said.setdefault(place, Counter())[value] += 1
    return [
        f"workers run different fleet files: {place} is "
        + ", ".join(f"{value} ({count})" for value, count in sorted(values.items()))
        for place, values in said.items()
        if len(values) > 1
    ]


async def _queues(
    client: Client, fleet: LoadedFleet, notes: list[str]
) -> dict[str, QueueStatistics]:
    """Ask about each pool's queues."""
    wanted: dict[str, Sequence[str]] = dict(fleet.queues)
    tools = f"{fleet.name}-{TOOLS}"
    if any(role.queue == tools for role in fleet.snapshot.roles.values()):
        wanted[TOOLS] = [tools]
    wanted |= {name: [f"{fleet.name}-{name}"] for name in WITHOUT_CALLS}

    async def ask(name: str, queues: Sequence[str]) -> QueueStatistics:
        flows = name in WITHOUT_CALLS
        asked = [queue_statistics(client, queue, workflows=flows) for queue in queues]
        return together(await asyncio.gather(*asked))

    try:
        found = await asyncio.gather(*(ask(*one) for one in wanted.items()))
    except RPCError as error:
        if error.status is not RPCStatusCode.UNIMPLEMENTED:
            raise
        notes.append(
            "this server has no statistics of task queues: no backlog is known"
        )
        return dict.fromkeys(wanted, QueueStatistics(known=False))
    return dict(zip(wanted, found, strict=True))


def _models(fleet: LoadedFleet, pool: str) -> tuple[str, ...]:
    tier = fleet.snapshot.tiers.get(pool)
    return tuple(model.model for model in tier.models) if tier else ()


async def _items(
    client: Client, fleet: LoadedFleet, notes: list[str]
) -> list[ItemCount] | None:
    """Count the running items; None if the server cannot tell."""
    counts: Counter[tuple[str, str]] = Counter()
    query = (
        f"{ATTRIBUTE_FLOW} IS NOT NULL AND ExecutionStatus = 'Running' "
        f"AND TaskQueue = '{fleet.name}-flows'"
    )
    try:
        async for run in client.list_workflows(query, limit=_ITEMS_COUNTED):
            found = run.search_attributes
            flow = _first(found.get(ATTRIBUTE_FLOW))
            counts[flow, _first(found.get(ATTRIBUTE_STATE))] += 1
    except RPCError as error:
        if error.status is RPCStatusCode.INVALID_ARGUMENT:
            return []  # no worker has registered the search attributes yet
        if error.status is not RPCStatusCode.UNIMPLEMENTED:
            raise
        notes.append("this server lists no workflows: no items are known")
        return None
    return [ItemCount(f, s, n) for (f, s), n in sorted(counts.items())]


def _first(values: Sequence[object] | None) -> str:
    return str(values[0]) if values else "?"
