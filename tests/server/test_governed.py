"""`governed` in activities of a user's own, under the budget of their workflow."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from temporalio.client import (
    ActivityFailureError,
    Client,
    WorkflowFailureError,
    WorkflowHandle,
)
from temporalio.exceptions import ApplicationError
from temporalio.worker import Worker

from tierpool.activities import reservations
from tierpool.blueprint import Price
from tierpool.budget.estimate import MESSAGE_BYTES, MESSAGE_TOKENS, REQUEST_BYTES
from tierpool.contracts import ItemCosts, Usage
from tierpool.testing import Fail, Reply, Stall
from tierpool.testing.records import charge
from tierpool.worker import Served

from .budget_workflows import PairWorkflow
from .conftest import Running, Start, client_of
from .governed_activities import ask, ask_in_a_thread
from .governed_work import Ask, Asking, AskingAgain, AskingLocally, Told

ROOT = Path(__file__).parents[2]
ROLES = """
guardrails: {max_cost_per_workflow_usd: CAP}
agents:
  reviewer: {prompt: "Review.\\n", tier: nano}
"""
NANO = Price(input_usd_per_mtok=Decimal(1), output_usd_per_mtok=Decimal(2))
SENT = 200 + REQUEST_BYTES + MESSAGE_BYTES + MESSAGE_TOKENS
"""Input tokens that an ask is reserved for."""
WORST = Decimal(SENT + 2 * 1000).scaleb(-6)
"""USD that an ask is reserved for, at the prices of the tier `nano`."""
ALL = Reply("all of it", usage=Usage(input_tokens=SENT, output_tokens=1000))
"""Uses the whole reservation."""
LITTLE = Reply("little", usage=Usage(input_tokens=50, output_tokens=5))
LITTLE_USD = Decimal("0.00006")

Fleet = Callable[[Decimal], Awaitable[Running]]


@pytest.fixture
def fleet(running: Start) -> Fleet:
    """Start a fleet whose workflows may spend so much; nothing of it need run."""

    async def start(cap: Decimal) -> Running:
        return await running(
            ROLES.replace("CAP", f"{cap:f}"), served=Served(tools=True)
        )

    return start


@asynccontextmanager
async def asking(
    fleet: Running, asks: list[Ask], **more: Any
) -> AsyncIterator[WorkflowHandle[Any, list[Told]]]:
    """Start a workflow that asks; its worker lasts as long as the block."""
    more = {"activities": [ask]} | more
    async with fleet.worker(Asking, AskingLocally, **more) as queue:
        handle = await fleet.client.start_workflow(
            Asking.run, asks, id=f"asking-{uuid4().hex[:8]}", task_queue=queue
        )
        yield handle


async def told(handle: WorkflowHandle[Any, list[Told]]) -> list[Told]:
    await handle.signal(Asking.let_go)
    return await handle.result()


async def costs(handle: WorkflowHandle[Any, Any]) -> ItemCosts:
    return await handle.query("costs", result_type=ItemCosts)


def an_ask(fleet: Running, **more: Any) -> Ask:
    return Ask(base_url=fleet.provider.base_url, **more)


async def test_cost_is_on_the_workflows_account(fleet: Fleet) -> None:
    """A call of a user's own activity is charged to its workflow at the fleet's price."""
    its = await fleet(WORST)
    its.provider.script(LITTLE)

    async with asking(its, [an_ask(its)]) as handle:
        answers = await told(handle)
        after = await costs(handle)

    assert [Told(text="little")] == answers
    assert (LITTLE_USD, Decimal(0)) == (after.cost_usd, after.reserved_usd)
    (request,) = its.provider.requests
    assert request.max_tokens == 1000


async def test_anthropics_usage_counts_what_came_from_its_cache(fleet: Fleet) -> None:
    """The input that Anthropic reports beside its cache is charged as all of the input."""
    its = await fleet(Decimal(1))
    usage = Usage(input_tokens=40, cached_input_tokens=30, output_tokens=5)
    its.provider.script(Reply("fine", usage=usage))
    one = an_ask(its, model="anthropic:middle", wire="anthropic")

    async with asking(its, [one]) as handle:
        await told(handle)
        after = await costs(handle)

    assert Decimal("0.0005") == after.cost_usd  # 40 at 10 and 5 at 20 per million


async def test_parallel_calls_never_pass_the_cap(fleet: Fleet) -> None:
    """What 24 simultaneous activities are billed stays below the cap; the rest is refused by name."""
    cap = WORST * Decimal("5.5")
    its = await fleet(cap)
    its.provider.default(ALL)

    async with asking(its, [an_ask(its)] * 24) as handle:
        answers = await told(handle)
        after = await costs(handle)

    books = its.provider.accounting
    assert books.calls == 5
    assert charge(books.usage, NANO) == after.cost_usd <= cap
    refused = [answer for answer in answers if answer.error]
    assert {"BudgetDenied"} == {answer.error for answer in refused}
    assert len(refused) == 19
    assert not any(answer.retryable for answer in refused)


async def test_nobody_is_refused_while_money_may_come_back(fleet: Fleet) -> None:
    """With room for two reservations, six cheap calls wait their turn, and none of them in a slot."""
    its = await fleet(WORST * 2)
    its.provider.default(LITTLE)

    async with asking(its, [an_ask(its)] * 6) as handle:
        answers = await told(handle)
        after = await costs(handle)

    assert [Told(text="little")] * 6 == answers
    assert LITTLE_USD * 6 == after.cost_usd


async def test_call_that_costs_more_than_the_cap_is_refused_at_once(
    fleet: Fleet,
) -> None:
    """No retry can help, so none is made, and nothing was sent."""
    its = await fleet(WORST - Decimal("1e-6"))

    async with asking(its, [an_ask(its)]) as handle:
        (answer,) = await told(handle)

    assert ("BudgetDenied", False) == (answer.error, answer.retryable)
    assert "ask" in answer.why
    assert its.provider.accounting.calls == 0


async def test_each_attempt_of_an_activity_reserves_anew(fleet: Fleet) -> None:
    """The attempt that broke off stays at its reservation, the next one pays what it used."""
    its = await fleet(WORST * 3)
    its.provider.default(LITTLE)

    async with asking(its, [an_ask(its, ends="broken")]) as handle:
        answers = await told(handle)
        after = await costs(handle)

    assert [Told(text="little")] == answers
    assert its.provider.accounting.calls == 2
    assert WORST + LITTLE_USD == after.cost_usd


async def test_activity_ids_that_come_again_are_reservations_of_their_own(
    fleet: Fleet,
) -> None:
    """With one ID for all, the calls pay one by one and stop at the cap."""
    its = await fleet(WORST * 2)
    its.provider.default(ALL)
    asks = [an_ask(its, id="summarise", attempts=1)] * 4

    async with its.worker(AskingAgain, activities=[ask]) as queue:
        handle = await its.client.start_workflow(
            AskingAgain.run, asks, id=f"again-{uuid4().hex[:8]}", task_queue=queue
        )
        answers = await handle.result()
        after = await costs(handle)

    assert ["", "", "BudgetDenied", "BudgetDenied"] == [a.error for a in answers]
    assert (2, 2 * WORST) == (its.provider.accounting.calls, after.cost_usd)


@pytest.mark.parametrize(
    ("ends", "cost"), [("silent", WORST), ("released", Decimal(0))]
)
async def test_end_without_usage(fleet: Fleet, ends: str, cost: Decimal) -> None:
    """Silence is charged at the reservation, a call that was never sent at nothing."""
    its = await fleet(WORST)
    its.provider.default(LITTLE)

    async with asking(its, [an_ask(its, ends=ends)]) as handle:
        await told(handle)
        after = await costs(handle)

    assert (cost, Decimal(0)) == (after.cost_usd, after.reserved_usd)


async def test_usage_above_the_reservation_is_charged(fleet: Fleet) -> None:
    """A provider that makes more than it was asked for is paid, and then nothing is left."""
    its = await fleet(WORST)
    too_much = Usage(input_tokens=SENT, output_tokens=3000)
    its.provider.script(Reply("much", usage=too_much))

    async with asking(its, [an_ask(its)]) as handle:
        await told(handle)
        after = await costs(handle)

    assert charge(too_much, NANO) == after.cost_usd
    assert after.cost_usd > WORST


async def test_cancelled_activity_ends_its_reservation(fleet: Fleet) -> None:
    """The workflow learns at once that nothing is under way; the cost is the reservation."""
    its = await fleet(WORST)
    its.provider.script(Stall("never"))

    async with asking(its, [an_ask(its)]) as handle:
        await its.provider.until(lambda books: books.in_flight == 1)
        await handle.signal(Asking.stop)
        (answer,) = await told(handle)
        after = await costs(handle)

    assert answer.error == "CancelledError"
    assert (WORST, Decimal(0)) == (after.cost_usd, after.reserved_usd)
    assert len(its.provider.accounting.aborted) == 1


async def test_killed_worker_leaves_the_reservation(fleet: Fleet) -> None:
    """What a process was doing when it was killed is owed in full, and the next attempt needs its own money."""
    its = await fleet(WORST + LITTLE_USD)
    its.provider.script(Stall("never"))
    queue = f"killed-{uuid4().hex[:8]}"

    async with asking(its, [an_ask(its, queue=queue, attempts=1)]) as handle:
        async with activity_process(its, queue) as process:
            await its.provider.until(lambda books: books.in_flight == 1)
            process.kill()
        (answer,) = await told(handle)
        after = await costs(handle)

    assert answer.error == "TimeoutError"
    assert WORST == after.cost_usd + after.reserved_usd


@asynccontextmanager
async def activity_process(
    its: Running, queue: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the activities in a process of their own."""
    address = its.client.service_client.config.target_host
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.server.governed_activities"),
        *(address, str(its.fleet.path), queue),
        cwd=ROOT,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_unknown_price_is_refused_before_anything_is_sent(fleet: Fleet) -> None:
    """A model without a price fails the activity for good, with what to do."""
    its = await fleet(WORST)

    async with asking(its, [an_ask(its, model="openai:homemade")]) as handle:
        (answer,) = await told(handle)

    assert ("UsageError", False) == (answer.error, answer.retryable)
    assert "no price is known for 'openai:homemade'" in answer.why
    assert its.provider.accounting.calls == 0


async def test_sync_activity_is_refused(fleet: Fleet) -> None:
    """A thread cannot ask the workflow, and the error says so."""
    its = await fleet(WORST)

    with ThreadPoolExecutor(1) as threads:
        async with asking(
            its,
            [an_ask(its)],
            activities=[ask_in_a_thread],
            activity_executor=threads,
        ) as handle:
            (answer,) = await told(handle)

    assert "async def" in answer.why
    assert not answer.retryable


async def test_local_activity_is_refused(fleet: Fleet) -> None:
    """The workflow could not answer while it runs."""
    its = await fleet(WORST)

    async with its.worker(AskingLocally, activities=[ask]) as queue:
        with pytest.raises(WorkflowFailureError) as failed:
            await its.client.execute_workflow(
                AskingLocally.run,
                an_ask(its),
                id=f"asking-{uuid4().hex[:8]}",
                task_queue=queue,
            )

    assert "local activity ask" in str(failed.value.cause)


async def test_workflow_without_the_plugin_is_named(fleet: Fleet) -> None:
    """An activity of a workflow whose worker knows no budgets fails before it pays."""
    its = await fleet(WORST)
    plain: Client = client_of(its.client, data_converter=its.client.data_converter)
    queue = f"own-{uuid4().hex[:8]}"

    async with (
        Worker(plain, task_queue=queue, workflows=[Asking]),
        its.worker(activities=[ask]) as governed_queue,
    ):
        handle = await its.client.start_workflow(
            Asking.run,
            [an_ask(its, queue=governed_queue)],
            id=f"asking-{uuid4().hex[:8]}",
            task_queue=queue,
        )
        (answer,) = await told(handle)

    assert ("BudgetUnreachable", False) == (answer.error, answer.retryable)
    assert "no TierpoolPlugin" in answer.why
    assert its.provider.accounting.calls == 0


async def test_reservation_that_nobody_answered_is_given_back(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the workflow's worker is away the activity fails retryably; later only the call made is charged."""
    monkeypatch.setattr(reservations, "_ANSWER", timedelta(seconds=0.5))
    its = await fleet(WORST)
    its.provider.script(LITTLE)
    queues = [f"own-{uuid4().hex[:8]}" for _ in range(2)]
    one = an_ask(its, queue=queues[1])

    async with Worker(its.client, task_queue=queues[0], workflows=[Asking]):
        handle = await its.client.start_workflow(
            Asking.run, [one], id=f"asking-{uuid4().hex[:8]}", task_queue=queues[0]
        )
        await until_attempt(handle, 1)
    async with Worker(its.client, task_queue=queues[1], activities=[ask]):
        await until_attempt(handle, 2)
        monkeypatch.undo()
        async with Worker(its.client, task_queue=queues[0], workflows=[Asking]):
            answers = await told(handle)
            after = await costs(handle)

    assert [Told(text="little")] == answers
    assert (LITTLE_USD, Decimal(0)) == (after.cost_usd, after.reserved_usd)
    assert its.provider.accounting.calls == 1


async def until_attempt(handle: WorkflowHandle[Any, Any], number: int) -> None:
    """Wait until the workflow's activity is in this attempt, or about to be."""
    async with asyncio.timeout(30):
        while True:
            pending = (await handle.describe()).raw_description.pending_activities
            if pending and pending[0].attempt >= number:
                return
            await asyncio.sleep(0.05)


async def test_standalone_activity_is_refused(fleet: Fleet) -> None:
    """Without a workflow there is no budget to draw from."""
    its = await fleet(WORST)

    async with its.worker(activities=[ask]) as queue:
        with pytest.raises(ActivityFailureError) as failed:
            await its.client.execute_activity(
                ask,
                an_ask(its),
                id=f"alone-{uuid4().hex[:8]}",
                task_queue=queue,
                start_to_close_timeout=timedelta(seconds=20),
            )

    cause = failed.value.__cause__
    assert isinstance(cause, ApplicationError)
    assert "needs a workflow" in cause.message


async def test_refused_calls_cost_nothing_if_they_say_so(fleet: Fleet) -> None:
    """An error of the provider inside the block leaves the reservation, as the activity did not release it."""
    its = await fleet(WORST * 2)
    its.provider.script(Fail(400), LITTLE)

    async with asking(its, [an_ask(its)]) as handle:
        answers = await told(handle)
        after = await costs(handle)

    assert [Told(text="little")] == answers
    assert WORST + LITTLE_USD == after.cost_usd


PYTHON = """
guardrails: {max_cost_per_workflow_usd: 0.004}
agents:
  clerk: {type: python, call: "paying:work", timeout: 30s}
"""
PAYING = """
import asyncio
from tierpool import Usage, governed

async def work(request):
    async with governed(
        model="openai:small", max_output_tokens=1000, input="x" * 200
    ) as call:
        await asyncio.sleep(1)
        call.settle(Usage(input_tokens=50, output_tokens=5))
    return {"text": "paid"}
"""


async def test_python_role_waits_for_money_that_comes_back(running: Start) -> None:
    """Two roles that each need most of the budget both get it, one after the other."""
    its = await running(PYTHON, paying__py=PAYING)

    async with its.worker(PairWorkflow) as queue:
        handle = await its.client.start_workflow(
            PairWorkflow.run, id=f"pair-{uuid4().hex[:8]}", task_queue=queue
        )
        answers = await handle.result()
        after = await costs(handle)

    assert ["paid", "paid"] == answers
    assert 2 * LITTLE_USD == after.cost_usd


async def test_fleet_wide_money_is_the_same_for_activities(running: Start) -> None:
    """They take the process's lease, too; what does not fit is refused by name, unsent."""
    cap = WORST * Decimal("2.5")
    limits = f"guardrails: {{max_cost_per_hour_usd: {cap:f}, on_exhausted: fail}}"
    roles = ROLES.replace("guardrails: {max_cost_per_workflow_usd: CAP}", limits)
    its = await running(roles, served=Served(control=True))
    its.provider.default(ALL)

    async with asking(its, [an_ask(its, attempts=1)] * 6) as handle:
        answers = await told(handle)
        after = await costs(handle)

    assert 2 == its.provider.accounting.calls
    refused = [answer for answer in answers if answer.error]
    assert {"LeaseShort"} == {answer.error for answer in refused}
    assert 4 == len(refused)
    assert all("max_cost_per_hour_usd" in answer.why for answer in refused)
    assert (2 * WORST, Decimal(0)) == (after.cost_usd, after.reserved_usd)
