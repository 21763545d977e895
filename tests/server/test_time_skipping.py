"""Long waits on the server whose clock runs ahead: days pass in seconds."""

import time
from datetime import timedelta

from temporalio.client import WorkflowHistory
from temporalio.testing import WorkflowEnvironment

from tierpool import flow_result
from tierpool.client import gates_of
from tierpool.contracts import ItemCosts, Outcome
from tierpool.testing import Overloaded, RateLimited, Reply

from .conftest import Running, Start

HUMAN = """
agents:
  approver: {type: human, timeout: 7d, output: {verdict: [approve, reject]}}
  reviewer: {prompt: "Review.\\n", tier: nano}
flows:
  release:
    initial: asking
    transitions:
      "asking -> done": {agent: approver, when: {verdict: approve}}
  patient:
    initial: asking
    transitions:
      "asking -> done": {agent: approver, when: {verdict: approve}}
      "asking -> overdue": {}
    states: {asking: {timeout: 3d}}
  review:
    initial: incoming
    transitions:
      "incoming -> done": {agent: reviewer}
  hurried:
    initial: incoming
    transitions:
      "incoming -> done": {agent: reviewer}
      "incoming -> late": {}
    states: {incoming: {timeout: 10m}}
"""


def timers(history: WorkflowHistory) -> list[timedelta]:
    """Return the timers of a history, in order."""
    return [
        event.timer_started_event_attributes.start_to_fire_timeout.ToTimedelta()
        for event in history.events
        if event.HasField("timer_started_event_attributes")
    ]


def hurry(fleet: Running) -> None:
    """Let the workers' own clock run as fast as the server's skips time."""
    for throttle in gates_of(fleet.client)["nano"].throttles.values():
        throttle.clock = lambda: 10_000 * time.monotonic()


async def test_human_who_never_decides_fails_the_item(
    running: Start, skipping: WorkflowEnvironment
) -> None:
    """After the human role's 7 days the item fails with the reason."""
    fleet = await running(HUMAN, environment=skipping)

    handle = await fleet.start("release")
    result = await flow_result(handle)

    assert result.state == "failed"
    assert "nobody decided within 7 days" in result.reason
    assert timers(await handle.fetch_history()) == [timedelta(days=7)]


async def test_state_timeout_ends_a_long_wait(
    running: Start, skipping: WorkflowEnvironment
) -> None:
    """A state's timeout comes before the longer one of its human role."""
    fleet = await running(HUMAN, environment=skipping)

    result = await fleet.run("patient")

    assert result.path == ("asking", "overdue")


async def test_retry_after_of_20_minutes_is_slept_through(
    running: Start, skipping: WorkflowEnvironment
) -> None:
    """A provider's wait becomes a timer of that length, and no attempt is made before."""
    fleet = await running(HUMAN, environment=skipping)
    hurry(fleet)
    wait = timedelta(minutes=20)
    fleet.provider.script(RateLimited(wait=wait), Reply("fine"))

    handle = await fleet.start("review")
    result = await flow_result(handle)

    assert (result.state, result.attempts) == ("done", 2)
    assert timers(await handle.fetch_history()) == [wait]


async def test_retry_after_beyond_the_states_time_is_not_awaited(
    running: Start, skipping: WorkflowEnvironment
) -> None:
    """When a state's time ends within a wait, no further attempt is made."""
    fleet = await running(HUMAN, environment=skipping)
    fleet.provider.script(RateLimited(wait=timedelta(minutes=20)))

    result = await fleet.run("hurried")

    assert result.path == ("incoming", "late")
    assert fleet.provider.accounting.calls == 1


async def test_waits_double_until_unbilled_attempts_run_out(
    running: Start, skipping: WorkflowEnvironment
) -> None:
    """Without a hint the waits double up to 2 minutes; 12 refusals end the call for free."""
    fleet = await running(HUMAN, environment=skipping)
    hurry(fleet)
    fleet.provider.default(Overloaded())

    handle = await fleet.start("review")
    result = await flow_result(handle)

    assert result.state == "failed"
    assert "12 attempts were turned away" in result.reason
    assert (result.cost_usd, result.unknown_cost_attempts) == (0, 0)
    costs = await handle.query("costs", result_type=ItemCosts)
    assert [a.outcome for a in costs.attempts] == [Outcome.UNBILLED] * 12
    waits = [wait.total_seconds() for wait in timers(await handle.fetch_history())]
    longest = [min(2.0**n, 120.0) for n in range(11)]
    assert len(waits) == 11
    assert all(
        0.75 * most <= wait <= most for wait, most in zip(waits, longest, strict=True)
    )
