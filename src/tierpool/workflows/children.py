"""What a workflow may spend, and what it lets its children spend."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from decimal import Decimal

from temporalio import workflow
from temporalio.api.common.v1 import Payload

from tierpool.blueprint import read_budget
from tierpool.contracts import FlowStart, ParentBudget
from tierpool.errors import UsageError
from tierpool.workflows.budget import parent_budget
from tierpool.workflows.handlers import run_state
from tierpool.workflows.run import RunState

__all__ = ["child_budget", "child_header", "limit_budget"]

_limit: ContextVar[Decimal | None] = ContextVar("tierpool_child_budget", default=None)


@contextmanager
def child_budget(usd: Decimal | float | str) -> Iterator[None]:
    """Let each child workflow that is started inside spend at most `usd`.

    It still draws from its parent's budget. Without this a child gets an equal
    share of what is left, and may ask for more.

    Raises:
        UsageError: for what is no amount above 0.
    """
    token = _limit.set(_amount(usd))
    try:
        yield
    finally:
        _limit.reset(token)


async def limit_budget(usd: Decimal | float | str) -> None:
    """Let the running workflow, children included, spend `usd` in all.

    Stands for the fleet's `max_cost_per_workflow_usd`. For work items there is
    `start_flow(budget_usd=…)`.

    Raises:
        UsageError: for what is no amount above 0, or in a child that draws from
            its parent.
    """
    amount, run = _amount(usd), run_state()
    await run.open()
    account = run.budget.account
    if account.parent:
        raise UsageError(
            f"this workflow draws from the budget of {account.parent!r}; limit it "
            "there, with child_budget"
        )
    run.budget.raise_to(amount)


def child_header(run: RunState, child: str, args: Sequence[object]) -> Payload:
    """Note a child that is about to start, and tell it of its parent's budget."""
    limit = _limit.get()
    start = args[0] if args else None
    if isinstance(start, FlowStart) and start.budget_usd is not None:
        limit = start.budget_usd
    budget = run.budget
    if child not in budget.account.children:  # else it may be there already
        budget.account.started(child, limit)
    if budget.opened:
        capped: bool | None = budget.account.cap is not None
    else:  # it draws as this workflow would
        own = parent_budget()
        capped = own.capped if own is not None else None
    return workflow.payload_converter().to_payload(
        ParentBudget(capped=capped, limit_usd=limit)
    )


def _amount(usd: Decimal | float | str) -> Decimal:
    try:
        return read_budget(usd)
    except ValueError as error:
        raise UsageError(f"budget {usd!r}: {error}") from None
