"""Which running items hold a WIP limit, as they and the server say."""

from __future__ import annotations

import asyncio

from pydantic import ValidationError
from temporalio.client import (
    Client,
    WorkflowExecution,
    WorkflowExecutionStatus,
    WorkflowQueryFailedError,
)
from temporalio.service import RPCError, RPCStatusCode

from tierpool.contracts import ItemStatus
from tierpool.contracts.claims import HeldClaim, wip_of
from tierpool.fleet import LoadedFleet
from tierpool.flow import Flow
from tierpool.pools.entities import QUICKLY
from tierpool.telemetry import ATTRIBUTE_FLOW, ATTRIBUTE_STATE

__all__ = ["holds_of_items", "limit_of"]

_AT_A_TIME = 16
_LISTED = 5000


def limit_of(flow: Flow | None, state: str) -> str:
    """Return the WIP limit that an item in a state holds; empty: none; pure."""
    spec = flow.states.get(state) if flow else None
    if flow is None or spec is None or spec.holds is None:
        return ""
    return spec.holds if flow.leaving(state) else ""


async def holds_of_items(client: Client, fleet: LoadedFleet) -> list[HeldClaim]:
    """Return the holds of all running items.

    Each item is asked, because the server's list shows a state only from its first
    attempt on; who does not answer counts by that list.

    Raises:
        RPCError: if the server does not answer.
    """
    known = fleet.fleet.backpressure
    holding = [n for n, f in fleet.fleet.flows.items() if _holds_any(f, known)]
    if not holding:
        return []
    named = ", ".join(f"'{name}'" for name in holding)
    query = (
        f"{ATTRIBUTE_FLOW} IN ({named}) AND ExecutionStatus = 'Running' "
        f"AND TaskQueue = '{fleet.name}-flows'"
    )
    try:
        runs = [run async for run in client.list_workflows(query, limit=_LISTED)]
    except RPCError as error:
        if error.status in (
            RPCStatusCode.INVALID_ARGUMENT,
            RPCStatusCode.UNIMPLEMENTED,
        ):
            return []  # items say so themselves when they ask for their next claim
        raise
    turn = asyncio.Semaphore(_AT_A_TIME)

    async def one(run: WorkflowExecution) -> HeldClaim | None:
        async with turn:
            return await _hold(client, fleet, run)

    found = await asyncio.gather(*map(one, runs))
    return [hold for hold in found if hold is not None]


def _holds_any(flow: Flow, known: dict[str, int]) -> bool:
    return any(spec.holds in known for spec in flow.states.values() if spec.holds)


async def _hold(
    client: Client, fleet: LoadedFleet, run: WorkflowExecution
) -> HeldClaim | None:
    flow = fleet.fleet.flows.get(run.workflow_type)
    told = run.search_attributes.get(ATTRIBUTE_STATE)
    state = str(told[0]) if told else ""
    handle = client.get_workflow_handle(run.id, run_id=run.run_id)
    try:
        status = await handle.query(
            "status", result_type=ItemStatus, rpc_timeout=QUICKLY
        )
        state = status.state
    except (RPCError, WorkflowQueryFailedError, ValidationError):
        pass
    limit = limit_of(flow, state)
    if not limit:
        return None
    known = await client.get_workflow_handle(run.id).describe(rpc_timeout=QUICKLY)
    if known.status is not WorkflowExecutionStatus.RUNNING:
        return None
    return HeldClaim(
        id=f"{limit}/{run.id}",
        workflow=run.id,
        run=known.run_id,
        first=known.raw_description.workflow_execution_info.first_run_id,
        needs={wip_of(limit): 1},
        since=known.start_time.timestamp(),
    )
