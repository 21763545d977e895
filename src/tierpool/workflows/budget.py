"""Who gets money, who waits for it, and for what: the acting side of `Account`.

A reservation is taken in the same breath as the check that allows it: nothing
awaits between the two. Prices and the worst case of a call come from outside.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from typing import Any, Protocol

from temporalio import workflow

from tierpool.blueprint import Guardrails
from tierpool.budget.account import Account
from tierpool.budget.estimate import Quote
from tierpool.contracts import (
    GRANT_SIGNAL,
    PARENT_HEADER,
    REPORT_SIGNAL,
    BudgetAsk,
    BudgetCarry,
    BudgetGrant,
    BudgetReport,
    ParentBudget,
)
from tierpool.workflows.drawing import Drawing, tell
from tierpool.workflows.render import money

__all__ = ["Denied", "Held", "RunBudget", "parent_budget"]

_LOOK_AFTER = timedelta(minutes=1)
"""Nobody tells a run of the end of children that a run before it has started."""


class _Surroundings(Protocol):
    """What a budget needs of the run that it belongs to."""

    async def resumed(self) -> None: ...

    async def caught_up(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Held:
    """A reservation: what is held, and the output that it pays for."""

    usd: Decimal
    output_tokens: int
    input_bytes: int


@dataclass(frozen=True, slots=True)
class Denied:
    """No reservation, and why."""

    needs: Decimal
    """Worst case of the call with the least useful output."""
    why: str


@dataclass
class RunBudget:
    """The budget of one run and those who wait for it."""

    run: _Surroundings
    account: Account = field(default_factory=Account)
    rules: Guardrails = field(default_factory=Guardrails)
    opened: bool = False
    _changes: int = 0
    _inherited: list[str] = field(default_factory=list)
    """Children that a run before this one has started."""
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._drawing = Drawing(lambda: self.account)

    def open(self, rules: Guardrails, own: Decimal | None) -> None:
        """Find out what this run may spend.

        Args:
            rules: The fleet's, as the run knows it.
            own: What the item was started with, instead of the fleet's cap.
        """
        self.rules = rules
        if self.opened:
            return
        self.opened = True
        cap = rules.max_cost_per_workflow_usd if own is None else own
        parent = parent_budget()
        if parent is None:
            self.account.cap = cap
            return
        draws = parent.capped if parent.capped is not None else cap is not None
        info = workflow.info().parent
        if draws and info is not None:
            self.account.cap, self.account.parent = Decimal(0), info.workflow_id
            self.account.opened_by = workflow.info().original_execution_run_id
            self.account.limit = parent.limit_usd
        else:
            limits = [c for c in (cap, parent.limit_usd) if c is not None]
            self.account.cap = min(limits, default=None)

    def resume(self, carried: BudgetCarry) -> None:
        """Take up what an earlier run handed over."""
        self.account, self.opened = Account.resume(carried), True
        self._inherited = list(carried.children)

    async def reserve(self, quote: Quote) -> Held | Denied:
        """Take the worst case of a call, with less output if there is no more money.

        Waits while calls under way may give money back, if the guardrails say
        `wait`. The last thing before a reservation is the check, always.
        """
        asks, why = list(dict.fromkeys([quote.usd, quote.least_usd])), ""
        while True:
            await self.run.resumed()
            await self.run.caught_up()
            if self.account.take(quote.usd):
                return Held(quote.usd, quote.output_tokens, quote.input_bytes)
            if self.account.parent and asks:
                why = await self._from_parent(asks[0], quote.usd, waits=self._waits)
                less = None if why or asks[0] == quote.usd else self._less(quote)
                if less is not None:
                    return less
                if why and not self._worth_waiting(quote):
                    del asks[0]
                if not why or not self._worth_waiting(quote):
                    continue  # somebody may have been quicker
            if not self._worth_waiting(quote):
                return self._less(quote) or Denied(quote.least_usd, why or self._left())
            await self._change()

    async def raised(self, quote: Quote) -> bool:
        """Wait for `raise_budget`; tell whether the call has become payable."""
        patience = self.rules.wait_for_raise
        if patience is None:
            return False
        if self.account.parent:
            return not await self._from_parent(
                quote.least_usd, quote.usd, waits=True, patience=patience
            )
        try:
            await workflow.wait_condition(
                lambda: self.account.fits(quote.least_usd),
                timeout=patience,
                timeout_summary=f"waits for raise_budget: {money(quote.least_usd)} needed",
            )
        except TimeoutError:
            return False
        return True

    def settle(self, held: Held, cost: Decimal) -> None:
        """End a reservation."""
        self.account.settle(held.usd, cost)
        self.changed()

    def raise_to(self, usd: Decimal) -> None:
        """Set a higher cap."""
        self.account.cap = usd
        self.changed()

    def changed(self) -> None:
        """Let everybody who waits look again: first the children, who came by signal."""
        self._changes += 1
        self._answer(patient=bool(self.account.parent))

    async def reserve_governed(self, id: str, usd: Decimal) -> str:
        """Reserve for an activity's own call; return why not, or nothing."""
        await self.run.caught_up()
        if self.account.take_governed(id, usd):
            return ""
        if not self.account.parent:
            return self._left()
        why = await self._from_parent(usd, usd, waits=False)
        if self.account.take_governed(id, usd):
            return ""
        return why or self._left()

    def may_come_back(self) -> bool:
        """Tell whether asking again later may help an activity."""
        back = self.account.may_come_back() or bool(self.account.governed)
        return self._waits and back

    async def child_asks(self, ask: BudgetAsk) -> None:
        """Answer a child now, or when there is money for it."""
        await self.run.caught_up()
        self.account.asked(ask)
        self.changed()
        if self.account.parent:
            self._go_on(self._draw_for(ask))

    async def _draw_for(self, ask: BudgetAsk) -> None:
        """Ask the own parent for what a child needs, until the child is answered."""
        patience = self.rules.wait_for_raise if ask.patient else None
        while self.account.waits_for(ask.child, ask.number):
            denied = await self._from_parent(
                ask.needs_usd, ask.wants_usd, waits=ask.waits, patience=patience
            )
            self._answer(patient=not denied)
            if self.account.waits_for(ask.child, ask.number):
                await self._change()

    def child_follows(self, child: str, before: object) -> None:
        """Charge a child of the same ID that has ended before this one was started."""
        if before is not None and self.account.children.get(child) is before:
            self.account.started(child, None)
            self.changed()

    def child_reports(self, report: BudgetReport) -> None:
        """Settle a child at its end."""
        self.account.reported(report)
        self.changed()

    def child_ended(self, child: str) -> None:
        """Charge a child that did not report its grant."""
        self.account.ended(child)
        self.changed()

    def granted(self, grant: BudgetGrant) -> None:
        """Take the parent's answer."""
        self._drawing.granted(grant)
        self.changed()

    async def report(self) -> None:
        """Tell the parent, at the end, what this run and its children cost."""
        if not self.account.parent:
            return
        info = workflow.info()
        report = BudgetReport(
            child=info.workflow_id,
            run=self.account.opened_by,
            cost_usd=self.account.held,
        )
        await tell(self.account.parent, REPORT_SIGNAL, report)

    @property
    def _waits(self) -> bool:
        return self.rules.on_exhausted == "wait"

    def _worth_waiting(self, quote: Quote) -> bool:
        """Tell whether money that is held now may come back and suffice."""
        return (
            self._waits
            and self.account.may_come_back()
            and self._may_suffice(quote.least_usd)
        )

    def _may_suffice(self, usd: Decimal) -> bool:
        """Tell whether an amount would fit if all that is under way cost nothing."""
        cap = self.account.cap
        return cap is None or cap - self.account.settled >= usd

    async def _change(self) -> None:
        """Wait until something has happened to the account."""
        seen = self._changes
        await self._look_after_inherited()
        while self._changes == seen:
            try:
                await workflow.wait_condition(
                    lambda: self._changes != seen,
                    timeout=_LOOK_AFTER if self._inherited else None,
                    timeout_summary="looks after children of the run before",
                )
            except TimeoutError:
                await self._look_after_inherited()

    async def _look_after_inherited(self) -> None:
        """Charge children that have ended without a report while no run looked."""
        for child in list(self._inherited):
            known = child in self.account.children
            if not known or not await tell(child, GRANT_SIGNAL, BudgetGrant(number=0)):
                self._inherited.remove(child)
                self.child_ended(child)

    def _less(self, quote: Quote) -> Held | None:
        """Reserve for as much output as the money left pays for."""
        free = self.account.free
        output = quote.output_tokens if free is None else quote.output_for(free)
        usd = quote.usd_with(output)
        if not output or not self.account.take(usd):
            return None
        return Held(usd, output, quote.input_bytes)

    def _left(self) -> str:
        account = self.account
        under_way = (
            f", {money(account.reserved)} is reserved" if account.reserved else ""
        )
        return f"{money(account.free)} of {money(account.cap)} is left{under_way}"

    async def _from_parent(
        self,
        needs: Decimal,
        wants: Decimal,
        *,
        waits: bool,
        patience: timedelta | None = None,
    ) -> str:
        """Draw on the parent's budget; return why not, or nothing.

        Nobody waits for the parent while calls of its own may give enough back.
        """
        waits = waits and not (self.account.calls and self._may_suffice(needs))
        return await self._drawing.draw(needs, wants, waits=waits, patience=patience)

    def _answer(self, *, patient: bool) -> None:
        """Send the children what can be answered by now."""
        if not workflow.in_workflow():
            return
        for child, grant in self.account.answer(patient=patient):
            self._go_on(self._grant(child, grant))

    def _go_on(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something beside; its task is kept from being forgotten."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _grant(self, child: str, grant: BudgetGrant) -> None:
        if not await tell(child, GRANT_SIGNAL, grant):
            self.child_ended(child)  # it took nothing: an ended child asks no more


def parent_budget() -> ParentBudget | None:
    """Read what the parent's interceptor said about its budget."""
    payload = workflow.info().headers.get(PARENT_HEADER)
    if payload is None:
        return None
    found: ParentBudget = workflow.payload_converter().from_payload(
        payload, ParentBudget
    )
    return found
