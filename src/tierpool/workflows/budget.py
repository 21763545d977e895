"""Who gets money, who waits for it, and for what: the acting side of `Account`.

A reservation is taken in the same breath as the check that allows it: nothing
awaits between the two. Prices and the worst case of a call come from outside.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from typing import Protocol

from temporalio import workflow
from temporalio.exceptions import FailureError, is_cancelled_exception

from tierpool.blueprint import Guardrails
from tierpool.budget.account import Account
from tierpool.budget.estimate import Quote
from tierpool.contracts import (
    ASK_SIGNAL,
    GRANT_SIGNAL,
    PARENT_HEADER,
    REPORT_SIGNAL,
    BudgetAsk,
    BudgetCarry,
    BudgetGrant,
    BudgetReport,
    ParentBudget,
)
from tierpool.workflows.render import money

__all__ = ["Denied", "Held", "RunBudget"]

_ASK_AGAIN = timedelta(minutes=10)
"""A parent that has ended meanwhile answers nothing; asking again tells."""


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
class _Draw:
    """An ask to the parent that has not been answered."""

    ask: BudgetAsk
    denied: str = ""
    answered: bool = False


@dataclass
class RunBudget:
    """The budget of one run and those who wait for it."""

    run: _Surroundings
    account: Account = field(default_factory=Account)
    rules: Guardrails = field(default_factory=Guardrails)
    opened: bool = False
    _changes: int = 0
    _waiting: dict[int, Decimal] = field(default_factory=dict)
    """Worst cases of the calls that wait for the parent."""
    _tickets: int = 0
    _draw: _Draw | None = None
    _drawing: asyncio.Lock = field(default_factory=asyncio.Lock)
    _sending: set[asyncio.Task[None]] = field(default_factory=set)

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
        parent = _parent_budget()
        if parent is None:
            self.account.cap = cap
            return
        draws = parent.capped if parent.capped is not None else cap is not None
        info = workflow.info().parent
        if draws and info is not None:
            self.account.cap, self.account.parent = Decimal(0), info.workflow_id
        else:
            limits = [c for c in (cap, parent.limit_usd) if c is not None]
            self.account.cap = min(limits, default=None)

    def resume(self, carried: BudgetCarry) -> None:
        """Take up what an earlier run handed over."""
        self.account, self.opened = Account.resume(carried), True

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
                why = await self._from_parent(asks[0], quote.usd)
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
                quote.least_usd, quote.usd, patience=patience
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
        if not self.account.parent or not self.account.waits_for(ask.child):
            return
        if await self._from_parent(ask.needs_usd, ask.wants_usd):
            self._answer(patient=False)

    def child_reports(self, report: BudgetReport) -> None:
        """Settle a child at its end."""
        self.account.reported(report)
        self.changed()

    def child_ended(self, child: str) -> None:
        """Charge a child that did not report its grant."""
        self.account.ended(child)
        self.changed()

    def granted(self, grant: BudgetGrant) -> None:
        """Take the parent's answer to the last ask.

        An answer to an ask before it is void: with every ask the child has given
        back what it did not hold, also what was on its way.
        """
        draw = self._draw
        if grant.number != self.account.asks:
            return
        if not grant.denied:
            self.account.cap = grant.granted_usd
        if draw is not None and draw.ask.number == grant.number:
            draw.answered, draw.denied = True, grant.denied
        self.changed()

    async def report(self) -> None:
        """Tell the parent, at the end, what this run and its children cost."""
        if not self.account.parent:
            return
        info = workflow.info()
        report = BudgetReport(
            child=info.workflow_id,
            run=info.first_execution_run_id,
            cost_usd=self.account.held,
        )
        await _tell(self.account.parent, REPORT_SIGNAL, report)

    @property
    def _waits(self) -> bool:
        return self.rules.on_exhausted == "wait"

    def _worth_waiting(self, quote: Quote) -> bool:
        """Tell whether money that is held now may come back and suffice."""
        account = self.account
        if not self._waits or not account.may_come_back():
            return False
        return account.cap is None or account.cap - account.settled >= quote.least_usd

    async def _change(self) -> None:
        seen = self._changes
        await workflow.wait_condition(lambda: self._changes != seen)

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
        waits: bool = True,
        patience: timedelta | None = None,
    ) -> str:
        """Draw on the parent's budget; return why not, or nothing.

        One ask at a time. It names what all who wait could use, so that the
        others need not ask for themselves.
        """
        self._tickets += 1
        ticket = self._tickets
        self._waiting[ticket] = wants
        try:
            async with self._drawing:
                if self.account.fits(needs):
                    return ""
                together = sum(self._waiting.values(), Decimal(0))
                waits = waits and self._waits and not self.account.may_come_back()
                ask = self.account.ask(needs, together).model_copy(
                    update={"waits": waits, "patient": patience is not None}
                )
                return await self._drawn(ask, patience)
        finally:
            del self._waiting[ticket]

    async def _drawn(self, ask: BudgetAsk, patience: timedelta | None) -> str:
        info, needs = workflow.info(), ask.needs_usd
        ask = ask.model_copy(
            update={"child": info.workflow_id, "run": info.first_execution_run_id}
        )
        draw = self._draw = _Draw(ask)
        left = patience
        while True:
            if not await _tell(self.account.parent, ASK_SIGNAL, ask):
                return f"the parent {self.account.parent} has ended"
            wait = _ASK_AGAIN if left is None else min(left, _ASK_AGAIN)
            try:
                await workflow.wait_condition(
                    lambda: draw.answered or self.account.fits(needs),
                    timeout=wait,
                    timeout_summary=f"asks {self.account.parent} for {money(needs)}",
                )
            except TimeoutError:
                left = left - wait if left is not None else None
                if left is not None and left <= timedelta():
                    return "the budget was not raised in time"
                continue
            return draw.denied

    def _answer(self, *, patient: bool) -> None:
        """Send the children what can be answered by now."""
        if not workflow.in_workflow():
            return
        for child, grant in self.account.answer(patient=patient):
            task = asyncio.create_task(self._grant(child, grant))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def _grant(self, child: str, grant: BudgetGrant) -> None:
        if not await _tell(child, GRANT_SIGNAL, grant):
            self.child_ended(child)  # it took nothing: an ended child asks no more


def _parent_budget() -> ParentBudget | None:
    """Read what the parent's interceptor said about its budget."""
    payload = workflow.info().headers.get(PARENT_HEADER)
    if payload is None:
        return None
    found: ParentBudget = workflow.payload_converter().from_payload(
        payload, ParentBudget
    )
    return found


async def _tell(
    workflow_id: str, signal: str, what: BudgetAsk | BudgetGrant | BudgetReport
) -> bool:
    """Signal another workflow; tell whether it is there."""
    handle = workflow.get_external_workflow_handle(workflow_id)
    try:
        await handle.signal(signal, what)
    except FailureError as error:
        if is_cancelled_exception(error):
            raise
        return False
    return True
