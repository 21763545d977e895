"""A work item from outside: start it, wait for it, ask it, tell it.

Everything here needs a Temporal client with `TierpoolPlugin`, or is given the
fleet. The queries and updates are plain Temporal ones, so any SDK can use them.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
from collections.abc import Mapping, Sequence
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, NoReturn, Protocol, TypeAlias, runtime_checkable

from pydantic import ValidationError
from temporalio.client import (
    Client,
    Plugin,
    WorkflowExecutionStatus,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowQueryFailedError,
)
from temporalio.common import (
    Priority,
    SearchAttributeKey,
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDReusePolicy,
)
from temporalio.envconfig import ClientConfig
from temporalio.exceptions import (
    ApplicationError,
    CancelledError,
    TerminatedError,
    WorkflowAlreadyStartedError,
)
from temporalio.runtime import Runtime
from temporalio.service import RPCError

from tierpool.attributes import ensure_search_attributes
from tierpool.blueprint import read_budget
from tierpool.contracts import FlowResult, FlowStart, ItemCosts, WorkItem
from tierpool.errors import (
    ItemConflict,
    PayloadTooLarge,
    ServerError,
    TierpoolError,
    UsageError,
)
from tierpool.fleet import LoadedFleet
from tierpool.flow import CANCELLED, FAILED
from tierpool.leases import LeaseAgent
from tierpool.pools.gate import Gate
from tierpool.pools.instances import Pool
from tierpool.telemetry import ATTRIBUTE_FLOW, ATTRIBUTE_STATE
from tierpool.workflows.render import escape_markdown

__all__ = [
    "ItemHandle",
    "connect",
    "fleet_of",
    "flow_result",
    "gates_of",
    "lease_of",
    "pools_of",
    "start_flow",
]

ItemHandle: TypeAlias = WorkflowHandle[Any, FlowResult]

START_LIMIT_BYTES = 1_900_000
"""Temporal refuses inputs above 2 MiB."""

_QUERY_TIMEOUT = timedelta(seconds=15)

DEFAULT_ADDRESS = "127.0.0.1:7233"


@runtime_checkable
class _HasFleet(Protocol):
    tierpool_fleet: LoadedFleet
    tierpool_lease: LeaseAgent
    tierpool_gates: Mapping[str, Gate]


async def connect(
    plugins: Sequence[Plugin] = (),
    *,
    address: str | None = None,
    timeout_s: float = 10,
    runtime: Runtime | None = None,
) -> Client:
    """Connect as Temporal's own client configuration says.

    Args:
        plugins: Plugins of the client, `TierpoolPlugin` among them.
        address: Where to go when the configuration names no address.
        timeout_s: Seconds to wait for the server.
        runtime: The SDK's runtime; default: the one of the process.

    Raises:
        ServerError: if no server answers or the configuration cannot be used.
    """
    try:
        configured = dict(ClientConfig.load_client_connect_config())
    except (RuntimeError, ValueError, OSError) as error:
        raise ServerError(f"Temporal's client configuration: {error}") from error
    options: dict[str, Any] = {
        "target_host": address or DEFAULT_ADDRESS,
        "identity": f"tierpool-{socket.gethostname()}-{os.getpid()}",
        **configured,
    }
    try:
        return await asyncio.wait_for(
            Client.connect(**options, plugins=list(plugins), runtime=runtime),
            timeout_s,
        )
    except (RuntimeError, RPCError, TimeoutError, OSError, ValueError) as error:
        reason = _reason(error)
        raise ServerError(
            f"no Temporal server at {options['target_host']}: {reason}. "
            "Start one with `tierpool dev`, or name yours with TEMPORAL_ADDRESS"
        ) from error


def _reason(error: BaseException) -> str:
    """Find the words for people in an error of the transport."""
    text = str(error)
    named = re.findall(r'message: "([^"]+)"', text)
    if named:
        return str(named[-1]).lower()
    return text.splitlines()[0] if text else "no answer in time"


def fleet_of(client: Client) -> LoadedFleet:
    """Return the fleet of the client's TierpoolPlugin.

    Raises:
        TierpoolError: if the client has no such plugin.
    """
    return _plugin_of(client).tierpool_fleet


def pools_of(client: Client) -> Mapping[str, Pool[Any]]:
    """Return the pools of this process, by tier and `tools`.

    Raises:
        TierpoolError: if the client has no TierpoolPlugin.
    """
    return {name: gate.pool for name, gate in gates_of(client).items()}


def gates_of(client: Client) -> Mapping[str, Gate]:
    """Return what admits calls to the pools of this process, by tier and `tools`.

    Raises:
        TierpoolError: if the client has no TierpoolPlugin.
    """
    return _plugin_of(client).tierpool_gates


def lease_of(client: Client) -> LeaseAgent:
    """Return what holds this process's lease of the fleet's limits.

    Raises:
        TierpoolError: if the client has no TierpoolPlugin.
    """
    return _plugin_of(client).tierpool_lease


def _plugin_of(client: Client) -> _HasFleet:
    for plugin in client.config(active_config=True).get("plugins", []):
        if isinstance(plugin, _HasFleet):
            return plugin
    raise TierpoolError(
        "the client has no TierpoolPlugin: pass it to "
        "Client.connect(plugins=[TierpoolPlugin('agents.yaml')])"
    )


async def start_flow(
    client: Client,
    flow: str,
    item: WorkItem | Mapping[str, Any] | str,
    *,
    id: str | None = None,
    id_conflict: Literal["fail", "use"] = "fail",
    budget_usd: Decimal | float | str | None = None,
    fleet: LoadedFleet | None = None,
) -> ItemHandle:
    """Start a work item on a flow; await `flow_result(handle)` for its end.

    Args:
        client: A client with TierpoolPlugin.
        flow: Name of the flow in agents.yaml.
        item: The item, its fields, or just its text.
        id: Identity of the item; needed unless `item` has one.
        id_conflict: What to do if an item of this ID is known to the server,
            running or finished: `fail`, or `use` that one.
        budget_usd: What the item may cost in all, in USD; default: the fleet's
            `max_cost_per_workflow_usd`.
        fleet: The fleet, if the client has no plugin.

    Raises:
        UsageError: for a budget that is no amount above 0, or fields that are no item.
        UnknownName: for a flow that the fleet does not have.
        ItemConflict: if the ID is taken; says by what.
        PayloadTooLarge: if the item does not fit through Temporal.
    """
    loaded = fleet or fleet_of(client)
    packed = loaded.packed_for(flow)
    work_item = _work_item(item, id)
    budget = _budget(budget_usd)
    start = FlowStart(flow=flow, item=work_item, fleet=packed, budget_usd=budget)
    _check_size(start)
    try:
        return await _begin(client, loaded, start)
    except WorkflowAlreadyStartedError as error:
        taken: ItemHandle = client.get_workflow_handle(
            work_item.id, result_type=FlowResult
        )
        if id_conflict == "use":
            return taken
        raise ItemConflict(await _describe_conflict(taken)) from error


async def _begin(client: Client, fleet: LoadedFleet, start: FlowStart) -> ItemHandle:
    """Start the workflow; register the search attributes if the server lacks them."""
    initial = fleet.fleet.flows[start.flow].initial
    flow_key = SearchAttributeKey.for_keyword(ATTRIBUTE_FLOW)
    state_key = SearchAttributeKey.for_keyword(ATTRIBUTE_STATE)
    attributes = TypedSearchAttributes(
        [
            SearchAttributePair(flow_key, start.flow),
            SearchAttributePair(state_key, initial),
        ]
    )

    async def begin() -> ItemHandle:
        return await client.start_workflow(
            start.flow,
            start,
            id=start.item.id,
            task_queue=f"{fleet.name}-flows",
            result_type=FlowResult,
            id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
            search_attributes=attributes,
            priority=_priority(start.item),
            static_summary=escape_markdown((start.item.title or start.item.id)[:200]),
        )

    try:
        return await begin()
    except RPCError as error:
        if "search attribute" not in error.message.lower():
            raise
        await ensure_search_attributes(client)
        return await begin()


def _work_item(item: WorkItem | Mapping[str, Any] | str, id: str | None) -> WorkItem:
    fields = (
        {"text": item}
        if isinstance(item, str)
        else item.model_dump()
        if isinstance(item, WorkItem)
        else dict(item)
    )
    if id is not None:
        fields["id"] = id
    if not fields.get("id"):
        raise TierpoolError("a work item needs an ID: pass id=…")
    try:
        return WorkItem.model_validate(fields)
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, e['loc']))}: {e['msg']}"
            for e in error.errors(include_url=False, include_input=False)
        )
        raise UsageError(f"no work item: {wrong}") from None


def _priority(item: WorkItem) -> Priority:
    """Return Temporal's priority, which all that the item starts inherits."""
    usual = WorkItem.model_fields["priority"].default
    if item.priority == usual:
        return Priority.default
    return Priority(priority_key=item.priority)


def _budget(usd: Decimal | float | str | None) -> Decimal | None:
    try:
        return None if usd is None else read_budget(usd)
    except ValueError as error:
        raise UsageError(f"budget_usd {usd!r}: {error}") from None


def _check_size(start: FlowStart) -> None:
    size = len(start.model_dump_json().encode())
    if size > START_LIMIT_BYTES:
        raise PayloadTooLarge(
            f"item {start.item.id!r} takes {size:,} bytes; the limit is "
            f"{START_LIMIT_BYTES:,}. Put the bulk where the roles can fetch it and "
            "its address into the item"
        )


async def _describe_conflict(handle: ItemHandle) -> str:
    known = await handle.describe()
    state = known.typed_search_attributes.get(
        SearchAttributeKey.for_keyword(ATTRIBUTE_STATE)
    )
    running = known.status is WorkflowExecutionStatus.RUNNING
    when = known.start_time if running else (known.close_time or known.start_time)
    what = "is running" if running else "has ended"
    return (
        f"item {handle.id!r} {what} (flow {known.workflow_type}, "
        f"state {state or 'unknown'}, since {when:%Y-%m-%d %H:%M:%S} UTC); use another "
        "ID, or id_conflict='use' (--id-conflict use) to follow that one"
    )


async def flow_result(handle: ItemHandle) -> FlowResult:
    """Wait until the item is in a terminal state, `failed` and `cancelled` included.

    Raises:
        TierpoolError: if the workflow is not a flow or failed as a workflow.
    """
    try:
        return await handle.result()
    except WorkflowFailureError as error:
        cause = error.cause
        if isinstance(cause, ApplicationError) and cause.type == "ItemFailed":
            return FlowResult.model_validate(cause.details[0])
        if isinstance(cause, CancelledError):
            return await _broken_off(handle, CANCELLED, "cancelled")
        if isinstance(cause, TerminatedError):
            return await _broken_off(handle, FAILED, "terminated from outside")
        _raise_as_ours(handle, error)


async def _broken_off(handle: ItemHandle, state: str, reason: str) -> FlowResult:
    """Ask an item that could give no result what it is charged."""
    try:
        costs: ItemCosts = await handle.query(
            "costs", result_type=ItemCosts, rpc_timeout=_QUERY_TIMEOUT
        )
    except (RPCError, WorkflowQueryFailedError):
        reason += "; its cost is not known: no worker answered for it"
        costs = ItemCosts(item_id=handle.id, unknown_cost_attempts=1)
    return FlowResult(
        item_id=handle.id,
        state=state,
        reason=reason,
        attempts=costs.made,
        usage=costs.usage,
        cost_usd=costs.cost_usd + costs.reserved_usd,
        unknown_cost_attempts=costs.unknown_cost_attempts + bool(costs.reserved_usd),
        budget_usd=costs.budget_usd,
    )


def _raise_as_ours(handle: ItemHandle, error: WorkflowFailureError) -> NoReturn:
    raise TierpoolError(f"item {handle.id!r} failed: {error.cause}") from error


def state_folder(fleet_file: Path) -> Path:
    """Return where the embedded server of a fleet file keeps its state."""
    return fleet_file.parent / ".tierpool"
