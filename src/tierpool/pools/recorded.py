"""Reads the calls that a fleet has made from the histories of its workflows.

Finds the workflows; what their histories say is read in `recorded_history`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from temporalio.client import Client, WorkflowExecution
from temporalio.service import RPCError, RPCStatusCode

from tierpool.contracts.costs import COSTS_MEMO, ClosingCosts
from tierpool.errors import ServerError, UnknownName
from tierpool.fleet import TOOLS, LoadedFleet
from tierpool.pools.entities import ask_ledger
from tierpool.pools.recorded_history import NOT_OURS, CallReader
from tierpool.scaling.recorded import RecordedCall

__all__ = ["MOST_HISTORIES", "Recorded", "recorded_calls"]

MOST_HISTORIES = 2000
"""Workflow runs that are read at most, the newest first; of those that have ended
and of those that run."""

_AT_A_TIME = 8


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a fleet has done in a time."""

    begin: datetime
    """Calls that were put on their queue from then on."""
    end: datetime
    calls: tuple[RecordedCall, ...]
    """Those that have ended, by the time they were put on their queue."""
    unfinished: int = 0
    """Calls that wait or are under way: they have no duration yet."""
    sent_back: int = 0
    """Attempts that no instance made: a limit was used up, or nobody took them."""
    workflows: int = 0
    """Runs whose histories were read."""
    notes: tuple[str, ...] = ()


async def recorded_calls(
    client: Client,
    fleet: LoadedFleet,
    since: timedelta,
    *,
    tiers: Collection[str] = (),
    types: Collection[str] = (),
) -> Recorded:
    """Read the calls of the last time from Temporal.

    Work items are found by their task queue. Users' own workflows are found by
    their type: those that the ledger knows, those that have ended and left their
    costs, and `types`.

    Args:
        client: With the fleet's plugin, whose codec reads the payloads.
        fleet: Its calls; what other fleets do on this server is left out.
        since: How far back.
        tiers: Only calls on these pools (tiers, or `tools`); none: on all.
        types: Workflow types of users' own that call agents.

    Raises:
        UnknownName: for a tier that the fleet does not have.
        ServerError: if the server does not answer, or lists no workflows.
    """
    known = (*fleet.snapshot.tiers, TOOLS)
    for name in tiers:
        if name not in known:
            raise UnknownName("tier", name, known)
    end = datetime.now(UTC)
    begin = end - since
    notes: list[str] = []
    try:
        runs = await _runs(client, fleet, begin, types, notes)
        reading = CallReader(client.data_converter, _pools(fleet), begin, tiers)
        await _read_all(client, reading, runs)
    except RPCError as error:
        if error.status is RPCStatusCode.UNIMPLEMENTED:
            raise ServerError(
                "this server lists no workflows: nothing can be recorded from it"
            ) from error
        raise ServerError(f"the Temporal server says: {error.message}") from error
    return _told(reading, end, len(runs), notes)


def _told(
    reading: CallReader, end: datetime, runs: int, notes: Sequence[str]
) -> Recorded:
    """Sum up what was read."""
    calls = sorted(reading.calls.values(), key=lambda call: call.seconds)
    unfinished = len(reading.unfinished - reading.calls.keys())
    return Recorded(
        begin=reading.begin,
        end=end,
        calls=tuple(calls),
        unfinished=unfinished,
        sent_back=len(reading.sent_back),
        workflows=runs - reading.gone,
        notes=(*notes, *_notes(reading, calls, unfinished)),
    )


def _notes(
    reading: CallReader, calls: Sequence[RecordedCall], unfinished: int
) -> list[str]:
    """Say what is not in the record, and why."""
    found = []
    if reading.gone:
        found.append(f"{reading.gone} histories were deleted before they could be read")
    if reading.aborted:
        found.append(
            f"{reading.aborted:,} calls were under way when their workflow ended, and "
            "are left out"
        )
    unknown = sum(not c.usage_known and not c.failed and c.tier != TOOLS for c in calls)
    if unknown:
        found.append(
            f"the tokens of {unknown:,} answered calls are not known: counted as 0"
        )
    if unfinished:
        found.append(
            f"{unfinished:,} calls wait or are under way: they have no "
            "duration yet and are left out, so the end of the record is too quiet"
        )
    return found


def _pools(fleet: LoadedFleet) -> dict[str, str]:
    """Return the pool of each task queue on which agent calls are made."""
    found = {queue: tier for tier, all_ in fleet.queues.items() for queue in all_}
    return found | {f"{fleet.name}-{TOOLS}": TOOLS}


async def _runs(
    client: Client,
    fleet: LoadedFleet,
    begin: datetime,
    types: Collection[str],
    notes: list[str],
) -> list[WorkflowExecution]:
    """List what ended since then or runs: items, and users' own workflows."""
    queue = f"{fleet.name}-flows"
    closed = f"CloseTime >= '{begin:%Y-%m-%dT%H:%M:%S.%fZ}'"
    others = f"TaskQueue != '{queue}' AND TaskQueue != '{fleet.name}-control'"
    ledger, ended = await asyncio.gather(
        ask_ledger(client, fleet.name), _list(client, f"{others} AND {closed}")
    )
    booked = ledger.answer.hours if ledger.answer else ()
    own = {total.flow for hour in booked for total in hour.totals}
    own |= {run.workflow_type for run in ended if await _is_ours(run, fleet.name)}
    if len(ended) >= MOST_HISTORIES:
        notes.append(
            f"more than {MOST_HISTORIES:,} other workflows have ended in that time: of "
            "your own workflows some types may be missing; name them"
        )
    where = f"TaskQueue = '{queue}'"
    named = sorted({*own, *types} - fleet.fleet.flows.keys())
    quoted = ", ".join("'" + name.replace("'", "''") + "'" for name in named)
    if quoted:
        where = f"({where} OR WorkflowType IN ({quoted}))"
    found = []
    for what, that in (("ended", closed), ("running", "ExecutionStatus = 'Running'")):
        listed = await _list(client, f"{where} AND {that}")
        if len(listed) >= MOST_HISTORIES:
            notes.append(
                f"of the {what} workflows only the newest {MOST_HISTORIES:,} were "
                "read: take a shorter time for a complete record"
            )
        found += listed
    return found


async def _list(client: Client, query: str) -> list[WorkflowExecution]:
    return [run async for run in client.list_workflows(query, limit=MOST_HISTORIES)]


async def _is_ours(run: WorkflowExecution, fleet: str) -> bool:
    """Tell whether a workflow left costs of this fleet in its memo."""
    try:
        left = await run.memo_value(COSTS_MEMO, None, type_hint=ClosingCosts)
    except NOT_OURS:
        return False  # or of a version that we do not understand
    return left is not None and left.fleet == fleet


async def _read_all(
    client: Client, reading: CallReader, runs: Sequence[WorkflowExecution]
) -> None:
    turn = asyncio.Semaphore(_AT_A_TIME)

    async def one(run: WorkflowExecution) -> None:
        async with turn:
            handle = client.get_workflow_handle(run.id, run_id=run.run_id)
            try:
                events = [event async for event in handle.fetch_history_events()]
            except RPCError as error:
                if error.status is not RPCStatusCode.NOT_FOUND:
                    raise
                reading.gone += 1  # its retention ran out just now
                return
        await reading.take(run.id, events)

    await asyncio.gather(*(one(run) for run in runs))
