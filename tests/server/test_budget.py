"""Money within a workflow: never more than its budget, whatever happens at once."""

import asyncio
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from temporalio.client import WorkflowUpdateFailedError

from tierpool import flow_result, start_flow
from tierpool.contracts import ItemStatus, Outcome, Usage
from tierpool.errors import UsageError
from tierpool.testing import CutConnection, RateLimited, Reply
from tierpool.worker import Served

from .budget_workflows import (
    FamilyWorkflow,
    GreedyWorkflow,
    LimitedFamilyWorkflow,
    LimitWorkflow,
    LongRunWorkflow,
    SilentFamilyWorkflow,
)
from .budgets import (
    BASE,
    CHEAP,
    DEAR,
    WORST,
    billed,
    costs_of,
    roles,
    started,
    until_it_shows,
)
from .conftest import Start, working


@pytest.mark.parametrize("mode", ["wait", "downgrade", "fail"])
async def test_parallel_calls_never_pass_the_cap(running: Start, mode: str) -> None:
    """Twelve callers at once spend no more than the cap and leave less than a call."""
    cap = 5 * WORST
    fleet = await running(roles(cap, mode), base=BASE)
    fleet.provider.default(Reply("fine", usage=DEAR))

    async with started(fleet, GreedyWorkflow.run, 12, 3) as handle:
        replies = await handle.result()
        costs = await costs_of(handle)

    assert costs.cost_usd == billed(fleet, DEAR) <= cap
    assert costs.cost_usd + WORST > cap
    assert 5 == replies.count("fine")
    assert 12 == len(costs.denials)
    assert costs.reserved_usd == 0


async def test_settled_money_pays_for_calls_that_waited(running: Start) -> None:
    """A cap of two worst cases serves any number of cheap calls, two at a time."""
    fleet = await running(roles(2 * WORST), base=BASE)
    fleet.provider.default(Reply("fine", usage=CHEAP, delay=timedelta(seconds=0.1)))

    async with started(fleet, GreedyWorkflow.run, 6, 2) as handle:
        replies = await handle.result()

    assert ["fine"] * 12 == replies
    assert fleet.provider.accounting.peak_in_flight <= 2


async def test_less_money_buys_a_shorter_reply(running: Start) -> None:
    """Output is cut to what the remainder pays for, and the record says so."""
    cap = WORST - Decimal("0.001")  # 500 tokens less
    fleet = await running(roles(cap), base=BASE)
    fleet.provider.default(Reply("fine", usage=CHEAP))

    async with started(fleet, GreedyWorkflow.run, 1, 1) as handle:
        await handle.result()
        costs = await costs_of(handle)

    (request,) = fleet.provider.requests
    assert 400 < request.body["max_tokens"] < 600
    limit = request.body["max_tokens"]
    assert f"output cut to {limit} tokens by the budget" in costs.attempts[0].reason
    assert costs.attempts[0].reserved_usd <= cap


async def test_parent_and_children_draw_from_one_remainder(running: Start) -> None:
    """A family of five workflows spends no more than its head may, and nearly all."""
    cap = 10 * WORST
    fleet = await running(roles(cap), base=BASE)
    fleet.provider.default(Reply("fine", usage=DEAR))

    async with started(fleet, FamilyWorkflow.run, 4, 3, 3) as handle:
        replies = await handle.result()
        costs = await costs_of(handle)

    assert costs.cost_usd == billed(fleet, DEAR) <= cap
    assert 10 == replies.count("fine")
    assert len(replies) > 10
    assert costs.reserved_usd == 0


async def test_child_spends_what_it_was_given(running: Start) -> None:
    """`child_budget` holds, and the parent gets back what the child left."""
    fleet = await running(roles(20 * WORST), base=BASE)
    fleet.provider.default(Reply("fine", usage=DEAR))

    async with started(fleet, LimitedFamilyWorkflow.run, str(3 * WORST)) as handle:
        replies = await handle.result()
        child = fleet.client.get_workflow_handle(f"{handle.id}-limited")
        costs, theirs = await costs_of(handle), await costs_of(child)

    assert ["fine"] * 3 == replies[:3]
    assert "budget_usd" in replies[3]
    assert handle.id == theirs.parent
    assert costs.cost_usd == theirs.cost_usd == billed(fleet, DEAR)


async def test_child_that_never_reports_is_charged_its_grant(running: Start) -> None:
    """A terminated child's money stays spent; the parent goes on with the rest."""
    fleet = await running(roles(4 * WORST), base=BASE)
    gate = asyncio.Event()
    fleet.provider.script(Reply("never", gate=gate))
    fleet.provider.default(Reply("fine", usage=DEAR))

    async with started(fleet, SilentFamilyWorkflow.run) as handle:
        await fleet.provider.until(lambda books: books.in_flight == 1)
        await fleet.client.get_workflow_handle(f"{handle.id}-silent").terminate()
        replies = await handle.result()
        costs = await costs_of(handle)

    assert ["fine"] == replies
    assert costs.cost_usd >= 2 * WORST  # half of the budget was the child's
    assert costs.cost_usd <= 4 * WORST


async def test_budget_goes_on_in_the_next_run(running: Start) -> None:
    """Continue-as-new neither forgets nor doubles what was spent."""
    fleet = await running(roles(3 * WORST), base=BASE)
    fleet.provider.default(Reply("fine", usage=DEAR))

    async with started(fleet, LongRunWorkflow.run, 0) as handle:
        done = await handle.result()
        costs = await costs_of(fleet.client.get_workflow_handle(handle.id))

    assert 3 == done == fleet.provider.accounting.calls
    assert (costs.made, costs.cost_usd) == (3, billed(fleet, DEAR))
    assert costs.budget_usd == 3 * WORST


async def test_workflow_sets_its_own_budget(running: Start) -> None:
    """`limit_budget` stands for the fleet's cap."""
    fleet = await running(roles(100 * WORST), base=BASE)
    fleet.provider.default(Reply("fine", usage=DEAR))

    async with started(fleet, LimitWorkflow.run, str(WORST)) as handle:
        replies = await handle.result()

    assert "fine" == replies[0]
    assert all(reply.startswith("denied") for reply in replies[1:])


async def test_denied_item_fails_with_the_reason_in_sight(running: Start) -> None:
    """A flow's denial names call, need and remainder: result, query, details, timeline."""
    fleet = await running(roles("0.0005"), base=BASE)

    handle = await fleet.start("review")
    result = await flow_result(handle)

    assert "failed" == result.state
    assert "denied by the budget: nano needs $0.00" in result.reason
    assert "$0.0005 of $0.0005 is left" in result.reason
    (denial,) = (await costs_of(handle)).denials
    assert ("reviewer", "nano", "incoming") == (denial.role, denial.tier, denial.state)
    history = await handle.fetch_history()
    (timer,) = [
        e for e in history.events if e.HasField("timer_started_event_attributes")
    ]
    assert b"denied: reviewer" in timer.user_metadata.summary.data
    assert 0 == fleet.provider.accounting.calls


async def test_item_budget_stands_for_the_fleets(running: Start) -> None:
    """`budget_usd` of an item is its cap, and its result says so."""
    fleet = await running(roles("0.0005"), base=BASE)
    fleet.provider.default(Reply("fine", usage=CHEAP))

    result = await fleet.run("review", budget_usd="0.01")

    assert ("done", Decimal("0.01")) == (result.state, result.budget_usd)


async def test_raised_budget_lets_a_denied_call_go_on(running: Start) -> None:
    """With wait_for_raise an item waits in sight until the update comes."""
    fleet = await running(
        roles("0.0005").replace("wait}", "wait, wait_for_raise: 10m}"), base=BASE
    )
    fleet.provider.default(Reply("fine", usage=CHEAP))
    handle = await fleet.start("review")
    await until_it_shows(handle, "send the update `raise_budget`")

    with pytest.raises(WorkflowUpdateFailedError):
        await handle.execute_update("raise_budget", "0.0004")
    await handle.execute_update("raise_budget", "0.02")
    result = await flow_result(handle)

    assert ("done", Decimal("0.02")) == (result.state, result.budget_usd)


@pytest.mark.parametrize("usd", ["0", "-1", "NaN", "inf", "1e9", "much", True, None])
async def test_nonsense_raises_no_budget(running: Start, usd: object) -> None:
    """The update refuses what is no amount, and says what would be one."""
    fleet = await running(roles("0.5"), base=BASE)
    gate = asyncio.Event()
    fleet.provider.default(Reply("fine", gate=gate))
    handle = await fleet.start("review")

    try:
        with pytest.raises(WorkflowUpdateFailedError) as caught:
            await handle.execute_update("raise_budget", usd)
    finally:
        gate.set()

    assert "budget" in str(caught.value.cause)


@pytest.mark.parametrize("usd", [0, -1, "NaN", "inf", "-inf", 1e9, "much", True])
async def test_nonsense_is_no_budget_of_an_item(running: Start, usd: Any) -> None:
    """start_flow refuses it before anything is started."""
    fleet = await running(roles("0.5"), served=Served(flows=True))

    with pytest.raises(UsageError, match=r"budget_usd .*: .*budget "):
        await start_flow(fleet.client, "review", "text", id="x", budget_usd=usd)


async def test_usage_above_the_estimate_is_charged_and_told(running: Start) -> None:
    """More output than asked for is paid as it is; nothing more is started then."""
    fleet = await running(roles(3 * WORST), base=BASE)
    fleet.provider.default(
        Reply("fine", usage=Usage(input_tokens=9, output_tokens=9_000))
    )

    async with started(fleet, GreedyWorkflow.run, 1, 2) as handle:
        replies = await handle.result()
        costs = await costs_of(handle)

    assert "fine" == replies[0]
    assert replies[1].startswith("denied")
    assert costs.cost_usd == Decimal("0.018009")
    assert "above its reservation" in costs.attempts[0].note


async def test_cut_reply_stays_at_its_reservation(running: Start) -> None:
    """An ambiguous attempt is charged its worst case; its retry reserves anew."""
    fleet = await running(roles(10 * WORST), base=BASE)
    fleet.provider.script(CutConnection(usage=CHEAP), Reply("fine", usage=CHEAP))

    handle = await fleet.start("review")
    result = await flow_result(handle)

    cut, fine = (await costs_of(handle)).attempts
    assert (Outcome.AMBIGUOUS, True) == (cut.outcome, cut.at_reservation)
    assert cut.cost_usd == cut.reserved_usd > fine.cost_usd
    assert result.cost_usd == cut.cost_usd + fine.cost_usd
    assert 1 == result.unknown_cost_attempts


async def test_refused_attempt_gives_its_reservation_back(running: Start) -> None:
    """A 429 costs nothing, also while the call waits."""
    fleet = await running(roles(WORST), base=BASE)
    fleet.provider.script(
        RateLimited(wait=timedelta(seconds=2)), Reply("fine", usage=DEAR)
    )

    handle = await fleet.start("review")
    await fleet.provider.until(lambda books: books.calls == 1 and not books.in_flight)
    result = await flow_result(handle)

    refused, fine = (await costs_of(handle)).attempts
    assert (0, Outcome.UNBILLED) == (refused.cost_usd, refused.outcome)
    assert ("done", fine.cost_usd) == (result.state, result.cost_usd)


async def test_pause_breaks_off_and_resume_makes_the_call_again(running: Start) -> None:
    """What a pause breaks off is charged; a resumed item comes to its end."""
    fleet = await running(roles(10 * WORST), base=BASE)
    fleet.provider.script(Reply("never", gate=asyncio.Event()))
    fleet.provider.default(Reply("fine", usage=CHEAP))
    handle = await fleet.start("review")
    await fleet.provider.until(lambda books: books.in_flight == 1)

    await handle.execute_update("pause")
    await fleet.provider.until(lambda books: len(books.aborted) == 1)
    status = await handle.query("status", result_type=ItemStatus)
    calls = fleet.provider.accounting.calls
    await handle.execute_update("resume")
    result = await flow_result(handle)

    assert (True, 1) == (status.paused, calls)
    broken, fine = (await costs_of(handle)).attempts
    assert "broken off by a pause" == broken.note
    assert broken.cost_usd == broken.reserved_usd
    assert ("done", broken.cost_usd + fine.cost_usd) == (result.state, result.cost_usd)


async def test_resume_right_after_a_pause_keeps_the_item_going(running: Start) -> None:
    """What the pause has broken off ends only after the resume, and is made again."""
    fleet = await running(roles(10 * WORST), base=BASE)
    fleet.provider.script(Reply("never", gate=asyncio.Event()))
    fleet.provider.default(Reply("fine", usage=CHEAP))
    handle = await fleet.start("review")
    await fleet.provider.until(lambda books: books.in_flight == 1)

    await asyncio.gather(
        handle.execute_update("pause"), handle.execute_update("resume")
    )
    if (await handle.query("status", result_type=ItemStatus)).paused:
        await handle.execute_update("resume")  # they came the other way round
    result = await flow_result(handle)

    notes = [attempt.note for attempt in (await costs_of(handle)).attempts]
    assert ("done", ["broken off by a pause", ""]) == (result.state, notes)


async def test_pause_may_let_calls_finish(running: Start) -> None:
    """With "finish" the call under way ends; nothing starts until resumed."""
    fleet = await running(roles(10 * WORST), base=BASE)
    gate = asyncio.Event()
    fleet.provider.script(Reply("fine", usage=CHEAP, gate=gate))
    handle = await fleet.start("review")
    await fleet.provider.until(lambda books: books.in_flight == 1)

    await handle.execute_update("pause", "finish")
    gate.set()
    result = await flow_result(handle)

    assert ("done", 1) == (result.state, result.attempts)


async def test_call_that_no_worker_had_started_is_free(running: Start) -> None:
    """Cancelled in its queue, an attempt gives its whole reservation back."""
    fleet = await running(roles(10 * WORST), base=BASE, served=Served(flows=True))
    handle = await fleet.start("review")
    await until_it_shows(handle, "incoming")

    await handle.cancel()
    await flow_result(handle)

    (attempt,) = (await costs_of(handle)).attempts
    assert (Outcome.UNBILLED, 0) == (attempt.outcome, attempt.cost_usd)


async def test_budget_can_be_raised_before_the_first_call(running: Start) -> None:
    """An update that comes with an item's start finds its budget."""
    pool = Served(pools=("nano",))
    fleet = await running(roles("0.0001"), base=BASE, served=pool)
    fleet.provider.default(Reply("fine", usage=CHEAP))
    handle = await fleet.start("review")

    raised = asyncio.create_task(handle.execute_update("raise_budget", "0.5"))
    await asyncio.sleep(0.5)
    async with working(fleet.client, fleet.fleet, Served(flows=True)):
        await raised
        result = await flow_result(handle)

    assert ("done", Decimal("0.5")) == (result.state, result.budget_usd)
