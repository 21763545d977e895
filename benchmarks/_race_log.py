"""What a run's budget did, written down as it happens, and judged afterwards.

The recorder stands in the workflow and notes, in exact order, every attempt
that is scheduled, every one that ends, every denial and every answer to a child.
The judge adds all of it up anew and shares no arithmetic with the package.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal, TypeAlias, TypeVar

from pydantic import BaseModel
from temporalio import workflow
from temporalio.worker import (
    Interceptor,
    StartActivityInput,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
    WorkflowOutboundInterceptor,
)

from tierpool.contracts import (
    AgentRequest,
    Attempt,
    BudgetAsk,
    BudgetGrant,
    BudgetReport,
    Denial,
)
from tierpool.workflows.run import RunState

__all__ = ["Books", "Entry", "Log", "RaceInterceptor", "Recorder", "audit"]

T = TypeVar("T")
What: TypeAlias = Literal[
    "reserved", "settled", "denied", "asked", "granted", "refused", "reported", "ended"
]
_ZERO = Decimal(0)


class Entry(BaseModel):
    """One thing that happened to a budget."""

    what: What
    usd: Decimal = _ZERO
    """reserved, settled: the reservation; denied: what the call needs at least;
    asked: what the child holds; granted: all that it may spend; reported: its cost."""
    more_usd: Decimal = _ZERO
    """settled: what is charged; asked: what the child needs on top."""
    cap_usd: Decimal | None = None
    """denied: the cap that the run knows."""
    who: str = ""
    """denied: why; asked and what answers it: the child."""


class Log(BaseModel):
    """What happened in one workflow."""

    id: str
    entries: list[Entry]
    outcomes: dict[str, int] = {}
    """Attempts by outcome; one that was billed without a usage is `no usage`."""
    failed_calls: int = 0
    """Calls that ended without a reply, other than by a denial."""


class Recorder:
    """Watches one run from inside its workflow; deterministic."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._outcomes: Counter[str] = Counter()
        self.failed_calls = 0

    def log(self) -> Log:
        """Return what was noted so far."""
        id = workflow.info().workflow_id
        return Log(
            id=id,
            entries=self._entries,
            outcomes=self._outcomes,
            failed_calls=self.failed_calls,
        )

    def watch(self, run: RunState) -> None:
        """Begin to watch; before the run's first call and first child."""
        account = run.budget.account
        # The places that a run goes by without awaiting, next to its decision.
        run.attempts = _Watched(self._attempted)
        run.denials = _Watched(lambda denial: self._denied(denial, account.cap))
        changed: Any = account
        changed.asked = _before(self._asked, account.asked)
        changed.reported = _before(self._reported, account.reported)
        changed.ended = _before(self._ended, account.ended)
        settle, answer = account.settle, account.answer

        def settled(reserved: Decimal, cost: Decimal) -> None:
            self._note("settled", reserved, more_usd=cost)
            settle(reserved, cost)

        def answered(*, patient: bool) -> list[tuple[str, BudgetGrant]]:
            answers = answer(patient=patient)
            for child, grant in answers:
                self._answered(child, grant)
            return answers

        changed.settle, changed.answer = settled, answered

    def scheduled(self, request: AgentRequest) -> None:
        """Note an attempt that goes to a worker."""
        if request.reserved_usd is not None:
            self._note("reserved", request.reserved_usd)

    def _note(self, what: What, usd: Decimal = _ZERO, **more: Any) -> None:
        self._entries.append(Entry(what=what, usd=usd, **more))

    def _attempted(self, attempt: Attempt) -> None:
        outcome = attempt.outcome.value
        if outcome == "billed" and attempt.at_reservation:
            outcome = "no usage"
        self._outcomes[outcome] += 1

    def _denied(self, denial: Denial, cap: Decimal | None) -> None:
        self._note("denied", denial.needs_usd, cap_usd=cap, who=denial.why)

    def _asked(self, ask: BudgetAsk) -> None:
        self._note("asked", ask.held_usd, more_usd=ask.needs_usd, who=ask.child)

    def _answered(self, child: str, grant: BudgetGrant) -> None:
        if grant.denied:
            self._note("refused", who=child)
        else:
            assert grant.granted_usd is not None  # every budget here has a cap
            self._note("granted", grant.granted_usd, who=child)

    def _reported(self, report: BudgetReport) -> None:
        self._note("reported", report.cost_usd, who=report.child)

    def _ended(self, child: str) -> None:
        self._note("ended", who=child)


class _Watched(list[T]):
    """A list that tells of what is appended."""

    def __init__(self, tell: Callable[[T], None]) -> None:
        super().__init__()
        self._tell = tell

    def append(self, item: T) -> None:
        self._tell(item)
        super().append(item)


def _before(note: Callable[[T], None], do: Callable[[T], None]) -> Callable[[T], None]:
    def doing(what: T) -> None:
        note(what)
        do(what)

    return doing


class _Outbound(WorkflowOutboundInterceptor):
    def start_activity(self, input: StartActivityInput) -> Any:
        recorder = getattr(workflow.instance(), "recorder", None)
        for argument in input.args:
            if isinstance(recorder, Recorder) and isinstance(argument, AgentRequest):
                recorder.scheduled(argument)
        return super().start_activity(input)


class _Inbound(WorkflowInboundInterceptor):
    def init(self, outbound: WorkflowOutboundInterceptor) -> None:
        super().init(_Outbound(outbound))


class RaceInterceptor(Interceptor):
    """Worker interceptor that notes what is scheduled."""

    def workflow_interceptor_class(
        self, input: WorkflowInterceptorClassInput
    ) -> type[WorkflowInboundInterceptor]:
        """See base class."""
        return _Inbound


@dataclass
class Books:
    """A workflow's money, added up from its log."""

    cap: Decimal | None
    """None for a child: it tells what it was granted when it denies a call."""
    settled: Decimal = _ZERO
    reserved: Decimal = _ZERO
    grants: dict[str, Decimal] = field(default_factory=dict)
    needs: dict[str, Decimal] = field(default_factory=dict)
    """What a child needs that waits for an answer."""
    denials: int = 0
    most_held: Decimal = _ZERO
    """Highest settled + reserved, grants included."""
    wrongful: list[str] = field(default_factory=list)
    """Denials for which there was money, in words."""
    over: list[str] = field(default_factory=list)
    """Moments at which more than the cap, or than a grant, was held, in words."""

    @property
    def held(self) -> Decimal:
        """Settled and reserved, grants included."""
        return self.settled + self.reserved + sum(self.grants.values(), _ZERO)

    def refuse(self, who: str, needs: Decimal, cap: Decimal | None) -> None:
        """Judge a denial."""
        if cap is None:
            self.wrongful.append(f"{who}: denied {needs} without a cap")
        elif cap - self.held >= needs:
            self.wrongful.append(
                f"{who}: denied {needs} although cap {cap} - settled {self.settled} - "
                f"reserved {self.held - self.settled} pays for it"
            )


def audit(log: Log, cap: Decimal | None) -> Books:
    """Add up what happened in one workflow."""
    books = Books(cap)
    for number, entry in enumerate(log.entries):
        _ENTER[entry.what](books, entry, f"{log.id} entry {number}")
        if books.held > books.most_held:
            books.most_held = books.held
            if cap is not None and books.held > cap:
                books.over.append(
                    f"{log.id} entry {number}: {books.held} held of {cap}"
                )
    return books


def _reserved(books: Books, entry: Entry, where: str) -> None:
    books.reserved += entry.usd


def _settled(books: Books, entry: Entry, where: str) -> None:
    books.reserved -= entry.usd
    books.settled += entry.more_usd


def _denied(books: Books, entry: Entry, where: str) -> None:
    books.denials += 1
    cap = books.cap if books.cap is not None else entry.cap_usd
    books.refuse(where, entry.usd, cap)


def _asked(books: Books, entry: Entry, where: str) -> None:
    granted = books.grants.get(entry.who, _ZERO)
    if entry.usd > granted:
        books.over.append(f"{where}: {entry.who} holds {entry.usd}, granted {granted}")
    books.grants[entry.who] = entry.usd
    books.needs[entry.who] = entry.more_usd


def _granted(books: Books, entry: Entry, where: str) -> None:
    books.grants[entry.who] = entry.usd


def _refused(books: Books, entry: Entry, where: str) -> None:
    books.refuse(f"{where} to {entry.who}", books.needs[entry.who], books.cap)


def _reported(books: Books, entry: Entry, where: str) -> None:
    if books.grants.pop(entry.who, None) is not None:
        books.settled += entry.usd


def _ended(books: Books, entry: Entry, where: str) -> None:
    books.settled += books.grants.pop(entry.who, _ZERO)


_ENTER: Mapping[What, Callable[[Books, Entry, str], None]] = {
    "reserved": _reserved,
    "settled": _settled,
    "denied": _denied,
    "asked": _asked,
    "granted": _granted,
    "refused": _refused,
    "reported": _reported,
    "ended": _ended,
}
