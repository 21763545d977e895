"""What a child takes of its parent's answers."""

from decimal import Decimal

from tierpool.contracts import BudgetGrant
from tierpool.workflows.budget import RunBudget


class Run:
    """A run that never pauses and was never reset."""

    async def resumed(self) -> None:
        """See RunState."""

    async def caught_up(self) -> None:
        """See RunState."""


def test_late_answer_is_void_once_a_later_ask_has_given_the_money_back() -> None:
    """A grant that crosses an ask on its way must not be spent: others may have it."""
    budget = RunBudget(Run())
    account = budget.account
    account.cap, account.parent = Decimal(0), "parent"
    first = account.ask(Decimal(1), Decimal(1))
    second = account.ask(Decimal(2), Decimal(2))

    budget.granted(BudgetGrant(number=first.number, granted_usd=Decimal(9)))
    crossed = account.free
    budget.granted(BudgetGrant(number=second.number, granted_usd=Decimal(2)))

    assert (Decimal(0), Decimal(2)) == (crossed, account.free)
