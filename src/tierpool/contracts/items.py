"""Payloads of a work item: how it starts, what it answers, how it ends."""

from __future__ import annotations

import base64
import zlib
from decimal import Decimal
from typing import Annotated

from pydantic import Field, JsonValue

from tierpool.blueprint import Reply
from tierpool.contracts.calls import Outcome
from tierpool.contracts.conversations import Speaker
from tierpool.contracts.money import BudgetCarry
from tierpool.contracts.wire import Usage, Usd, Wire

__all__ = [
    "CARRY_HEADER",
    "FLEET_HEADER",
    "Attempt",
    "Denial",
    "EarlierAttempts",
    "FlowCarry",
    "FlowResult",
    "FlowStart",
    "HumanDecision",
    "ItemCosts",
    "ItemStatus",
    "RunCarry",
    "ToolRequest",
    "WorkItem",
]

FLEET_HEADER = "tierpool-fleet"
"""Header that hands the snapshot to the next run at continue-as-new."""
CARRY_HEADER = "tierpool-carry"
"""Header that hands on what else a run knows: a packed `RunCarry`."""


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
    priority: Annotated[int, Field(ge=1, le=5)] = 3
    """1 is served first, 5 last, wherever a backlog waits for a pool."""


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
    reserved_usd: Usd | None = None
    """Worst case that was reserved for it; None for tools."""
    cost_usd: Usd = Decimal(0)
    """What is charged: the price of its usage, or, where nobody knows the usage, its
    reservation; never zero for want of knowledge."""
    note: str = ""
    """Why it failed, if it did."""

    @property
    def at_reservation(self) -> bool:
        """Whether it is charged its reservation, because its usage is not known."""
        return (
            self.reserved_usd is not None
            and self.usage is None
            and self.outcome is not Outcome.UNBILLED
        )


class Denial(Wire):
    """A call that the budget did not pay for."""

    state: str = ""
    role: str
    tier: str = ""
    needs_usd: Usd
    """Worst case of the call, with the least useful output."""
    why: str = ""


class EarlierAttempts(Wire):
    """Attempts of earlier runs that are no longer told one by one."""

    attempts: int = 0
    unknown_cost_attempts: int = 0
    usage: Usage = Usage()
    cost_usd: Usd = Decimal(0)


class RunCarry(Wire):
    """What a run hands to the next run of the same workflow."""

    attempts: tuple[Attempt, ...] = ()
    """The last ones; `earlier` sums up those before."""
    earlier: EarlierAttempts = EarlierAttempts()
    denials: tuple[Denial, ...] = ()
    budget: BudgetCarry | None = None
    conversations: dict[str, tuple[tuple[Speaker, str], ...]] = {}
    """Messages by conversation."""
    paused: bool = False

    def pack(self) -> str:
        """Compress to text for a header, which no codec compresses."""
        raw = self.model_dump_json().encode()
        return base64.b85encode(zlib.compress(raw, 6)).decode()

    @staticmethod
    def unpack(packed: str) -> RunCarry:
        """Read what `pack` wrote."""
        raw = zlib.decompress(base64.b85decode(packed))
        return RunCarry.model_validate_json(raw)


class FlowCarry(Wire):
    """State of an item between two runs of its workflow."""

    state: str
    last_reply: Reply = {}
    taken: dict[str, int] = {}
    path: tuple[str, ...] = ()
    """States in the order of visits."""


class FlowStart(Wire):
    """Input of a flow: the item and everything that will be true for it."""

    flow: str
    """Name of the flow; also the workflow type."""
    item: WorkItem
    fleet: str
    """Packed FleetSnapshot, this flow included."""
    budget_usd: Usd | None = None
    """What the item may cost, instead of the fleet's cap."""
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
    """What the item is charged, children included."""
    unknown_cost_attempts: int = 0
    """Attempts that are charged their reservation: nobody reported their usage."""
    budget_usd: Usd | None = None
    """What it was allowed to cost; None: no limit."""
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
    budget_usd: Usd | None = None
    """What it may cost; None: no limit."""


class ItemCosts(Wire):
    """Answer of the `costs` query."""

    item_id: str
    cost_usd: Usd = Decimal(0)
    """What the item is charged so far, children that have ended included."""
    reserved_usd: Usd = Decimal(0)
    """Worst case of what is under way, children's grants included."""
    budget_usd: Usd | None = None
    """What it may cost; None: no limit."""
    parent: str = ""
    """Workflow ID of the parent whose budget it draws from."""
    unknown_cost_attempts: int = 0
    """Attempts that are charged their reservation: nobody reported their usage."""
    usage: Usage = Usage()
    made: int = 0
    """Attempts made, of which `attempts` has the last ones."""
    earlier: EarlierAttempts = EarlierAttempts()
    """Those that `attempts` does not have."""
    attempts: tuple[Attempt, ...] = ()
    denials: tuple[Denial, ...] = ()


class HumanDecision(Wire):
    """Argument of the `decide` update: a human role's reply."""

    reply: Reply
    role: str | None = None
    """Human role that decides; may be left out while only one waits."""
    by: str = ""
    """Who decided; kept in history."""
