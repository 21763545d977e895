"""What to do after an attempt: pure decisions over its outcome.

`failure_of` reads what Temporal reports; `decide` says what comes next. No
awaiting and no workflow state here, so every row of the table is a unit test.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias

from pydantic import ValidationError
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    TimeoutError,
    TimeoutType,
)

from tierpool.blueprint import Reply
from tierpool.contracts import AgentResult, FailureDetail, NextStep, Outcome
from tierpool.contracts.ledger import USD

__all__ = [
    "Cheaper",
    "Deny",
    "Done",
    "Escalate",
    "Failover",
    "GiveUp",
    "Next",
    "Progress",
    "Repair",
    "Reserve",
    "Wait",
    "backoff",
    "decide",
    "failure_of",
]

UNBILLED_ATTEMPTS = 12
"""Attempts that cost nothing are bounded too: each adds about 11 history events."""

REFUSED_BY_WORKERS = 60
"""So often may a call be sent back by workers that could not start it."""

_FIRST_WAIT = timedelta(seconds=1)
_TURNED_AWAY = 2
"""Unbilled attempts in a row after which a fallback is tried."""
_PATIENCE = timedelta(seconds=30)
"""A provider that asks for a longer wait counts as unavailable."""
_LONGEST_WAIT = timedelta(minutes=2)
_LENT = timedelta(seconds=2)
_LENT_TRIES = 5
"""So often is money waited for that others may give back at any moment."""


@dataclass(frozen=True, slots=True)
class Done:
    """The reply is valid."""

    reply: Reply


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait, then make the same attempt again."""

    delay: timedelta
    reason: str
    whom: str = ""
    """The limit that is waited for; else the provider is."""


@dataclass(frozen=True, slots=True)
class Repair:
    """Send the answer back with what is wrong with it."""

    text: str
    problem: str


@dataclass(frozen=True, slots=True)
class Reserve:
    """Reserve for more bytes than were estimated, then make the attempt again."""

    input_bytes: int


@dataclass(frozen=True, slots=True)
class Cheaper:
    """Try a tier below; if none is open, wait, or give up where that cannot help."""

    failure: FailureDetail
    wait: Wait


@dataclass(frozen=True, slots=True)
class Deny:
    """The fleet has no money for it now, and does not want to wait."""

    why: str


@dataclass(frozen=True, slots=True)
class Escalate:
    """Try the next tier."""

    reason: str


@dataclass(frozen=True, slots=True)
class Failover:
    """Try the next model of the same tier."""

    failure: FailureDetail
    """Why."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """No attempt can help, or none is left."""

    reason: str


Next: TypeAlias = (
    Done | Wait | Repair | Reserve | Cheaper | Deny | Escalate | Failover | GiveUp
)


@dataclass
class Progress:
    """What a call has tried so far."""

    max_paid: int
    """Attempts that may cost something."""
    paid: int = 0
    unbilled: int = 0
    repaired: bool = False
    """One repair for each tier."""
    reserved_anew: bool = False
    """The worker's count has corrected the estimate once."""
    fallbacks_left: int = 0
    turned_away: int = 0
    """Unbilled attempts in a row on this model."""
    passed_by: int = 0
    """Models of the tier before this one."""
    not_admitted: int = 0
    """Attempts that a worker sent back because it could not start them."""
    limited: int = 0
    """Those for which a limit of the fleet was used up: they may wait for hours."""
    on_exhausted: str = "wait"
    """What the fleet wants when the money of the hour is used up."""

    def count(
        self, outcome: Outcome, *, admitted: bool = True, limited: bool = False
    ) -> None:
        """Count an attempt; one that was not admitted is none."""
        if limited:
            self.limited += 1
        elif not admitted:
            self.not_admitted += 1
        elif outcome is Outcome.UNBILLED:
            self.unbilled += 1
            self.turned_away += 1
        else:
            self.paid += 1
            self.turned_away = 0

    def failed_over(self) -> None:
        """Go on with the next model of the tier."""
        self.fallbacks_left -= 1
        self.passed_by += 1
        self.turned_away = 0

    def returned(self, model: int) -> None:
        """Go back to an earlier model of the tier, by its number."""
        self.fallbacks_left += self.passed_by - model
        self.passed_by, self.turned_away = model, 0

    @property
    def exhausted(self) -> str:
        """Say which bound is reached; empty while none is."""
        if self.paid >= self.max_paid:
            return f"{self.paid} paid attempts, which is the role's max_attempts"
        if self.unbilled >= UNBILLED_ATTEMPTS:
            return f"{self.unbilled} attempts were turned away"
        if self.not_admitted >= REFUSED_BY_WORKERS:
            return f"workers sent it back {self.not_admitted} times"
        return ""


def backoff(tries: int, jitter: float) -> timedelta:
    """Return the wait before another try: doubling, bounded, less up to a quarter.

    Args:
        tries: Tries so far, from 1.
        jitter: A random number from 0 to 1.
    """
    doubled = float(2 ** (min(tries, 20) - 1))
    return min(_FIRST_WAIT * doubled, _LONGEST_WAIT) * (1 - 0.25 * jitter)


def decide(
    progress: Progress, last: AgentResult | FailureDetail, jitter: float
) -> Next:
    """Say what follows an attempt that `progress` has counted already."""
    if isinstance(last, AgentResult):
        if last.reply is not None:
            return Done(last.reply)
        if progress.exhausted:
            return GiveUp(f"{last.problem} ({progress.exhausted})")
        if progress.repaired:
            return Escalate(f"no valid reply: {last.problem}")
        return Repair(last.text, last.problem)
    if last.limit:
        return _limited(progress, last, jitter)
    if last.next is NextStep.FAIL or _reserved_in_vain(progress, last):
        return GiveUp(last.message)
    if progress.exhausted:
        return GiveUp(f"{last.message} ({progress.exhausted})")
    if last.next is NextStep.RESERVE:
        return Reserve(last.input_bytes)
    if last.next is NextStep.ESCALATE:
        return Escalate(last.message)
    return _again(progress, last, jitter)


def _limited(progress: Progress, last: FailureDetail, jitter: float) -> Next:
    """Say what follows when a limit of the fleet is used up.

    The hints of all who were sent back name the same moment: each comes a little
    later than that.
    """
    hint = last.retry_after or backoff(progress.limited, jitter)
    wait = Wait(hint * (1 + 0.25 * jitter), last.message, whom=last.limit)
    if last.limit == USD and progress.on_exhausted == "downgrade":
        return Cheaper(last, wait)
    if last.limit == USD and (last.never or _denies(progress, last)):
        return Deny(last.message)
    return GiveUp(last.message) if last.never else wait


def _denies(progress: Progress, last: FailureDetail) -> bool:
    """Tell whether a fleet that does not wait for money denies a call.

    What comes back within seconds was not spent: other workers hold it.
    """
    if progress.on_exhausted != "fail":
        return False
    lent = last.retry_after is not None and last.retry_after <= _LENT
    return not lent or progress.limited > _LENT_TRIES


def _again(progress: Progress, last: FailureDetail, jitter: float) -> Next:
    """Say with which model, and when, the same attempt is made again."""
    if progress.fallbacks_left and _unavailable(progress, last):
        return Failover(last)
    if last.next is NextStep.FAILOVER and last.retry_after is None:
        return GiveUp(f"{last.message} (no fallback is left)")
    if not last.admitted:  # no provider asked for this: the longer, the less it helps
        wait = backoff(progress.not_admitted, jitter)
        return Wait(max(wait, last.retry_after or wait), last.message)
    tries = progress.unbilled + progress.paid
    return Wait(last.retry_after or backoff(tries, jitter), last.message)


def _reserved_in_vain(progress: Progress, last: FailureDetail) -> bool:
    """Tell whether a second estimate was too low as well: then something is wrong."""
    return last.next is NextStep.RESERVE and progress.reserved_anew


def _unavailable(progress: Progress, last: FailureDetail) -> bool:
    """Tell whether another model should be tried before this one again."""
    if last.next is NextStep.FAILOVER:
        return True
    if last.outcome is not Outcome.UNBILLED:
        return False
    if not last.admitted:
        return False
    long = last.retry_after is not None and last.retry_after > _PATIENCE
    return long or progress.turned_away >= _TURNED_AWAY


def failure_of(error: ActivityError) -> FailureDetail:
    """Read the outcome of an attempt that ended without a result.

    What is not known to be free counts as ambiguous.
    """
    cause = error.cause
    if isinstance(cause, TimeoutError):
        return _timed_out(cause)
    if not isinstance(cause, ApplicationError):
        return FailureDetail(
            outcome=Outcome.AMBIGUOUS, next=NextStep.FAIL, message=f"{cause or error}"
        )
    if cause.details:
        try:
            return FailureDetail.model_validate(cause.details[0])
        except ValidationError:
            pass  # another activity's details: judged by its type below
    if cause.type == "WorkerShutdown":
        return FailureDetail(
            outcome=Outcome.AMBIGUOUS,
            next=NextStep.RETRY,
            message="the worker was stopped during the attempt",
        )
    return FailureDetail(
        outcome=Outcome.AMBIGUOUS,
        next=NextStep.FAIL,
        message=f"{cause.type or 'error'}: {cause.message}",
    )


def _timed_out(cause: TimeoutError) -> FailureDetail:
    if cause.type is TimeoutType.SCHEDULE_TO_START:
        return FailureDetail(
            outcome=Outcome.UNBILLED,
            next=NextStep.FAILOVER,
            message="no worker took the attempt in time",
        )
    what = {
        TimeoutType.HEARTBEAT: "the worker was lost during the attempt",
        TimeoutType.START_TO_CLOSE: "the attempt took longer than its timeout",
    }
    return FailureDetail(
        outcome=Outcome.AMBIGUOUS,
        next=NextStep.RETRY,
        message=what.get(cause.type, "the attempt timed out")
        if cause.type
        else "the attempt timed out",
    )
