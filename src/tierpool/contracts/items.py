"""Payloads of a work item: how it starts, what it answers, how it ends."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

from pydantic import Field, JsonValue

from tierpool.blueprint import Reply
from tierpool.contracts.calls import Outcome
from tierpool.contracts.wire import Usage, Usd, Wire

__all__ = [
    "FLEET_ATTRIBUTE",
    "FLEET_HEADER",
    "Attempt",
    "FlowCarry",
    "FlowResult",
    "FlowStart",
    "HumanDecision",
    "ItemCosts",
    "ItemStatus",
    "ToolRequest",
    "WorkItem",
]

FLEET_ATTRIBUTE = "_tierpool_fleet"
"""Where a user's workflow instance keeps its packed FleetSnapshot."""
FLEET_HEADER = "tierpool-fleet"
"""Header that hands the snapshot to the next run at continue-as-new."""


class WorkItem(Wire):
    """What a flow moves; its ID is its identity everywhere."""

    id: Annotated[str, Field(min_length=1, max_length=200)]
    """Workflow ID of the item, unique in the Temporal namespace."""
    title: Annotated[str, Field(max_length=200)] = ""
    """One line; the summary in the Web UI."""
    text: str = ""
    """What the roles read."""
    data: dict[str, JsonValue] = {}
    """Anything else, as a JSON object."""


class ToolRequest(Wire):
    """What a command or python role gets: on stdin as JSON, or as its argument."""

    item: WorkItem | None = None
    """The work item that is moved; None in a call outside a flow."""
    last_reply: dict[str, JsonValue] = {}
    """Reply of the role before it in the flow; empty if there is none."""
    input: JsonValue = None
    """What `call_agent` was given besides, if anything."""
    role: str = ""
    """Name of the role that runs."""


class Attempt(Wire):
    """One attempt as the item records it."""

    state: str = ""
    role: str
    tier: str = ""
    model: str = ""
    reason: str = ""
    """The Route's reason."""
    outcome: Outcome = Outcome.BILLED
    usage: Usage | None = None
    cost_usd: Usd | None = None
    """None while unknown; never zero for want of knowledge."""
    note: str = ""
    """Why it failed, if it did."""


class FlowCarry(Wire):
    """State of an item between two runs of its workflow."""

    state: str
    last_reply: Reply = {}
    taken: dict[str, int] = {}
    attempts: tuple[Attempt, ...] = ()
    path: tuple[str, ...] = ()
    """States in the order of visits."""
    paused: bool = False


class FlowStart(Wire):
    """Input of a flow: the item and everything that will be true for it."""

    flow: str
    """Name of the flow; also the workflow type."""
    item: WorkItem
    fleet: str
    """Packed FleetSnapshot, this flow included."""
    carried: FlowCarry | None = None
    """What an earlier run of the same item hands over (continue-as-new)."""


class FlowResult(Wire):
    """How a work item ended."""

    item_id: str
    state: str
    """The terminal state."""
    reason: str = ""
    """Why, for `failed` and `cancelled`."""
    reply: Reply = {}
    """The last reply."""
    attempts: int = 0
    """Attempts made."""
    usage: Usage = Usage()
    cost_usd: Usd = Decimal(0)
    """Sum of the known costs."""
    unknown_cost_attempts: int = 0
    """Attempts whose cost is not known (nobody reported usage)."""
    path: tuple[str, ...] = ()
    """States in the order of visits."""


class ItemStatus(Wire):
    """Answer of the `status` query."""

    item_id: str
    flow: str
    state: str
    reason: str = ""
    """Why the item ended there, or what it waits for."""
    role: str = ""
    """Role at work."""
    tier: str = ""
    paused: bool = False
    terminal: bool = False
    waiting_for: str = ""
    """Name of the human role whose decision is awaited."""
    attempts: int = 0
    cost_usd: Usd = Decimal(0)


class ItemCosts(Wire):
    """Answer of the `costs` query."""

    item_id: str
    cost_usd: Usd = Decimal(0)
    unknown_cost_attempts: int = 0
    usage: Usage = Usage()
    attempts: tuple[Attempt, ...] = ()


class HumanDecision(Wire):
    """Argument of the `decide` update: a human role's reply."""

    reply: Reply
    role: str | None = None
    """Human role that decides; may be left out while only one waits."""
    by: str = ""
    """Who decided; kept in history."""
