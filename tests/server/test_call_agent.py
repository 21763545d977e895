"""`call_agent` in workflows of a user's own, on the user's own worker."""

from decimal import Decimal
from uuid import uuid4

import pytest
from temporalio.client import WorkflowFailureError, WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError

from tierpool.contracts import HumanDecision, ItemCosts, Usage
from tierpool.testing import NoUsage, RateLimited, Reply, SeenRequest
from tierpool.worker import Served

from .conftest import Running, Start
from .own_workflows import (
    ExplainedWorkflow,
    LongWorkflow,
    OddWorkflow,
    ParallelWorkflow,
    Review,
    ReviewWorkflow,
    TierWorkflow,
)

ROLES = """
agents:
  reviewer: {prompt: "Review.\\n", tier: nano}
  worker: {prompt: "Work.\\n", tier: {min: nano, max: standard}}
"""
WORKFLOWS = (
    ReviewWorkflow,
    ExplainedWorkflow,
    ParallelWorkflow,
    TierWorkflow,
    LongWorkflow,
    OddWorkflow,
)


async def execute(fleet: Running, run: object, *args: object, **more: object) -> object:
    async with fleet.worker(*WORKFLOWS, **more) as queue:
        return await fleet.client.execute_workflow(
            run, args=args, id=f"own-{uuid4().hex[:8]}", task_queue=queue
        )  # type: ignore[call-overload]


async def test_typed_reply_is_a_validated_model(running: Start) -> None:
    """`output=Review` asks the provider for its schema and returns a Review."""
    fleet = await running(ROLES)
    fleet.provider.script(Reply(json={"verdict": "approve", "score": 7}))

    review = await execute(fleet, ReviewWorkflow.run, "the diff")

    assert Review(verdict="approve", score=7) == review
    (request,) = fleet.provider.requests
    assert {"verdict", "score"} == set(request.schema["properties"])
    assert request.messages[-1][1] == "the diff"


@pytest.mark.parametrize(
    ("invalid", "complaint"),
    [
        (Reply("sure, here you go"), "JSON"),
        (Reply(json={"verdict": "approve"}), "score"),
        (Reply(json={"verdict": "approve", "score": 11}), "from 0 to 10"),
        (Reply('{"verdict": "app', finish_reason="length"), "cut off"),
    ],
)
async def test_invalid_reply_is_repaired_once(
    running: Start, invalid: Reply, complaint: str
) -> None:
    """An invalid reply goes back with what is wrong with it, as an attempt of its own."""
    fleet = await running(ROLES)
    fleet.provider.script(invalid, Reply(json={"verdict": "approve", "score": 7}))

    review = await execute(fleet, ReviewWorkflow.run, "the diff")

    assert Review(verdict="approve", score=7) == review
    repair = fleet.provider.requests[1]
    assert [who for who, _ in repair.messages] == ["user", "assistant", "user"]
    assert complaint in repair.messages[-1][1]


async def test_reply_that_stays_invalid_fails_by_name(running: Start) -> None:
    """A role of a fixed tier that cannot be repaired fails the call, and no third attempt is paid."""
    fleet = await running(ROLES)
    fleet.provider.script(Reply("nonsense"), Reply("more nonsense"))

    with pytest.raises(WorkflowFailureError) as failed:
        await execute(fleet, ReviewWorkflow.run, "the diff")

    cause = failed.value.cause
    assert isinstance(cause, ApplicationError)
    assert cause.type == "AgentCallFailed"
    assert "after 2 attempts" in str(cause)


async def test_retry_after_is_a_durable_timer(running: Start) -> None:
    """A refused attempt waits in a timer that names the provider; then the call goes on."""
    fleet = await running(ROLES)
    fleet.provider.script(RateLimited(), Reply("fine"))

    async with fleet.worker(*WORKFLOWS) as queue:
        handle = await fleet.client.start_workflow(
            ExplainedWorkflow.run, "x", id=f"own-{uuid4().hex[:8]}", task_queue=queue
        )
        attempts = await handle.result()
        history = await handle.fetch_history()

    assert [a.outcome.value for a in attempts] == ["unbilled", "billed"]
    assert Decimal(0) == attempts[0].cost_usd
    timers = [e for e in history.events if e.HasField("timer_started_event_attributes")]
    assert len(timers) == 1
    assert b"openai" in timers[0].user_metadata.summary.data
    assert b"429" in timers[0].user_metadata.summary.data


async def test_unknown_usage_is_never_zero(running: Start) -> None:
    """An answer without usage is charged its reservation, and the sums say so."""
    fleet = await running(ROLES)
    fleet.provider.script(NoUsage("fine"))

    async with fleet.worker(*WORKFLOWS) as queue:
        handle = await fleet.client.start_workflow(
            ExplainedWorkflow.run, "x", id=f"own-{uuid4().hex[:8]}", task_queue=queue
        )
        (attempt,) = await handle.result()
        costs = await handle.query("costs", result_type=ItemCosts)

    assert attempt.at_reservation
    assert costs.cost_usd == attempt.cost_usd == attempt.reserved_usd > 0
    assert costs.unknown_cost_attempts == 1


async def test_parallel_calls_share_one_snapshot(running: Start) -> None:
    """Parallel first calls take the fleet once and get each their own reply."""
    fleet = await running(ROLES)

    def echo(request: SeenRequest) -> Reply:
        return Reply(request.messages[-1][1], usage=Usage(input_tokens=1))

    fleet.provider.default(echo)

    replies = await execute(fleet, ParallelWorkflow.run, 6)

    assert [f"text {n}" for n in range(6)] == replies


async def test_caller_may_ask_for_a_tier_within_the_range(running: Start) -> None:
    """The caller goes before the classifier, but not outside the role's range."""
    fleet = await running(ROLES)
    fleet.provider.default(Reply("fine"))

    chosen = await execute(fleet, TierWorkflow.run, "worker", "standard")
    refused = await execute(fleet, TierWorkflow.run, "worker", "premium")

    assert chosen == "standard"
    assert "may use from nano to standard" in refused


async def test_snapshot_survives_continue_as_new(running: Start) -> None:
    """A changed agents.yaml does not change a workflow that continues as new."""
    fleet = await running(ROLES)
    fleet.provider.default(Reply("fine"))

    models = await execute(fleet, LongWorkflow.run, [])

    assert models == ["openai:small", "openai:small"]


async def test_works_without_the_workflow_cache(running: Start) -> None:
    """With every task replayed from the start, nothing runs twice."""
    fleet = await running(ROLES)
    fleet.provider.default(Reply("fine"))

    replies = await execute(fleet, ParallelWorkflow.run, 3, max_cached_workflows=0)

    assert replies == ["fine"] * 3
    assert fleet.provider.accounting.calls == 3


async def test_unknown_role_names_the_nearest(running: Start) -> None:
    """A misspelt role fails the workflow, not the workflow task, and says what was meant."""
    fleet = await running(ROLES)

    with pytest.raises(WorkflowFailureError) as failed:
        await execute(fleet, TierWorkflow.run, "reviewr", "nano")

    assert "did you mean 'reviewer'?" in str(failed.value.cause)


HUMAN = """
agents:
  reviewer: {type: human, timeout: 1h}
"""


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("half a character", "the input of the role 'reviewer' has half a character"),
        ("no object", "output=Words is no object but of type array"),
        ("no regular expression", "output=Letters cannot be asked for"),
    ],
)
async def test_what_cannot_be_asked_fails_before_it_is_paid(
    running: Start, what: str, said: str
) -> None:
    """The workflow fails by name, instead of its task for ever or after the call."""
    fleet = await running(ROLES)

    with pytest.raises(WorkflowFailureError) as failed:
        await execute(fleet, OddWorkflow.run, what)

    assert said in str(failed.value.cause)
    assert 0 == fleet.provider.accounting.calls


async def test_reply_that_was_cut_off_says_so(running: Start) -> None:
    """Text that ends at the limit is a reply; its attempt tells that more was to come."""
    fleet = await running(ROLES)
    fleet.provider.script(Reply("half a sent", finish_reason="length"))

    (attempt,) = await execute(fleet, ExplainedWorkflow.run, "text")

    assert "cut off at 2048 output tokens" == attempt.note


async def test_human_reply_is_judged_by_the_callers_model(running: Start) -> None:
    """A decision that the caller's model refuses leaves the role waiting for a better one."""
    fleet = await running(HUMAN, served=Served(tools=True))

    async with fleet.worker(*WORKFLOWS) as queue:
        handle = await fleet.client.start_workflow(
            ReviewWorkflow.run, "x", id=f"own-{uuid4().hex[:8]}", task_queue=queue
        )
        await handle.query("costs")  # it waits from now on
        reply = {"verdict": "approve", "score": 11}
        with pytest.raises(WorkflowUpdateFailedError) as refused:
            await handle.execute_update("decide", HumanDecision(reply=reply))
        await handle.execute_update("decide", HumanDecision(reply=reply | {"score": 7}))
        review = await handle.result()

    assert "from 0 to 10" in str(refused.value.cause)
    assert Review(verdict="approve", score=7) == review
