"""Finds out what a fleet cost: from its ledger, its ended and its running items."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

from pydantic import ValidationError
from temporalio.client import (
    Client,
    WorkflowExecution,
    WorkflowExecutionStatus,
    WorkflowQueryFailedError,
)
from temporalio.service import RPCError, RPCStatusCode

from tierpool.budget.closing import closing_costs
from tierpool.contracts import ItemCosts
from tierpool.contracts.costs import COSTS_MEMO, ClosingCosts
from tierpool.contracts.ledger import LedgerState
from tierpool.errors import ServerError
from tierpool.fleet import LoadedFleet
from tierpool.pools.announce import living_workers
from tierpool.pools.costs import (
    By,
    CostsReport,
    ItemsSeen,
    begin_of,
    costs_report,
    refused_by,
)
from tierpool.pools.entities import Asked, ask_ledger

__all__ = ["costs_of_fleet"]

_LISTED = 2000
"""Ended workflows that are read, and running ones, at most."""
_ASKED = 200
_AT_A_TIME = 16
_ONE = timedelta(seconds=3)
_ALL_SECONDS = 12.0
_PLAIN = re.compile(r"[\w .:/-]+")


async def costs_of_fleet(
    client: Client, fleet: LoadedFleet, since: timedelta, by: By
) -> CostsReport:
    """Ask the ledger, the server, and the items that run.

    Raises:
        ServerError: if the server does not answer.
    """
    begin = begin_of(datetime.now(UTC), since)
    try:
        ledger, reports = await asyncio.gather(
            ask_ledger(client, fleet.name), living_workers(client, fleet.name)
        )
        items = await _items(client, fleet, begin, _types(fleet, ledger.answer))
    except RPCError as error:
        raise ServerError(f"the Temporal server says: {error.message}") from error
    return costs_report(
        fleet.name,
        by,
        begin,
        ledger.answer,
        items,
        tiers=list(fleet.snapshot.tiers),
        refused=refused_by(reports or ()),
        notes=_on_ledger(ledger, by),
    )


def _on_ledger(ledger: Asked[LedgerState], by: By) -> list[str]:
    notes = []
    if ledger.life == "ended":
        notes.append(
            f"the ledger was {ledger.how}, and nothing is booked since: run "
            "`tierpool ledger recover`"
        )
    if ledger.answer is None:
        why = "the fleet has no ledger"
        if ledger.life != "none":
            why = f"the ledger does not answer: {ledger.silence}"
        notes.append(
            f"{why}; start `tierpool worker --control`"
            + ("" if by == "item" else ". These numbers are what items tell of")
        )
    return notes


def _types(fleet: LoadedFleet, ledger: LedgerState | None) -> list[str]:
    """Return types of users' own workflows that have made calls."""
    booked = {t.flow for h in (ledger.hours if ledger else ()) for t in h.totals}
    own = booked - fleet.fleet.flows.keys()
    return sorted(name for name in own if _PLAIN.fullmatch(name))


async def _items(
    client: Client, fleet: LoadedFleet, begin: datetime, types: Sequence[str]
) -> ItemsSeen:
    """Read the memos of what ended in that time, and ask what runs."""
    where = f"TaskQueue = '{fleet.name}-flows'"
    if types:
        named = ", ".join(f"'{name}'" for name in types)
        where = f"({where} OR WorkflowType IN ({named}))"
    since = f"CloseTime >= '{begin:%Y-%m-%dT%H:%M:%SZ}'"
    try:
        closed = await _list(client, f"{where} AND {since}")
        running = await _list(client, f"{where} AND ExecutionStatus = 'Running'")
    except RPCError as error:
        if error.status is not RPCStatusCode.UNIMPLEMENTED:
            raise
        return ItemsSeen(notes=("this server lists no workflows: no items are known",))
    left: list[ClosingCosts] = []
    broken: list[WorkflowExecution] = []
    strangers = 0
    for run in closed:
        memo = await _left(run)
        if memo is not None and memo.fleet != fleet.name:
            strangers += 1  # another fleet has workflows of this type, too
        elif memo is not None:
            left.append(memo)
        elif run.status is not WorkflowExecutionStatus.COMPLETED:
            broken.append(run)
    told, unasked = await _ask(client, fleet, [*broken, *running])
    return ItemsSeen(
        costs=(*left, *told),
        closed=len(closed) - strangers,
        running=len(running),
        unasked=unasked,
        notes=tuple(
            f"of the {what} items only {_LISTED:,} were looked at"
            for what, found in (("ended", closed), ("running", running))
            if len(found) >= _LISTED
        ),
    )


async def _list(client: Client, query: str) -> list[WorkflowExecution]:
    """List executions; one that goes on in another run counts once."""
    return [
        run
        async for run in client.list_workflows(query, limit=_LISTED)
        if run.status is not WorkflowExecutionStatus.CONTINUED_AS_NEW
    ]


async def _left(run: WorkflowExecution) -> ClosingCosts | None:
    """Read what a workflow left in its memo; None if it left nothing."""
    try:
        return await run.memo_value(COSTS_MEMO, None, type_hint=ClosingCosts)
    except ValidationError:
        return None  # of a version that we do not understand


async def _ask(
    client: Client, fleet: LoadedFleet, runs: Iterable[WorkflowExecution]
) -> tuple[list[ClosingCosts], int]:
    """Ask for costs by query; give up where nobody answers."""
    asked = list(runs)
    turn, silent = asyncio.Semaphore(_AT_A_TIME), 0
    top = list(fleet.snapshot.tiers.values())[-1].models[0].price
    found: list[ClosingCosts] = []
    unanswered = len(asked)

    async def one(run: WorkflowExecution) -> None:
        nonlocal silent, unanswered
        async with turn:
            if silent >= _AT_A_TIME:
                return
            handle = client.get_workflow_handle(run.id, run_id=run.run_id)
            try:
                costs: ItemCosts = await handle.query(
                    "costs", result_type=ItemCosts, rpc_timeout=_ONE
                )
            except WorkflowQueryFailedError:
                unanswered -= 1  # it has made no agent call
                return
            except (RPCError, ValidationError):
                silent += 1
                return
            unanswered -= 1
            flow = run.workflow_type
            found.append(closing_costs(costs, fleet=fleet.name, flow=flow, top=top))

    tasks = [asyncio.create_task(one(run)) for run in asked[:_ASKED]]
    if tasks:
        _, late = await asyncio.wait(tasks, timeout=_ALL_SECONDS)
        for task in late:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return found, unanswered
