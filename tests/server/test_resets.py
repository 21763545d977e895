"""A reset begins a run anew, and refunds nothing."""

import asyncio
from decimal import Decimal
from typing import Any

from temporalio.client import WorkflowHandle

from tierpool.contracts import ItemCosts
from tierpool.testing import Reply

from .budget_workflows import (
    ChangedWorkflow,
    GreedyWorkflow,
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
)
from .conftest import Start
from .resets import reset, task_ends


async def test_reset_does_not_forget_what_was_spent(running: Start) -> None:
    """A run that starts again at an earlier event still knows the bill."""
    fleet = await running(roles(2 * WORST), base=BASE)
    fleet.provider.default(Reply("fine", usage=DEAR))

    async with started(fleet, GreedyWorkflow.run, 1, 5) as handle:
        assert ["fine", "fine"] == (await handle.result())[:2]
        await reset(fleet.client, handle, signals=False)
        again = fleet.client.get_workflow_handle(handle.id)
        replies = await again.result()
        costs = await costs_of(again)

    assert 2 == fleet.provider.accounting.calls
    assert replies[0].startswith("denied")
    assert billed(fleet, DEAR) == costs.cost_usd
    assert "(reset)" in [attempt.role for attempt in costs.attempts]


async def test_reset_of_a_run_whose_code_has_changed_refunds_nothing(
    running: Start,
) -> None:
    """What cannot be replayed cannot be asked: its history says what it reserved."""
    fleet = await running(roles(5 * WORST), base=BASE)
    fleet.provider.default(Reply("fine", usage=CHEAP))

    async with started(fleet, ChangedWorkflow.run) as handle:
        before = await costs_after(handle, 3)
        await handle.signal(ChangedWorkflow.let_go)
        await handle.result()
        await reset(fleet.client, handle, signals=False)
        again = fleet.client.get_workflow_handle(handle.id)
        costs = await costs_after(again, 4)
        await again.terminate()

    lost = costs.attempts[0]
    reserved = sum((a.reserved_usd or Decimal(0) for a in before.attempts), Decimal(0))
    assert ("(reset)", reserved) == (lost.role, lost.cost_usd)
    assert costs.cost_usd == reserved + before.cost_usd


async def test_resets_of_one_run_add_up(running: Start) -> None:
    """However often the first run is reset, all runs together stay within the budget."""
    fleet = await running(roles(4 * WORST), base=BASE)
    fleet.provider.default(Reply("fine", usage=DEAR))

    async with started(fleet, GreedyWorkflow.run, 1, 2) as handle:
        await handle.result()
        for _ in range(2):
            await reset(fleet.client, handle, signals=False)
            again = fleet.client.get_workflow_handle(handle.id)
            replies = await again.result()
        costs = await costs_of(again)

    assert 4 == fleet.provider.accounting.calls
    assert replies[0].startswith("denied")
    assert billed(fleet, DEAR) == costs.cost_usd


async def test_call_that_a_reset_makes_again_is_charged_twice(running: Start) -> None:
    """A call under way at the reset's point is paid for in both runs."""
    fleet = await running(roles(4 * WORST), base=BASE)
    gate = asyncio.Event()
    fleet.provider.script(Reply("fine", usage=DEAR, gate=gate))
    fleet.provider.default(Reply("fine", usage=DEAR))

    async with started(fleet, GreedyWorkflow.run, 1, 9) as handle:
        await fleet.provider.until(lambda books: books.in_flight == 1)
        await handle.signal("nobody listens")  # one more workflow task
        while len(await task_ends(handle)) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        gate.set()
        await handle.result()
        await reset(fleet.client, handle, (await task_ends(handle))[1], signals=False)
        again = fleet.client.get_workflow_handle(handle.id)
        await again.result()
        costs = await costs_of(again)

    assert 5 == fleet.provider.accounting.calls
    assert billed(fleet, DEAR) <= costs.cost_usd


async def costs_after(handle: WorkflowHandle[Any, Any], attempts: int) -> ItemCosts:
    """Return what a workflow costs once it has made so many attempts."""
    async with asyncio.timeout(20):
        while (costs := await costs_of(handle)).made < attempts:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return costs
