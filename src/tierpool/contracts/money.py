"""Payloads about the budget of a workflow: of its children, of its activities.

A child draws from its parent by signals, an activity from its workflow by
updates. Every number about a drawer is a running total, so a message that
comes twice changes nothing.
"""

from __future__ import annotations

from decimal import Decimal

from tierpool.contracts.wire import Usage, Usd, Wire

__all__ = [
    "ASK_SIGNAL",
    "GRANT_SIGNAL",
    "PARENT_HEADER",
    "REPORT_SIGNAL",
    "RESERVE_UPDATE",
    "SETTLE_UPDATE",
    "BudgetAsk",
    "BudgetCarry",
    "BudgetGrant",
    "BudgetReport",
    "ChildCarry",
    "GovernedAnswer",
    "GovernedRequest",
    "GovernedSettlement",
    "ParentBudget",
    "Spent",
]

PARENT_HEADER = "tierpool-parent"
"""Header that tells a child workflow of its parent's budget: a `ParentBudget`."""


ASK_SIGNAL = "tierpool_ask"
GRANT_SIGNAL = "tierpool_grant"
REPORT_SIGNAL = "tierpool_report"
RESERVE_UPDATE = "tierpool_reserve"
SETTLE_UPDATE = "tierpool_settle"


class BudgetAsk(Wire):
    """Signal `tierpool_ask` of a child to its parent: what it needs, what it gives back."""

    child: str
    """Workflow ID of the child."""
    run: str = ""
    """Run that opened the child's account: another child, or a retry of this one,
    may take up the ID later."""
    number: int = 1
    """Grows from ask to ask, also over a reset; the grant repeats it."""
    held_usd: Usd = Decimal(0)
    """What the child has spent and reserved; the rest of its grant it gives back."""
    needs_usd: Usd = Decimal(0)
    """What it needs on top, at least: the worst case of its next call."""
    wants_usd: Usd = Decimal(0)
    """What it could use at once: the worst cases of all its calls that wait."""
    limit_usd: Usd | None = None
    """What it may spend at most, as its parent told it when it was started."""
    waits: bool = False
    """Whether it waits while siblings may give money back."""
    busy: bool = False
    """Whether some of what it holds may come back, so that it gives it back itself."""
    patient: bool = False
    """Whether it waits until the budget is raised; it gives up by itself."""


class BudgetGrant(Wire):
    """Signal `tierpool_grant` of a parent to its child."""

    number: int = 1
    """Of the ask that it answers."""
    granted_usd: Usd | None = None
    """All that the child may spend from now on, what it held included; None: without limit."""
    denied: str = ""
    """Why it does not get what it needs."""


class BudgetReport(Wire):
    """Signal `tierpool_report` of a child at its end: what it cost."""

    child: str
    run: str = ""
    cost_usd: Usd = Decimal(0)


class ChildCarry(Wire):
    """What a parent knows of a child between two of its runs."""

    granted_usd: Usd = Decimal(0)
    limit_usd: Usd | None = None
    """The `budget_usd` that the child was started with."""
    run: str = ""
    number: int = 0
    """Of its last ask."""
    asks: BudgetAsk | None = None
    """The ask that has not been answered yet."""
    given: bool = False
    """Whether the last ask was granted."""


class ParentBudget(Wire):
    """Header of a child workflow: how it stands to its parent's budget."""

    capped: bool | None = None
    """Whether the parent's budget has a limit; None while the parent does not know."""
    limit_usd: Usd | None = None
    """What the child may spend at most."""


class BudgetCarry(Wire):
    """The budget of a workflow between two of its runs."""

    cap_usd: Usd | None = None
    settled_usd: Usd = Decimal(0)
    children: dict[str, ChildCarry] = {}
    """Children that have not reported yet, by workflow ID."""
    parent: str = ""
    """Workflow ID of the parent that it draws from; empty for a budget of its own."""
    asked: int = 0
    """Number of the last ask to the parent."""
    opened_by: str = ""
    """Run that opened the account."""
    limit_usd: Usd | None = None
    """What the parent said that it may spend at most."""


class Spent(Wire):
    """Answer of the local activity `tierpool_spent`."""

    run: str
    """ID of the run that asked."""
    usd: Usd = Decimal(0)
    """What the run before its reset had spent and reserved."""
    pending_usd: Usd = Decimal(0)
    """Reserved for calls that were under way at the reset's point: they are made
    once more."""
    late_usd: Usd = Decimal(0)
    """Where that run cannot answer: what it reserved after the reset's point."""


class GovernedRequest(Wire):
    """Update `tierpool_reserve` of an activity to its workflow."""

    id: str
    """Of the reservation, unique within the workflow: activity ID, attempt, number."""
    activity: str
    """Type of the activity, for the record."""
    model: str
    input_bytes: int
    max_output_tokens: int
    usd: Usd
    """Worst case, from the worker's price of this model."""


class GovernedAnswer(Wire):
    """Answer of the update `tierpool_reserve`."""

    denied: str = ""
    """Why there is no reservation; empty: granted."""
    temporary: bool = False
    """Whether money may come back: calls under way hold it."""


class GovernedSettlement(Wire):
    """Update `tierpool_settle` of an activity to its workflow; a second one changes nothing."""

    id: str
    usage: Usage | None = None
    cost_usd: Usd | None = None
    """None: not known, charged at the reservation; 0: not billed."""
    note: str = ""
