"""Which holders of claims have ended: the server knows, also of terminated ones."""

from __future__ import annotations

import asyncio

from temporalio import activity
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from tierpool.contracts.claims import HoldersGone, HoldersRequest

__all__ = ["holders"]

_AT_A_TIME = 8


@activity.defn(name="tierpool_holders")
async def holders(request: HoldersRequest) -> HoldersGone:
    """Return the runs and the executions that are over.

    One question for each workflow ID: of one ID only one run is open, so every
    other run of it is over.
    """
    client, turn = activity.client(), asyncio.Semaphore(_AT_A_TIME)

    async def open_run(workflow: str) -> tuple[str, str] | None:
        async with turn:
            return await _open_run(client, workflow)

    names = list(dict.fromkeys(holder.workflow for holder in request.holders))
    answers = await asyncio.gather(*map(open_run, names))
    known = dict(zip(names, answers, strict=True))
    runs, firsts = [], []
    for holder in request.holders:
        found = known[holder.workflow]
        if found is None:
            continue
        if found[0] != holder.run:
            runs.append(holder.run)
        if found[1] != holder.first:
            firsts.append(holder.first)
    return HoldersGone(runs=tuple(runs), firsts=tuple(dict.fromkeys(firsts)))


async def _open_run(client: Client, workflow: str) -> tuple[str, str] | None:
    """Return the open run of a workflow ID and the first run of its execution.

    Empty if there is none; None if that cannot be told now.
    """
    try:
        known = await client.get_workflow_handle(workflow).describe()
    except RPCError as error:
        return ("", "") if error.status is RPCStatusCode.NOT_FOUND else None
    if known.status is not WorkflowExecutionStatus.RUNNING:
        return "", ""
    first = known.raw_description.workflow_execution_info.first_run_id
    return known.run_id, first
