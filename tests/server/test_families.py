"""One budget for parents and children, whatever becomes of them."""

import asyncio
from datetime import timedelta
from decimal import Decimal
from uuid import uuid4

import pytest
from temporalio.worker import UnsandboxedWorkflowRunner

from tierpool.testing import NoUsage, RateLimited, Reply

from .budgets import BASE, CHEAP, DEAR, WORST, costs_of, started
from .conftest import Running, Start
from .family_workflows import (
    WORKFLOWS,
    Buggy,
    Doubled,
    Forgetful,
    Parent,
    Persistent,
    Rivals,
    Root,
    Twice,
)

ROLES = """
guardrails: {CAP}
agents:
  reviewer: {prompt: "Judge\\nwell.", tier: nano}
"""


async def fleet_of(
    running: Start, cap: Decimal | None = None, more: str = ""
) -> Running:
    limit = f"max_cost_per_workflow_usd: {cap}, {more}" if cap is not None else more
    return await running(ROLES.replace("CAP", limit.removesuffix(", ")), base=BASE)


@pytest.mark.parametrize("kind", ["Middle", "Renewed", "Leaf"])
async def test_child_draws_from_its_parent_however_it_comes_to_its_first_call(
    running: Start, kind: str
) -> None:
    """Grandchildren of a silent child, and a child's later runs, find the budget."""
    fleet = await fleet_of(running)
    fleet.provider.default(Reply("fine", usage=DEAR))

    async with started(
        fleet, Root.run, f"{2 * WORST}", kind, 3, workflows=WORKFLOWS
    ) as handle:
        replies = await handle.result()
        costs = await costs_of(handle)

    assert 2 == replies.count("fine") == fleet.provider.accounting.calls
    assert 2 * Decimal("0.0026") == costs.cost_usd


async def test_child_that_is_tried_again_gets_money_again(running: Start) -> None:
    """Its first run stays charged at its grant; the second is answered at once."""
    fleet = await fleet_of(running, 4 * WORST)
    fleet.provider.script(Reply("never", gate=asyncio.Event()))
    fleet.provider.default(Reply("fine", usage=CHEAP))

    async with started(fleet, Persistent.run, workflows=WORKFLOWS) as handle:
        replies = await asyncio.wait_for(handle.result(), 20)
        costs = await costs_of(handle)

    assert ["fine"] == replies
    assert costs.cost_usd > WORST - Decimal("0.001")
    assert costs.reserved_usd == 0


async def test_children_of_an_earlier_run_do_not_hold_money_for_ever(
    running: Start,
) -> None:
    """A child that dies with its parent's run is charged its grant by the next run."""
    fleet = await fleet_of(running, 2 * WORST)
    fleet.provider.on(
        lambda request: "hangs" in request.text, Reply("never", gate=asyncio.Event())
    )
    fleet.provider.default(Reply("fine", usage=DEAR))

    async with started(fleet, Forgetful.run, True, workflows=WORKFLOWS) as handle:
        reply = await asyncio.wait_for(handle.result(), 30)
        costs = await costs_of(handle)

    assert reply.startswith("denied")
    assert costs.reserved_usd == 0


async def test_failed_second_start_leaves_the_first_child_alone(running: Start) -> None:
    """A child that runs already keeps its grant and its limit."""
    fleet = await fleet_of(running, 6 * WORST)
    fleet.provider.default(Reply("fine", usage=DEAR))

    async with started(fleet, Doubled.run, workflows=WORKFLOWS) as handle:
        assert "2" == await handle.result()
        costs = await costs_of(handle)

    assert 2 * Decimal("0.0026") == costs.cost_usd


async def test_cancelled_ask_pays_for_nothing(running: Start) -> None:
    """A call that is cancelled while its workflow asks for money is not made."""
    fleet = await fleet_of(running, 40 * WORST)
    fleet.provider.default(Reply("fine", usage=DEAR, delay=timedelta(seconds=3)))

    async with started(fleet, Parent.run, "Hasty", 4, workflows=WORKFLOWS) as handle:
        cancelled = int(await handle.result())
        costs = await costs_of(handle)

    assert cancelled >= 2
    assert fleet.provider.accounting.calls - len(fleet.provider.accounting.aborted) <= (
        4 - cancelled
    )
    assert costs.reserved_usd == 0


async def test_cancel_before_an_attempt_is_sent_leaves_nothing_reserved(
    running: Start,
) -> None:
    """A reservation whose attempt never goes out is given back at once."""
    fleet = await fleet_of(running, WORST)
    fleet.provider.script(RateLimited())
    fleet.provider.default(Reply("fine", usage=CHEAP))

    async with started(fleet, Twice.run, workflows=WORKFLOWS) as handle:
        reply = await asyncio.wait_for(handle.result(), 20)
        costs = await costs_of(handle)

    assert "fine" == reply
    assert costs.reserved_usd == 0


async def test_small_call_of_a_child_does_not_wait_behind_a_large_one(
    running: Start,
) -> None:
    """While one call waits for a higher budget, another is paid for."""
    fleet = await fleet_of(running, WORST, "wait_for_raise: 20s, ")
    fleet.provider.default(Reply("fine", usage=CHEAP))

    async with started(fleet, Parent.run, "Mixed", 0, workflows=WORKFLOWS) as handle:
        assert "['fine', 'at once']" == await handle.result()


async def test_raise_reaches_a_grandchild(running: Start) -> None:
    """`raise_budget` at the root lets a leaf go on that waits for it."""
    fleet = await fleet_of(running, WORST, "wait_for_raise: 60s, ")
    fleet.provider.default(Reply("fine", usage=DEAR))

    async with started(fleet, Parent.run, "Middle", 2, workflows=WORKFLOWS) as handle:
        await fleet.provider.until(lambda books: books.calls == 1)
        await asyncio.sleep(1)
        await handle.execute_update("raise_budget", f"{3 * WORST}")
        reply = await asyncio.wait_for(handle.result(), 15)

    assert "['fine', 'fine']" == reply


async def test_mended_code_of_a_child_goes_on(
    running: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug in a child fails its task, and leaves nothing that a fix cannot replay."""
    fleet = await fleet_of(running, 4 * WORST)
    fleet.provider.default(Reply("fine", usage=CHEAP))
    monkeypatch.setattr(Buggy, "mended", False)

    async with fleet.worker(
        *WORKFLOWS, workflow_runner=UnsandboxedWorkflowRunner()
    ) as queue:
        handle = await fleet.client.start_workflow(
            Parent.run, args=["Buggy", 0], id=f"own-{uuid4().hex[:8]}", task_queue=queue
        )
        await fleet.provider.until(lambda books: books.calls == 1)
        await asyncio.sleep(1)
        monkeypatch.setattr(Buggy, "mended", True)
        reply = await asyncio.wait_for(handle.result(), 30)
        costs = await costs_of(handle)

    assert "['fine', 'fine']" == reply
    assert (0, 2 * Decimal("0.00007")) == (costs.reserved_usd, costs.cost_usd)


async def test_siblings_do_not_wait_for_each_other_for_ever(running: Start) -> None:
    """Both ask while they hold money that may come back, and none of it does."""
    fleet = await fleet_of(running, 2 * WORST + Decimal("0.001"))
    fleet.provider.default(NoUsage("fine", delay=timedelta(seconds=2)))

    async with started(fleet, Rivals.run, workflows=WORKFLOWS) as handle:
        replies = await asyncio.wait_for(handle.result(), 30)

    assert ["fine", "fine"] == [small for small, _ in replies]
    assert all(large.startswith("denied") for _, large in replies)
