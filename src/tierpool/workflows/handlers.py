"""What a workflow answers for its agent calls: signals, updates and queries.

The interceptor adds the internal ones to every workflow of a worker with the
plugin; the public ones come with a workflow's first agent call.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

from pydantic import JsonValue
from temporalio import workflow
from temporalio.exceptions import ApplicationError

from tierpool.blueprint import read_budget
from tierpool.contracts import (
    ASK_SIGNAL,
    GRANT_SIGNAL,
    REPORT_SIGNAL,
    RESERVE_UPDATE,
    SETTLE_UPDATE,
    Attempt,
    BudgetAsk,
    GovernedAnswer,
    GovernedRequest,
    GovernedSettlement,
    Outcome,
)
from tierpool.contracts.claims import CLAIM_GRANT_SIGNAL
from tierpool.workflows.run import RunState, attach, run_of

__all__ = ["check_raise", "install", "raise_budget", "run_state"]


def install() -> RunState:
    """Give the running workflow its state and the internal handlers, once."""
    instance = workflow.instance()
    state = run_of(instance)
    if state is None:
        state = RunState(item_id=workflow.info().workflow_id)
        attach(instance, state)
    if workflow.get_signal_handler(ASK_SIGNAL) is not None:
        return state
    state.take_up()
    governed = _Governed(state)
    workflow.set_query_handler("tierpool_part", state.part)
    workflow.set_query_handler("tierpool_spent", state.spent)
    workflow.set_query_handler("tierpool_conversation", state.conversation)
    workflow.set_update_handler(RESERVE_UPDATE, governed.reserve)
    workflow.set_update_handler(SETTLE_UPDATE, governed.settle)
    workflow.set_signal_handler(ASK_SIGNAL, _child_asks)
    workflow.set_signal_handler(REPORT_SIGNAL, state.budget.child_reports)
    workflow.set_signal_handler(GRANT_SIGNAL, state.budget.granted)
    workflow.set_signal_handler(CLAIM_GRANT_SIGNAL, state.claims.granted)
    return state


def run_state() -> RunState:
    """Return the run's state, with the handlers for people."""
    state = install()
    _add_query("costs", state.costs)
    _add_query("conversation", state.conversation)
    _add_update("decide", state.decisions.take, state.decisions.check)
    budgets = _Raises(state)
    _add_update("raise_budget", budgets.to, budgets.check)
    return state


def check_raise(state: RunState, usd: JsonValue) -> Decimal:
    """Read the argument of `raise_budget`.

    Raises:
        ApplicationError: if it is no amount, or cannot raise this budget.
    """
    account = state.budget.account
    try:
        amount = read_budget(usd)
    except ValueError as error:
        raise _refused(f"{usd!r}: {error}") from None
    if account.parent:
        raise _refused(
            f"this workflow draws from the budget of {account.parent!r}: raise that one"
        )
    if account.cap is None:
        raise _refused("this workflow has no budget to raise")
    if amount <= account.cap:
        raise _refused(
            f"{amount} does not raise the budget, which is {account.cap}; "
            "give the new total in USD"
        )
    return amount


def raise_budget(state: RunState, usd: JsonValue) -> None:
    """Carry out `raise_budget`."""
    state.budget.raise_to(check_raise(state, usd))
    state.show()


def _refused(message: str) -> ApplicationError:
    return ApplicationError(message, type="BudgetNotRaised", non_retryable=True)


async def _child_asks(ask: BudgetAsk) -> None:
    """Take the signal of a child that draws from this workflow's budget."""
    state = run_state()
    await state.open()
    await state.budget.child_asks(ask)


class _Raises:
    """The update `raise_budget`."""

    def __init__(self, state: RunState) -> None:
        self._state = state

    def check(self, usd: JsonValue) -> None:
        check_raise(self._state, usd)

    def to(self, usd: JsonValue) -> None:
        raise_budget(self._state, usd)


class _Governed:
    """Calls that activities make by themselves, under `governed`."""

    def __init__(self, state: RunState) -> None:
        self._state = state
        self._asked: dict[str, GovernedRequest] = {}
        self._over: set[str] = set()
        """Settled already; a reservation may be answered after its activity's end."""

    async def reserve(self, request: GovernedRequest) -> GovernedAnswer:
        state = run_state()
        await state.open()
        denied = await state.budget.reserve_governed(request.id, request.usd)
        if request.id in self._over:
            state.budget.account.settle_governed(request.id, Decimal(0))
            state.budget.changed()
            denied = denied or "the activity has given it up"
        if denied:
            return GovernedAnswer(
                denied=f"{request.model} needs {request.usd} USD, {denied}",
                temporary=state.budget.may_come_back(),
            )
        self._asked[request.id] = request
        return GovernedAnswer()

    def settle(self, settlement: GovernedSettlement) -> None:
        state = self._state
        self._over.add(settlement.id)
        cost = settlement.cost_usd
        charged = state.budget.account.settle_governed(settlement.id, cost)
        request = self._asked.pop(settlement.id, None)
        if charged is None or request is None:
            return
        state.budget.changed()
        state.record(
            Attempt(
                state=state.state,
                role=request.activity,
                model=request.model,
                reason="governed",
                outcome=_outcome(settlement),
                usage=settlement.usage,
                reserved_usd=request.usd,
                cost_usd=charged,
                note=settlement.note,
            )
        )


def _outcome(settlement: GovernedSettlement) -> Outcome:
    if settlement.usage is not None:
        return Outcome.BILLED
    return Outcome.AMBIGUOUS if settlement.cost_usd is None else Outcome.UNBILLED


def _add_query(name: str, handler: Callable[..., object]) -> None:
    """Add a query unless the user's workflow has one of that name."""
    if workflow.get_query_handler(name) is None:
        workflow.set_query_handler(name, handler)


def _add_update(
    name: str, handler: Callable[..., object], check: Callable[..., None]
) -> None:
    """Add an update unless the user's workflow has one of that name."""
    if workflow.get_update_handler(name) is None:
        workflow.set_update_handler(name, handler, validator=check)
