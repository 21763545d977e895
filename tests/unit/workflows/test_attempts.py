"""What follows an attempt: every row of the decision table."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    RetryState,
    TimeoutError,
    TimeoutType,
)

from tierpool.contracts import AgentResult, FailureDetail, NextStep, Outcome
from tierpool.workflows import attempts as step


def failure(
    next: NextStep, outcome: Outcome = Outcome.UNBILLED, **more: object
) -> FailureDetail:
    return FailureDetail.model_validate(
        {"outcome": outcome, "next": next, "message": "it failed", **more}
    )


def progress(**more: object) -> step.Progress:
    made = step.Progress(max_paid=3)
    for name, value in more.items():
        setattr(made, name, value)
    return made


INVALID = AgentResult(problem="not JSON", text="hm")


@pytest.mark.parametrize(
    ("expected", "last", "so_far"),
    [
        (step.Done({"a": 1}), AgentResult(reply={"a": 1}), {"paid": 3}),
        (step.Repair("hm", "not JSON"), INVALID, {"paid": 1}),
        (step.Escalate("no valid reply: not JSON"), INVALID, {"paid": 2, "repaired": True}),
        (step.GiveUp("it failed"), failure(NextStep.FAIL), {}),
        (step.Escalate("it failed"), failure(NextStep.ESCALATE), {"paid": 1}),
        (step.Failover(failure(NextStep.FAILOVER)), failure(NextStep.FAILOVER), {"fallbacks_left": 1}),
        (
            step.GiveUp("it failed (no fallback is left)"),
            failure(NextStep.FAILOVER),
            {},
        ),
        (
            step.Wait(timedelta(seconds=7), "it failed"),
            failure(NextStep.RETRY, retry_after=7),
            {"unbilled": 1},
        ),
        (
            step.Wait(timedelta(seconds=4), "it failed"),
            failure(NextStep.RETRY),
            {"unbilled": 3},
        ),
        (
            step.Wait(timedelta(seconds=9), "it failed"),
            failure(NextStep.FAILOVER, retry_after=9),
            {"unbilled": 1},
        ),
        (
            step.Reserve(9_001),
            failure(NextStep.RESERVE, input_bytes=9_001),
            {"unbilled": 1, "fallbacks_left": 1},
        ),
        (
            step.GiveUp("it failed"),
            failure(NextStep.RESERVE, input_bytes=9_002),
            {"unbilled": 2, "reserved_anew": True, "fallbacks_left": 1},
        ),
    ],
)  # fmt: skip
def test_every_outcome_has_one_next_step(
    expected: step.Next, last: AgentResult | FailureDetail, so_far: dict[str, object]
) -> None:
    """Each kind of outcome leads to its own next step."""
    assert expected == step.decide(progress(**so_far), last, jitter=0.0)


def test_paid_attempts_are_bounded_by_the_role() -> None:
    """After max_attempts paid attempts the call gives up and says so."""
    decision = step.decide(
        progress(paid=3), failure(NextStep.RETRY, Outcome.AMBIGUOUS), jitter=0.0
    )

    assert decision == step.GiveUp(
        "it failed (3 paid attempts, which is the role's max_attempts)"
    )


def test_unbilled_attempts_are_bounded_too() -> None:
    """A provider that turns every attempt away does not fill the history for ever."""
    decision = step.decide(
        progress(unbilled=step.UNBILLED_ATTEMPTS), failure(NextStep.RETRY), jitter=0.0
    )

    assert isinstance(decision, step.GiveUp)
    assert "turned away" in decision.reason


def test_low_estimate_is_no_way_around_the_bounds() -> None:
    """An attempt that was the last one is not made again with more money."""
    decision = step.decide(
        progress(unbilled=step.UNBILLED_ATTEMPTS),
        failure(NextStep.RESERVE, input_bytes=9_001),
        jitter=0.0,
    )

    assert isinstance(decision, step.GiveUp)
    assert "turned away" in decision.reason


OUTCOMES = st.one_of(
    st.just(INVALID),
    st.builds(
        failure,
        st.sampled_from(NextStep),
        st.sampled_from(Outcome),
        retry_after=st.none() | st.floats(0, 10_000),
        input_bytes=st.integers(0, 10_000),
    ),
)


@given(
    max_paid=st.integers(1, 5),
    fallbacks=st.integers(0, 3),
    data=st.data(),
)
def test_no_order_of_failures_goes_on_for_ever(
    max_paid: int, fallbacks: int, data: st.DataObject
) -> None:
    """Attempts on a tier are bounded; the estimate is corrected once, a reply repaired once."""
    made = step.Progress(max_paid, fallbacks_left=fallbacks)
    seen: list[step.Next] = []

    while not seen or not isinstance(seen[-1], step.GiveUp | step.Escalate):
        last = data.draw(OUTCOMES)
        billed = isinstance(last, AgentResult)
        made.count(Outcome.BILLED if billed else last.outcome)
        seen.append(step.decide(made, last, jitter=0.0))
        match seen[-1]:
            case step.Failover():
                made.failed_over()
            case step.Repair():
                made.repaired = True
            case step.Reserve():
                made.reserved_anew = True

    assert made.paid <= max_paid
    assert made.unbilled <= step.UNBILLED_ATTEMPTS
    assert 1 >= sum(isinstance(next, step.Reserve) for next in seen)
    assert 1 >= sum(isinstance(next, step.Repair) for next in seen)
    assert fallbacks >= sum(isinstance(next, step.Failover) for next in seen)


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_backoff_grows_within_bounds(tries: int, jitter: float) -> None:
    """A wait is never above two minutes and never below three quarters of a second."""
    wait = step.backoff(tries, jitter)

    assert timedelta(seconds=0.75) <= wait <= timedelta(minutes=2)


def activity_error(cause: BaseException) -> ActivityError:
    error = ActivityError(
        "failed",
        scheduled_event_id=1,
        started_event_id=2,
        identity="w",
        activity_type="reviewer",
        activity_id="1",
        retry_state=RetryState.MAXIMUM_ATTEMPTS_REACHED,
    )
    error.__cause__ = cause
    return error


def timed_out(kind: TimeoutType) -> TimeoutError:
    return TimeoutError("timed out", type=kind, last_heartbeat_details=[])


@pytest.mark.parametrize(
    ("outcome", "next", "cause"),
    [
        (
            Outcome.UNBILLED,
            NextStep.RETRY,
            ApplicationError(
                "429", {"outcome": "unbilled", "next": "retry", "message": "429"}
            ),
        ),
        (Outcome.AMBIGUOUS, NextStep.RETRY, ApplicationError("x", type="WorkerShutdown")),
        (Outcome.AMBIGUOUS, NextStep.FAIL, ApplicationError("x", type="PayloadsTooLarge")),
        (Outcome.AMBIGUOUS, NextStep.FAIL, ApplicationError("x", {"other": "details"})),
        (Outcome.AMBIGUOUS, NextStep.RETRY, timed_out(TimeoutType.HEARTBEAT)),
        (Outcome.AMBIGUOUS, NextStep.RETRY, timed_out(TimeoutType.START_TO_CLOSE)),
        (Outcome.UNBILLED, NextStep.FAILOVER, timed_out(TimeoutType.SCHEDULE_TO_START)),
    ],
)  # fmt: skip
def test_what_is_not_known_to_be_free_is_ambiguous(
    outcome: Outcome, next: NextStep, cause: BaseException
) -> None:
    """Only what was surely refused before work counts as unbilled."""
    detail = step.failure_of(activity_error(cause))

    assert (outcome, next) == (detail.outcome, detail.next)


@pytest.mark.parametrize(
    ("seconds", "tries", "expected"),
    [(2, 1, step.Wait), (2, 6, step.Deny), (600, 1, step.Deny)],
)
def test_fleet_that_fails_denies_what_is_spent_and_not_what_is_lent(
    seconds: int, tries: int, expected: type[step.Next]
) -> None:
    """Money that other workers hold comes back within seconds."""
    progress = step.Progress(max_paid=3, on_exhausted="fail", limited=tries)
    short = FailureDetail(
        outcome=Outcome.UNBILLED,
        next=NextStep.RETRY,
        message="max_cost_per_hour_usd is used up",
        retry_after=timedelta(seconds=seconds),
        admitted=False,
        limit="usd",
    )
    assert isinstance(step.decide(progress, short, 0.5), expected)
    for_ever = short.model_copy(update={"never": True})
    assert isinstance(step.decide(progress, for_ever, 0.5), step.Deny)
