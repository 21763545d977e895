"""Asks the workflows that keep a fleet's limits, without waiting for long."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Generic, Literal, TypeAlias, TypeVar

from pydantic import ValidationError
from temporalio.client import (
    Client,
    WorkflowExecutionStatus,
    WorkflowHandle,
    WorkflowQueryFailedError,
)
from temporalio.service import RPCError, RPCStatusCode

from tierpool.contracts.claims import CLAIMS_QUERY, ClaimsState, claims_id
from tierpool.contracts.ledger import LEDGER_QUERY, LedgerState, ledger_id
from tierpool.contracts.scaling import SCALING_QUERY, ScalingState, scaling_id

__all__ = ["QUICKLY", "Asked", "EntityLife", "ask_claims", "ask_ledger", "ask_scaling"]

T = TypeVar("T")

QUICKLY = timedelta(seconds=3)
_DESCRIBE = timedelta(seconds=5)

EntityLife: TypeAlias = Literal["none", "running", "ended"]


@dataclass(frozen=True, slots=True)
class Asked(Generic[T]):
    """What is known of such a workflow."""

    id: str
    life: EntityLife
    answer: T | None = None
    """Its state; an ended one still answers while a control worker runs."""
    silence: str = ""
    """Why there is no answer."""
    how: str = ""
    """How it ended: `terminated`, `canceled`, `failed` and so on."""
    at: datetime | None = None
    """When this run began; of an ended one, when it ended."""


async def ask_ledger(
    client: Client, fleet: str, patience: timedelta = QUICKLY, *, hours: bool = True
) -> Asked[LedgerState]:
    """Ask the ledger of a fleet for everything.

    Args:
        client: Of the fleet's server.
        fleet: Its name.
        patience: How long the answer may take.
        hours: Whether the totals of all hours are wanted: they may be long.

    Raises:
        RPCError: if the server does not answer.
    """
    id = ledger_id(fleet)
    return await _ask(client, id, LEDGER_QUERY, LedgerState, patience, hours)


async def ask_claims(
    client: Client, fleet: str, patience: timedelta = QUICKLY
) -> Asked[ClaimsState]:
    """Ask the claims of a fleet for everything.

    Raises:
        RPCError: if the server does not answer.
    """
    return await _ask(client, claims_id(fleet), CLAIMS_QUERY, ClaimsState, patience)


async def ask_scaling(
    client: Client, fleet: str, patience: timedelta = QUICKLY
) -> Asked[ScalingState]:
    """Ask who leads the scaling of a fleet, and what was decided.

    Raises:
        RPCError: if the server does not answer.
    """
    return await _ask(client, scaling_id(fleet), SCALING_QUERY, ScalingState, patience)


async def _ask(
    client: Client,
    id: str,
    query: str,
    kind: type[T],
    patience: timedelta,
    *args: object,
) -> Asked[T]:
    try:
        known = await client.get_workflow_handle(id).describe(rpc_timeout=_DESCRIBE)
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return Asked(id, "none", silence="there is none")
        raise
    running = known.status is WorkflowExecutionStatus.RUNNING
    at = known.start_time if running else known.close_time
    status = known.status.name.lower() if known.status else "ended"
    handle = client.get_workflow_handle(id, run_id=known.run_id)
    answer, silence = await _query(handle, query, kind, patience, args)
    return Asked(
        id,
        "running" if running else "ended",
        answer=answer,
        silence=silence,
        how="" if running else status,
        at=at.astimezone(UTC) if at else None,
    )


async def _query(
    handle: WorkflowHandle[object, object],
    query: str,
    kind: type[T],
    patience: timedelta,
    args: Sequence[object],
) -> tuple[T | None, str]:
    """Return the answer, or why there is none."""
    seconds = patience.total_seconds()
    try:
        async with asyncio.timeout(seconds + 0.5):
            answer: T = await handle.query(
                query, args=args, result_type=kind, rpc_timeout=patience
            )
    except WorkflowQueryFailedError as error:
        return None, f"it cannot tell: {error}"
    except ValidationError:
        return None, "it answers as this version of tierpool does not understand"
    except (TimeoutError, RPCError):
        return None, f"no control worker has answered for it within {seconds:.0f} s"
    return answer, ""
