"""A child's side of its parent's budget: who asks, for what, and who waits.

One ask at a time is open; a later one makes it void. It asks for what the
least demanding of those who wait needs, and names what all could use.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal

from pydantic import BaseModel
from temporalio import workflow
from temporalio.exceptions import FailureError

from tierpool.budget.account import Account
from tierpool.contracts import ASK_SIGNAL, BudgetAsk, BudgetGrant
from tierpool.workflows.render import money

__all__ = ["Drawing", "tell"]

_ASK_AGAIN = timedelta(seconds=15)
"""Signals to a workflow that just continues as new can be lost. The time doubles."""
_ASK_AGAIN_AT_MOST = timedelta(minutes=10)


@dataclass(eq=False)
class _Waiter:
    """A call that the parent has to pay for."""

    needs: Decimal
    wants: Decimal
    rank: int
    """0: it wants an answer at once; 1: it waits while others may give money back;
    2: it waits for a higher budget."""
    until: datetime | None
    denied: str = ""

    @property
    def left(self) -> timedelta | None:
        return None if self.until is None else self.until - workflow.now()


@dataclass
class Drawing:
    """The asks of one run."""

    account_of: Callable[[], Account]
    _waiters: list[_Waiter] = field(default_factory=list)
    _asking: bool = False
    _answer: BudgetGrant | None = None

    async def draw(
        self,
        needs: Decimal,
        wants: Decimal,
        *,
        waits: bool,
        patience: timedelta | None = None,
    ) -> str:
        """Draw on the parent's budget; return why not, or nothing.

        Args:
            needs: USD that have to fit afterwards.
            wants: USD that could be used at once.
            waits: Whether to wait while others may give money back.
            patience: How long to wait for a higher budget; None: not at all.
        """
        rank = 2 if patience is not None else int(waits)
        until = workflow.now() + patience if patience is not None else None
        me = _Waiter(needs, wants, rank, until)
        self._waiters.append(me)
        try:
            while not self.account_of().fits(needs) and not me.denied:
                left = me.left
                if left is not None and left <= timedelta():
                    return "the budget was not raised in time"
                if self._asking:
                    await self._asked(me, left)
                else:
                    await self._ask(left)
            return "" if self.account_of().fits(needs) else me.denied
        finally:
            self._waiters.remove(me)

    def granted(self, grant: BudgetGrant) -> None:
        """Take the parent's answer to the last ask.

        An answer to an ask before it is void: with every ask the child has given
        back what it did not hold, also what was on its way.
        """
        account = self.account_of()
        if grant.number != account.asks:
            return
        if not grant.denied:
            account.cap = grant.granted_usd
        self._answer = grant

    async def _asked(self, me: _Waiter, left: timedelta | None) -> None:
        """Wait while somebody else asks."""
        fits = self.account_of().fits
        try:
            await workflow.wait_condition(
                lambda: not self._asking or bool(me.denied) or fits(me.needs),
                timeout=left,
            )
        except TimeoutError:
            return

    async def _ask(self, left: timedelta | None) -> None:
        """Ask once for those who are in the greatest hurry."""
        rank = min(waiter.rank for waiter in self._waiters)
        first = [waiter for waiter in self._waiters if waiter.rank == rank]
        account, info = self.account_of(), workflow.info()
        ask = account.ask(
            min(waiter.needs for waiter in first),
            sum((waiter.wants for waiter in self._waiters), Decimal(0)),
            at=int(workflow.now().timestamp() * 1_000_000),
        ).model_copy(
            update={"child": info.workflow_id, "waits": rank == 1, "patient": rank == 2}
        )
        self._asking, self._answer = True, None
        try:
            denied = await self._answered(ask, rank, left)
        finally:
            self._asking = False
        for waiter in first:
            waiter.denied = denied

    async def _answered(self, ask: BudgetAsk, rank: int, left: timedelta | None) -> str:
        """Return why the parent gives nothing, or nothing if there is a new state."""
        parent, again = self.account_of().parent, _ASK_AGAIN
        while await tell(parent, ASK_SIGNAL, ask):
            wait = again if left is None else min(again, left)
            try:
                await workflow.wait_condition(
                    lambda: self._answer is not None or self._is_void(ask, rank),
                    timeout=wait,
                    timeout_summary=f"asks {parent} for {money(ask.needs_usd)}",
                )
            except TimeoutError:
                if left is not None:
                    left -= wait
                    if left <= timedelta():
                        return ""
                again = min(2 * again, _ASK_AGAIN_AT_MOST)
                continue
            return self._answer.denied if self._answer is not None else ""
        return f"the parent {parent} has ended"

    def _is_void(self, ask: BudgetAsk, rank: int) -> bool:
        """Tell whether to ask anew.

        Somebody is in a greater hurry, there is money to give back, or nothing
        that is held can come back any more.
        """
        account = self.account_of()
        if account.free is None or account.free > 0:
            return True
        if ask.busy and not account.may_come_back():
            return True
        return any(waiter.rank < rank for waiter in self._waiters)


async def tell(workflow_id: str, signal: str, what: BaseModel) -> bool:
    """Signal another workflow; tell whether it is there.

    In a task of its own: the SDK would hide a cancel that comes meanwhile, and
    what is told later must come after this.
    """
    handle = workflow.get_external_workflow_handle(workflow_id)
    sending = asyncio.ensure_future(handle.signal(signal, what))
    try:
        await asyncio.shield(sending)
    except asyncio.CancelledError:
        await workflow.wait([sending])
        if not sending.cancelled():
            sending.exception()  # looked at; the cancel is what counts
        raise
    except FailureError:
        return False
    return True
