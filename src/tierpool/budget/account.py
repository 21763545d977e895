"""The budget of one workflow: what is settled, reserved and granted; pure.

Everything here happens at once, without awaiting: a check and the reservation
that follows from it cannot be separated. Who waits, and for what, is decided
in `tierpool.workflows.budget`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import ROUND_FLOOR, Context, Decimal

from tierpool.contracts import (
    BudgetAsk,
    BudgetCarry,
    BudgetGrant,
    BudgetReport,
    ChildCarry,
)

__all__ = ["Account"]

_EXACT = Context(prec=120)
_FLOOR = Context(prec=120, rounding=ROUND_FLOOR)
_NANO = Decimal("1e-9")
_ZERO = Decimal(0)


@dataclass
class _Child:
    """A child workflow that has not reported yet."""

    granted: Decimal = _ZERO
    limit: Decimal | None = None
    """The `budget_usd` that it was started with."""
    run: str = ""
    number: int = 0
    """Of its last ask."""
    asks: BudgetAsk | None = None
    """What it waits for; it has given back what it does not hold."""
    given: bool = False
    """Whether its last ask was granted: if it comes again, the answer was lost."""

    def can_give_back(self) -> bool:
        return self.granted > 0 and (self.asks is None or self.asks.busy)


@dataclass
class Account:
    """Σ settled + Σ reserved ≤ cap, at every moment.

    A child's grant counts as reserved until the child has reported; one that
    ends without a report is charged its grant.
    """

    cap: Decimal | None = None
    """USD; None for no limit."""
    parent: str = ""
    """Workflow ID of the parent that it draws from."""
    opened_by: str = ""
    """Run that opened it: the parent tells by it who asks."""
    limit: Decimal | None = None
    """What the parent said that this workflow may spend at most."""
    asks: int = 0
    """Number of the last ask made of the parent."""
    settled: Decimal = _ZERO
    calls: Decimal = _ZERO
    """Reserved for attempts under way that will be settled by themselves."""
    governed: dict[str, Decimal] = field(default_factory=dict)
    """Reserved by activities, by reservation; one that dies never settles."""
    children: dict[str, _Child] = field(default_factory=dict)

    @property
    def reserved(self) -> Decimal:
        """Worst case of all that is under way."""
        total = _sum(self.calls, *self.governed.values())
        return _sum(total, *(child.granted for child in self.children.values()))

    @property
    def held(self) -> Decimal:
        """Settled and reserved."""
        return _sum(self.settled, self.reserved)

    @property
    def free(self) -> Decimal | None:
        """What may still be reserved, never below 0; None for no limit."""
        if self.cap is None:
            return None
        return max(_ZERO, _EXACT.subtract(self.cap, self.held))

    def fits(self, usd: Decimal) -> bool:
        """Tell whether an amount may be reserved now."""
        return self.free is None or usd <= self.free

    def take(self, usd: Decimal) -> bool:
        """Reserve for an attempt if it fits."""
        if not self.fits(usd):
            return False
        self.calls = _sum(self.calls, usd)
        return True

    def settle(self, reserved: Decimal, cost: Decimal) -> None:
        """End a reservation of `take`; a cost above it is charged as it is."""
        self.calls = _EXACT.subtract(self.calls, reserved)
        self.settled = _sum(self.settled, cost)

    def may_come_back(self, *, beside: str = "") -> bool:
        """Tell whether something under way may give money back.

        Args:
            beside: A child whose own grant does not count.
        """
        if self.calls > 0:
            return True
        others = (c for name, c in self.children.items() if name != beside)
        return any(child.can_give_back() for child in others)

    def take_governed(self, id: str, usd: Decimal) -> bool:
        """Reserve for an activity's own call; the same reservation twice is one."""
        if id in self.governed:
            return True
        if not self.fits(usd):
            return False
        self.governed[id] = usd
        return True

    def settle_governed(self, id: str, cost: Decimal | None) -> Decimal | None:
        """End an activity's reservation; return what is charged for it.

        Args:
            id: The reservation; unknown or settled before: None is returned.
            cost: None if unknown: then the reservation is charged.
        """
        reserved = self.governed.pop(id, None)
        if reserved is None:
            return None
        charged = reserved if cost is None else cost
        self.settled = _sum(self.settled, charged)
        return charged

    def started(self, child: str, limit: Decimal | None) -> None:
        """Know of a child; one before it with the same ID has ended unreported."""
        self.ended(child)
        self.children[child] = _Child(limit=limit)

    def ask(self, needs: Decimal, wants: Decimal, at: int = 0) -> BudgetAsk:
        """Ask the parent for more; what is not held is given back with that.

        Args:
            needs: USD on top of what is held, at least.
            wants: USD that could be used at once.
            at: A time, in any unit: later asks get higher numbers, also those
                of a run that a reset has thrown back.
        """
        self.asks = max(self.asks + 1, at)
        self.cap = self.held
        return BudgetAsk(
            child="",
            run=self.opened_by,
            number=self.asks,
            held_usd=self.held,
            needs_usd=needs,
            wants_usd=wants,
            limit_usd=self.limit,
            busy=self.may_come_back(),
        )

    def asked(self, ask: BudgetAsk) -> None:
        """Take back what the child does not hold, and note what it needs."""
        child = self.children.setdefault(ask.child, _Child())
        if child.run and child.run != ask.run:
            self.started(ask.child, None)
            child = self.children[ask.child]
        if not child.number and ask.limit_usd is not None:
            child.limit = ask.limit_usd
        if ask.number < child.number or (
            ask.number == child.number and child.asks is not None
        ):
            return
        if ask.number > child.number:  # else the answer was lost
            child.run, child.number, child.granted = ask.run, ask.number, ask.held_usd
            child.given = False
        child.asks = ask
        # the last to ask is the last to be answered
        self.children[ask.child] = self.children.pop(ask.child)

    def waits_for(self, child: str, number: int) -> bool:
        """Tell whether a child waits for the answer to an ask."""
        known = self.children.get(child)
        return known is not None and known.asks is not None and known.number == number

    def reported(self, report: BudgetReport) -> None:
        """Settle a child that tells its cost at its end."""
        child = self.children.get(report.child)
        if child is None or child.run != report.run:
            return  # it has reported before, or was charged its grant
        del self.children[report.child]
        self.settled = _sum(self.settled, report.cost_usd)

    def ended(self, child: str) -> None:
        """Charge a child that has ended without a report its grant."""
        gone = self.children.pop(child, None)
        if gone is not None:
            self.settled = _sum(self.settled, gone.granted)

    def answer(self, *, patient: bool) -> list[tuple[str, BudgetGrant]]:
        """Grant or deny what children wait for, in the order of their asks.

        Args:
            patient: Whether more money may come from elsewhere: then nobody is
                denied for want of it.

        Returns:
            Answers to send, by child. What is neither granted nor denied waits.
        """
        answers = []
        for name, child in self.children.items():
            if child.asks is None:
                continue
            grant = self._answer(name, child, child.asks, patient)
            if grant is not None:
                child.asks, child.given = None, not grant.denied
                answers.append((name, grant))
        return answers

    def _answer(
        self, name: str, child: _Child, ask: BudgetAsk, patient: bool
    ) -> BudgetGrant | None:
        free, most = self.free, None
        if child.given:
            return BudgetGrant(number=ask.number, granted_usd=child.granted)
        if child.limit is not None:
            most = max(_ZERO, _EXACT.subtract(child.limit, child.granted))
            if ask.needs_usd > most:
                reason = f"{most} of its budget_usd {child.limit} is left"
                return BudgetGrant(number=ask.number, denied=reason)
        if free is None:
            child.granted = max(child.granted, child.limit or _ZERO)
            all_of_it = None if child.limit is None else child.granted
            return BudgetGrant(number=ask.number, granted_usd=all_of_it)
        if ask.needs_usd <= free:
            if most is None:
                most = max(ask.needs_usd, ask.wants_usd, self._share(free))
            child.granted = _sum(child.granted, min(free, most))
            return BudgetGrant(number=ask.number, granted_usd=child.granted)
        if patient or ask.patient:
            return None
        if ask.waits and self.may_come_back(beside=name):
            return None
        reason = f"{free} of the {self.cap} of its parent is left"
        return BudgetGrant(number=ask.number, denied=reason)

    def _share(self, free: Decimal) -> Decimal:
        """Return an equal share for each child without a grant, and the parent."""
        without = sum(1 for child in self.children.values() if not child.granted)
        share = _FLOOR.divide(free, Decimal(max(1, without) + 1))
        return share.quantize(_NANO, context=_FLOOR)

    def carry(self) -> BudgetCarry:
        """Hand the account over; what has not been settled is charged."""
        return BudgetCarry(
            cap_usd=self.cap,
            settled_usd=_sum(self.settled, self.calls, *self.governed.values()),
            parent=self.parent,
            asked=self.asks,
            opened_by=self.opened_by,
            limit_usd=self.limit,
            children={
                name: ChildCarry(
                    granted_usd=child.granted,
                    limit_usd=child.limit,
                    run=child.run,
                    number=child.number,
                    asks=child.asks,
                    given=child.given,
                )
                for name, child in self.children.items()
            },
        )

    @staticmethod
    def resume(carried: BudgetCarry) -> Account:
        """Take up what an earlier run handed over."""
        return Account(
            cap=carried.cap_usd,
            parent=carried.parent,
            settled=carried.settled_usd,
            asks=carried.asked,
            opened_by=carried.opened_by,
            limit=carried.limit_usd,
            children={
                name: _Child(
                    c.granted_usd, c.limit_usd, c.run, c.number, c.asks, c.given
                )
                for name, c in carried.children.items()
            },
        )


def _sum(*amounts: Decimal) -> Decimal:
    total = _ZERO
    for amount in amounts:
        total = _EXACT.add(total, amount)
    return total
