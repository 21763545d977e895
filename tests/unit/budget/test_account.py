"""No order of events takes a budget over its cap, or refuses what it could pay."""

from __future__ import annotations

import decimal
from dataclasses import dataclass, field
from decimal import Decimal, localcontext

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from tierpool.budget.account import Account
from tierpool.contracts import BudgetAsk, BudgetCarry, BudgetGrant, BudgetReport

ZERO = Decimal(0)
NAMES = ("a", "b", "c")
# of at most 18 digits after the point: these books are kept in 28 digits
AMOUNTS = st.one_of(
    st.integers(0, 6).map(Decimal),
    st.decimals(0, 12, allow_nan=False, allow_infinity=False, places=3),
    st.decimals(0, 12, allow_nan=False, allow_infinity=False, places=18),
)
CAPS = st.decimals(0, 20, allow_nan=False, allow_infinity=False, places=2)


def usd(text: str) -> Decimal:
    return Decimal(text)


def an_ask(child: str, number: int = 1, held: str = "0", **more: object) -> BudgetAsk:
    values = {"child": child, "run": f"{child}-1", "number": number, "held_usd": held}
    needs = {"needs_usd": usd("1"), "wants_usd": usd("1")}
    return BudgetAsk.model_validate({**values, **needs, **more})


def through_json(account: Account) -> Account:
    """Continue as new: what is carried travels as JSON."""
    return Account.resume(
        BudgetCarry.model_validate_json(account.carry().model_dump_json())
    )


class Books(RuleBasedStateMachine):
    """One account under random events, beside books kept in the simplest way."""

    def __init__(self) -> None:
        super().__init__()
        self.account = Account()
        self.calls: list[Decimal] = []
        self.governed: dict[str, Decimal] = {}
        self.settled = ZERO
        self.above = ZERO
        """What had to be charged without a reservation."""
        self.granted: dict[str, Decimal] = {}
        self.limits: dict[str, Decimal | None] = {}
        self.runs: dict[str, int] = dict.fromkeys(NAMES, 1)
        self.numbers: dict[str, int] = dict.fromkeys(NAMES, 0)
        self.known_as: dict[str, str] = {}
        """Run of a child that has asked."""
        self.given: set[str] = set()
        """Children whose last ask was granted."""
        self.waiting: dict[str, BudgetAsk] = {}
        """In the order of the asks."""
        self.sent: list[BudgetAsk] = []

    @initialize(cap=CAPS)
    def opened(self, cap: Decimal) -> None:
        self.account.cap = cap

    @property
    def left(self) -> Decimal:
        """What is not held, below 0 once the cap is passed."""
        assert self.account.cap is not None
        return self.account.cap - self.settled - self.reserved

    @property
    def reserved(self) -> Decimal:
        parts = (*self.calls, *self.governed.values(), *self.granted.values())
        return sum(parts, ZERO)

    def _fits(self, amount: Decimal) -> bool:
        return amount <= max(ZERO, self.left)

    @rule(amount=AMOUNTS)
    def take(self, amount: Decimal) -> None:
        fits = self._fits(amount)

        assert fits == self.account.fits(amount)
        assert fits == self.account.take(amount)

        if fits:
            self.calls.append(amount)

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), cost=st.sampled_from(["nothing", "all"]) | AMOUNTS)
    def settle(self, data: st.DataObject, cost: str | Decimal) -> None:
        reserved = self.calls.pop(data.draw(st.integers(0, len(self.calls) - 1)))
        charged = {"nothing": ZERO, "all": reserved}.get(str(cost), cost)
        assert isinstance(charged, Decimal)

        self.account.settle(reserved, charged)

        self.settled += charged
        self.above += max(ZERO, charged - reserved)

    @rule(id=st.sampled_from("xyz"), amount=AMOUNTS)
    def take_governed(self, id: str, amount: Decimal) -> None:
        fits = id in self.governed or self._fits(amount)

        assert fits == self.account.take_governed(id, amount)

        if fits:
            self.governed.setdefault(id, amount)

    @rule(id=st.sampled_from("xyz"), cost=st.none() | AMOUNTS)
    def settle_governed(self, id: str, cost: Decimal | None) -> None:
        reserved = self.governed.pop(id, None)
        expected = None if reserved is None else reserved if cost is None else cost

        assert expected == self.account.settle_governed(id, cost)

        if reserved is not None and expected is not None:
            self.settled += expected
            self.above += max(ZERO, expected - reserved)

    @rule(name=st.sampled_from(NAMES), limit=st.none() | AMOUNTS)
    def started(self, name: str, limit: Decimal | None) -> None:
        self.account.started(name, limit)

        self._gone(name)
        self.runs[name] += 1
        self.numbers[name] = 0
        self.granted[name], self.limits[name] = ZERO, limit

    def _gone(self, name: str) -> None:
        """Charge a child all that it was granted."""
        self.settled += self.granted.pop(name, ZERO)
        self.known_as.pop(name, None)
        self.given.discard(name)
        self.waiting.pop(name, None)
        self.limits.pop(name, None)

    @rule(
        name=st.sampled_from(NAMES),
        held=st.sampled_from(["nothing", "all", "some", "more"]),
        needs=AMOUNTS,
        wants=AMOUNTS,
        waits=st.booleans(),
        patient=st.sampled_from([False, False, True]),
        busy=st.booleans(),
        another=st.sampled_from([False, False, False, True]),
    )
    def asked(
        self,
        name: str,
        held: str,
        needs: Decimal,
        wants: Decimal,
        waits: bool,
        patient: bool,
        busy: bool,
        another: bool,
    ) -> None:
        """A child asks; now and then it is another one under the same ID."""
        if another:
            self.runs[name] += 1
        run = f"{name}-{self.runs[name]}"
        if self.known_as.get(name, run) != run:
            self._gone(name)
        granted = self.granted.get(name, ZERO)
        self.numbers[name] += 1
        holds = {"nothing": ZERO, "some": granted // 2, "all": granted}
        ask = BudgetAsk(
            child=name,
            run=run,
            number=self.numbers[name],
            held_usd=holds.get(held, granted + 1),
            needs_usd=needs,
            wants_usd=wants,
            limit_usd=self.limits.get(name),
            waits=waits,
            busy=busy,
            patient=patient,
        )

        self.account.asked(ask)

        self.above += max(ZERO, ask.held_usd - granted)
        self.granted[name], self.known_as[name] = ask.held_usd, run
        self.given.discard(name)
        self.limits.setdefault(name, None)
        self.waiting.pop(name, None)
        self.waiting[name] = ask
        self.sent.append(ask)

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def asked_again(self, data: st.DataObject) -> None:
        """A message of a child that is known comes twice, or late: nothing changes.

        Only one that was answered is answered again: its answer may be lost.
        """
        ask = data.draw(st.sampled_from(self.sent))
        if self.known_as.get(ask.child) != ask.run:
            return
        if ask.number == self.numbers[ask.child] and ask.child not in self.waiting:
            self.account.asked(ask)
            self.waiting[ask.child] = ask
            return
        before = self.account.carry()

        self.account.asked(ask)

        assert before == self.account.carry()

    @rule(patient=st.booleans())
    def answer(self, patient: bool) -> None:
        asks = dict(self.waiting)
        left = self.left

        answers = self.account.answer(patient=patient)

        names = [name for name, _ in answers]
        assert len(set(names)) == len(names)
        assert names == [name for name in asks if name in names]
        given = dict(answers)
        for name, ask in asks.items():
            left -= self._judge(name, ask, given.get(name), left, patient)

    def _judge(
        self,
        name: str,
        ask: BudgetAsk,
        grant: BudgetGrant | None,
        left: Decimal,
        patient: bool,
    ) -> Decimal:
        """Check an answer, or that there is none; return what it grants."""
        granted = self.granted[name]
        if name in self.given:  # its answer was lost
            assert grant == BudgetGrant(number=ask.number, granted_usd=granted)
            del self.waiting[name]
            return ZERO
        limit = self.limits[name]
        room = None if limit is None else max(ZERO, limit - ask.held_usd)
        payable = ask.needs_usd <= max(ZERO, left)
        allowed = room is None or ask.needs_usd <= room
        assert self.account.waits_for(name, ask.number) == (grant is None)
        if grant is None:
            assert allowed
            assert not payable
            others = ask.waits and self._may_come_back(beside=name)
            assert patient or ask.patient or others
            return ZERO
        assert ask.number == grant.number
        del self.waiting[name]
        if grant.denied:
            assert not (payable and allowed)
            assert not (patient or ask.patient) or not allowed
            return ZERO
        assert payable
        assert allowed
        assert grant.granted_usd is not None
        more = grant.granted_usd - ask.held_usd
        assert ask.needs_usd <= more <= max(ZERO, left)
        assert room is None or more <= room
        self.granted[name] = grant.granted_usd
        self.given.add(name)
        return more

    def _may_come_back(self, *, beside: str) -> bool:
        return sum(self.calls) > 0 or any(
            granted > 0
            and name != beside
            and (name not in self.waiting or self.waiting[name].busy)
            for name, granted in self.granted.items()
        )

    @rule(name=st.sampled_from(NAMES), cost=AMOUNTS, known=st.booleans())
    def reported(self, name: str, cost: Decimal, known: bool) -> None:
        """A child reports; one that is not known by its run changes nothing."""
        run = self.known_as.get(name)
        sent = run if known and run is not None else "another run"

        self.account.reported(BudgetReport(child=name, run=sent, cost_usd=cost))

        if sent == run:
            self.above += max(ZERO, cost - self.granted.pop(name))
            self._gone(name)
            self.settled += cost

    @rule(name=st.sampled_from(NAMES))
    def ended(self, name: str) -> None:
        self.account.ended(name)

        self._gone(name)

    @rule(more=AMOUNTS)
    def raised(self, more: Decimal) -> None:
        assert self.account.cap is not None
        self.account.cap += more

    @rule()
    def continued_as_new(self) -> None:
        """What is under way can no longer be settled, so it is charged now."""
        held = self.account.held

        self.account = through_json(self.account)

        assert held == self.account.held
        self.settled += sum(self.calls, ZERO) + sum(self.governed.values(), ZERO)
        self.calls, self.governed = [], {}

    def _asks_anew(self, name: str, ask: BudgetAsk) -> None:
        self.numbers[name] += 1
        again = ask.model_copy(update={"number": self.numbers[name], "busy": False})
        self.account.asked(again)
        self.granted[name] = again.held_usd
        self.given.discard(name)
        del self.waiting[name]
        self.waiting[name] = again
        self.sent.append(again)

    @rule()
    def all_else_ends(self) -> None:
        """Once nothing can come back every ask is answered, but for the patient ones."""
        while True:
            for reserved in self.calls:
                self.account.settle(reserved, reserved)
                self.settled += reserved
            self.calls = []
            for name in set(self.granted) - set(self.waiting):
                self.ended(name)
            for name, ask in list(self.waiting.items()):
                if ask.busy:  # nothing of that is under way any more: it asks anew
                    self._asks_anew(name, ask)
            before = len(self.waiting)
            self.answer(patient=False)
            if len(self.waiting) == before:
                break

        assert all(ask.patient for ask in self.waiting.values())

    @invariant()
    def books_agree(self) -> None:
        assert self.settled == self.account.settled
        assert self.reserved == self.account.reserved
        assert self.account.settled + self.account.reserved == self.account.held

    @invariant()
    def cap_holds(self) -> None:
        """Above the cap there is at most what nobody could reserve before."""
        assert self.account.cap is not None
        assert self.account.held <= self.account.cap + self.above
        assert max(ZERO, self.left) == self.account.free


@dataclass
class Branch:
    """A child with an account of its own, and what it does with it."""

    name: str
    run: str
    account: Account
    waits: bool
    calls: list[Decimal] = field(default_factory=list)
    draw: BudgetAsk | None = None
    """The ask that has not been answered."""
    denied: Decimal | None = None
    """What it could not get last, since nothing has changed for it."""

    def call(self, needs: Decimal, wants: Decimal) -> BudgetAsk | None:
        """Take what a call needs, or ask for it; one ask at a time."""
        if self._took(needs) or self.draw is not None:
            return None
        self.draw = self.account.ask(needs, wants).model_copy(
            update={
                "child": self.name,
                "run": self.run,
                "waits": self.waits and not self.account.may_come_back(),
            }
        )
        return self.draw

    def granted(self, grant: BudgetGrant) -> None:
        """Obey the answer to the last ask; older ones are out of date."""
        if grant.number != self.account.asks:
            return
        draw, self.draw = self.draw, None
        if not grant.denied:
            self.account.cap = grant.granted_usd
            if draw is not None:
                assert self._took(draw.needs_usd)
        elif draw is not None:
            self.denied = draw.needs_usd

    def settle(self, reserved: Decimal, cost: Decimal) -> None:
        self.calls.remove(reserved)
        self.account.settle(reserved, cost)
        draw = self.draw
        if draw is not None and self._took(draw.needs_usd):
            self.draw = None  # it needs the parent no more, who may answer yet

    def _took(self, needs: Decimal) -> bool:
        took = self.account.take(needs)
        if took:
            self.calls.append(needs)
            self.denied = None
        return took


class Family(RuleBasedStateMachine):
    """A root and its children; each message takes as long as it likes."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Account()
        self.cap = ZERO
        self.branches: dict[str, Branch] = {}
        self.calls: list[Decimal] = []
        self.to_root: list[BudgetAsk] = []
        self.to_branch: list[tuple[str, BudgetGrant]] = []
        self.limits: dict[str, Decimal | None] = {}
        self.started = 0

    @initialize(cap=CAPS)
    def opened(self, cap: Decimal) -> None:
        self.root.cap = self.cap = cap

    def _changed(self) -> None:
        """Answer whom there is something to say to, as after every change."""
        for name, grant in self.root.answer(patient=False):
            self.to_branch.append((name, grant))

    @precondition(lambda self: len(self.branches) < 4)
    @rule(limit=st.none() | AMOUNTS, waits=st.booleans())
    def start(self, limit: Decimal | None, waits: bool) -> None:
        self.started += 1
        name = f"child-{self.started}"
        self.root.started(name, limit)
        self.limits[name] = limit
        account = Account(cap=ZERO, parent="root")
        self.branches[name] = Branch(name, f"{name}-run", account, waits)

    @rule(amount=AMOUNTS)
    def root_calls(self, amount: Decimal) -> None:
        if self.root.take(amount):
            self.calls.append(amount)

    @precondition(lambda self: self.calls)
    @rule(part=st.integers(0, 4))
    def root_settles(self, part: int) -> None:
        reserved = self.calls.pop()
        self.root.settle(reserved, reserved * part / 4)
        self._changed()

    @precondition(lambda self: self.branches)
    @rule(data=st.data(), needs=AMOUNTS, more=AMOUNTS)
    def child_calls(self, data: st.DataObject, needs: Decimal, more: Decimal) -> None:
        self._call(self._one(data), needs, more)

    def _call(self, branch: Branch, needs: Decimal, more: Decimal) -> None:
        ask = branch.call(needs, needs + more)
        if ask is not None:
            self.to_root.append(ask)

    def _one(self, data: st.DataObject) -> Branch:
        return self.branches[data.draw(st.sampled_from(sorted(self.branches)))]

    @precondition(lambda self: any(b.calls for b in self.branches.values()))
    @rule(data=st.data(), part=st.integers(0, 4))
    def child_settles(self, data: st.DataObject, part: int) -> None:
        busy = sorted(name for name, b in self.branches.items() if b.calls)
        branch = self.branches[data.draw(st.sampled_from(busy))]
        reserved = data.draw(st.sampled_from(branch.calls))
        branch.settle(reserved, reserved * part / 4)

    @precondition(lambda self: self.to_root)
    @rule(data=st.data(), twice=st.booleans())
    def ask_arrives(self, data: st.DataObject, twice: bool) -> None:
        """Asks overtake each other, and come twice."""
        at = data.draw(st.integers(0, len(self.to_root) - 1))
        ask = self.to_root[at] if twice else self.to_root.pop(at)
        self.root.asked(ask)
        self._changed()

    @precondition(lambda self: self.to_branch)
    @rule(data=st.data(), twice=st.booleans())
    def answer_arrives(self, data: st.DataObject, twice: bool) -> None:
        at = data.draw(st.integers(0, len(self.to_branch) - 1))
        name, grant = self.to_branch[at] if twice else self.to_branch.pop(at)
        self._deliver(name, grant)

    @precondition(lambda self: self.branches)
    @rule(data=st.data(), reports=st.booleans())
    def child_ends(self, data: st.DataObject, reports: bool) -> None:
        """Its messages arrive before its end is known; if killed it reports nothing."""
        self._end(self._one(data), reports=reports)

    def _end(self, branch: Branch, *, reports: bool) -> None:
        for ask in [ask for ask in self.to_root if ask.child == branch.name]:
            self.to_root.remove(ask)
            self.root.asked(ask)
        self._changed()
        del self.branches[branch.name]
        if reports:
            cost = branch.account.held
            report = BudgetReport(child=branch.name, run=branch.run, cost_usd=cost)
            self.root.reported(report)
        self.root.ended(branch.name)
        self._changed()

    @rule()
    def root_continues_as_new(self) -> None:
        self.root, self.calls = through_json(self.root), []
        self._changed()

    @precondition(lambda self: self.branches)
    @rule(data=st.data())
    def child_continues_as_new(self, data: st.DataObject) -> None:
        """The calls that waited are gone; the answer to its ask may still come."""
        branch = self._one(data)
        branch.account, branch.calls = through_json(branch.account), []
        branch.draw = None

    @rule()
    def all_want_more_until_they_end(self) -> None:
        """Once nobody gets more, less is left than any of them needs; nobody is stuck."""
        for reserved in self.calls:
            self.root.settle(reserved, reserved)
        self.calls = []
        self._changed()
        while self.branches:
            self._exhaust()
            denied = [b for b in self.branches.values() if b.draw is None]
            needs = [need for b in self.branches.values() if (need := self._need(b))]
            assert all(self.cap - self._spent() < need for need in needs)
            assert denied, "all of them wait, and for nobody"
            for branch in denied:
                self._end(branch, reports=True)

    def _need(self, branch: Branch) -> Decimal | None:
        """Return what it lacks; None if it is its own limit that stands against it."""
        limit = self.limits[branch.name]
        need = branch.draw.needs_usd if branch.draw else branch.denied
        assert need is not None
        within = limit is None or branch.account.held + need <= limit
        return need if within else None

    def _exhaust(self) -> None:
        """Let the children call until two rounds have changed nothing.

        In the first of them a child may be denied while another one has not yet
        given back what it did not need. Grants count as a change too: a denied
        ask that comes twice may be granted then, and the child gives that back
        only with its next ask, after others have been denied.
        """
        quiet = 0
        for _ in range(60):
            before = self._spent(), self.root.held
            for branch in self.branches.values():
                for reserved in list(branch.calls):
                    branch.settle(reserved, reserved)
                self._call(branch, Decimal("2.5"), ZERO)
            while self.to_root or self.to_branch:
                if self.to_root:
                    self.root.asked(self.to_root.pop(0))
                    self._changed()
                else:
                    self._deliver(*self.to_branch.pop(0))
            busy = any(branch.calls for branch in self.branches.values())
            changed = before != (self._spent(), self.root.held)
            quiet = 0 if busy or changed else quiet + 1
            if quiet == 2:
                return
        pytest.fail("no end of spending")

    def _deliver(self, name: str, grant: BudgetGrant) -> None:
        if name in self.branches:
            self.branches[name].granted(grant)

    def _spent(self) -> Decimal:
        """All that is really settled or reserved, wherever."""
        own = self.root.settled + self.root.calls
        return own + sum((b.account.held for b in self.branches.values()), ZERO)

    @invariant()
    def family_stays_within_the_cap(self) -> None:
        assert self._spent() <= self.cap
        assert self.root.held <= self.cap

    @invariant()
    def children_stay_within_what_they_were_granted(self) -> None:
        for name, branch in self.branches.items():
            limit = self.limits[name]
            assert limit is None or branch.account.held <= limit
            assert branch.account.held <= (branch.account.cap or ZERO)


def test_sums_are_exact() -> None:
    """Neither the digits of the amounts nor the caller's context round anything."""
    account, hair = Account(cap=usd("1000000")), usd("1e-60")

    with localcontext() as context:
        context.prec, context.traps[decimal.Inexact] = 2, True
        assert account.take(usd("999999.123456789"))
        assert account.take(usd("0.876543211"))
        assert Decimal(0) == account.free
        assert not account.take(hair)
        account.settle(usd("0.876543211"), hair)
        account = through_json(account)

    assert usd("999999.123456789" + "0" * 50 + "1") == account.held
    assert account.cap is not None
    assert not account.take(usd("0.876543211"))
    assert account.take(usd("0.876543210" + "9" * 51))
    assert usd("1000000") == account.held


def test_share_is_the_same_in_every_context() -> None:
    """A third of ten is cut to nine digits, whatever the caller's context is."""
    account = Account(cap=usd("10"))
    account.started("a", None)
    account.asked(an_ask("b"))

    with localcontext() as context:
        context.prec, context.traps[decimal.Inexact] = 2, True
        answers = account.answer(patient=False)

    assert [("b", BudgetGrant(granted_usd=usd("3.333333333")))] == answers


def test_limit_that_is_used_up_is_the_end() -> None:
    """An ask for nothing gets nothing on top of the child's own limit."""
    account = Account(cap=usd("10"))
    account.started("a", usd("5"))
    account.asked(an_ask("a", held="5", needs_usd="0", wants_usd="3"))

    account.answer(patient=False)

    assert usd("5") == account.held


def test_first_to_ask_is_the_first_to_be_answered() -> None:
    """A child that was started earlier has no right of way."""
    account = Account(cap=usd("1"))
    account.started("a", None)
    account.started("b", None)
    assert account.take(usd("1"))
    for ask in (an_ask("a"), an_ask("b"), an_ask("a", number=2)):
        account.asked(ask)
    account.settle(usd("1"), usd("0"))

    answers = dict(through_json(account).answer(patient=False))

    assert usd("1") == answers["b"].granted_usd
    assert answers["a"].denied


def test_without_a_cap_what_a_child_holds_is_not_forgotten() -> None:
    """It gets all that it may have, and what it has spent stays on the account."""
    account = Account()
    account.started("limited", usd("5"))
    account.asked(an_ask("limited", held="3"))
    account.asked(an_ask("free", held="2"))

    answers = dict(account.answer(patient=False))

    assert usd("5") == answers["limited"].granted_usd
    assert answers["free"].granted_usd is None
    assert not answers["free"].denied
    assert usd("7") == account.held


def test_stale_answer_would_break_the_cap() -> None:
    """An ask gives back what the answer to an earlier ask has granted meanwhile."""
    root, child = Account(cap=usd("10")), Account(cap=ZERO, parent="root")
    root.asked(an_ask("a", needs_usd="6", wants_usd="6"))
    [(_, old)] = root.answer(patient=False)

    ask = child.ask(usd("8"), usd("8"))  # sent before the first answer came
    root.asked(an_ask("a", number=2, held=str(ask.held_usd), needs_usd="8"))

    assert 1 == old.number
    assert usd("10") == root.free  # so the child must not spend `old`


def test_cost_above_the_cap_leaves_nothing_and_is_not_hidden() -> None:
    """What is owed is owed; only what costs nothing fits after that."""
    account = Account(cap=usd("1"))
    assert account.take(usd("1"))

    account.settle(usd("1"), usd("3"))

    assert (usd("3"), ZERO) == (account.held, account.free)
    assert not account.fits(usd("0.000000001"))
    assert account.fits(ZERO)


TestBooks = pytest.mark.timeout(300)(Books.TestCase)
TestBooks.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestFamily = pytest.mark.timeout(300)(Family.TestCase)
TestFamily.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
