"""What `costs` and `status` say against what the provider saw."""

import asyncio
from decimal import Decimal
from typing import Any, cast

import pytest
from temporalio import workflow

from tierpool.client import flow_result
from tierpool.contracts import Usage
from tierpool.contracts.costs import COSTS_MEMO, ClosingCosts
from tierpool.testing import RateLimited, Reply
from tierpool.worker import Served
from tierpool.workflows import call_agent

from .conftest import Command, Running, Start

ROLES = """
max_concurrent: 4
guardrails: {max_cost_per_hour_usd: 50, alert_threshold_usd: 40}
agents:
  clerk: {prompt: "Work.\\n", tier: nano, max_output_tokens: 1000}
  judge: {prompt: "Judge.\\n", tier: premium, max_output_tokens: 1000, max_instances: 2}
flows:
  work:
    initial: incoming
    transitions:
      "incoming -> worked": {agent: clerk}
      "worked -> done": {agent: judge}
  small:
    initial: incoming
    transitions:
      "incoming -> done": {agent: clerk}
"""
USAGE = Usage(input_tokens=100, output_tokens=50)
NANO, PREMIUM = Decimal("0.0002"), Decimal("0.02")
"""Its cost on either tier."""
WITHOUT_CONTROL = Served(flows=True, pools=("nano", "standard", "premium"))


@workflow.defn
class OwnWorkflow:
    @workflow.run
    async def run(self) -> str:
        return await call_agent("clerk", "some text", output=str)


async def costs(tierpool: Command, *args: str) -> dict[str, Any]:
    ran = await tierpool("costs", "--json", *args)
    assert (0, "") == (ran.status, ran.err)
    return cast(dict[str, Any], ran.json)


async def until_booked(tierpool: Command, calls: int) -> dict[str, Any]:
    """Wait until the workers have told the ledger of so many calls."""
    told: dict[str, Any] = {}
    async with asyncio.timeout(40):
        while not told or told["total"]["calls"] < calls:
            told = await costs(tierpool, "--since", "2h")
    return told


def rows(told: dict[str, Any], *fields: str) -> dict[str, tuple[Any, ...]]:
    return {row["key"]: tuple(row[name] for name in fields) for row in told["rows"]}


async def worked(fleet: Running) -> None:
    """Make 3 calls of the dear tier, 4 of the cheap one, and one that is refused."""
    fleet.provider.script(RateLimited())
    fleet.provider.default(Reply("fine", usage=USAGE))
    await fleet.run("small")
    items = [await fleet.start("work") for _ in range(3)]
    await asyncio.gather(*(flow_result(item) for item in items))


async def test_costs_are_what_the_provider_billed(
    running: Start, tierpool: Command
) -> None:
    """To the last digit, in every dimension; the refused call is unbilled."""
    fleet = await running(ROLES)
    await worked(fleet)
    books = fleet.provider.accounting

    by_role = await until_booked(tierpool, 8)
    total = by_role["total"]
    settled = 4 * NANO + 3 * PREMIUM

    assert (8, 7) == (books.calls, books.billed_calls)
    assert "ledger" == by_role["source"]
    assert (8, 1, 0) == (total["calls"], total["unbilled"], total["unknown"])
    assert (books.usage.input_tokens, books.usage.output_tokens) == (
        total["input_tokens"],
        total["output_tokens"],
    )
    assert settled == Decimal(total["settled_usd"])
    assert Decimal(total["reserved_usd"]) > settled
    assert 7 * PREMIUM == Decimal(total["top_usd"])
    assert 7 * PREMIUM - settled == Decimal(by_role["saved_at_most_usd"])
    assert {"judge": (3,), "clerk": (5,)} == rows(by_role, "calls")
    tiers = await costs(tierpool, "--by", "tier")
    assert ["nano", "premium"] == [row["key"] for row in tiers["rows"]]
    assert {"nano": 5 / 8, "premium": 3 / 8} == {
        share["tier"]: share["calls"] for share in tiers["tiers"]
    }
    flows = await costs(tierpool, "--by", "flow")
    assert {"work": (6,), "small": (2,)} == rows(flows, "calls")
    models = await costs(tierpool, "--by", "model")
    assert {"openai:large": (3,), "openai:small": (5,)} == rows(models, "calls")
    hours = await costs(tierpool, "--by", "hour")
    assert settled == sum(Decimal(row["settled_usd"]) for row in hours["rows"])
    items = await costs(tierpool, "--by", "item")
    assert settled == Decimal(items["total"]["settled_usd"])
    assert 4 == len(items["rows"])


async def test_items_leave_their_costs_in_a_small_memo(running: Start) -> None:
    fleet = await running(ROLES)
    fleet.provider.default(Reply("fine", usage=USAGE))
    handle = await fleet.start("work")
    await flow_result(handle)

    known = await handle.describe()
    left = await known.memo_value(COSTS_MEMO, type_hint=ClosingCosts)

    assert (fleet.fleet.name, handle.id, "work") == (left.fleet, left.item, left.flow)
    assert NANO + PREMIUM == left.cost_usd
    assert [("judge", PREMIUM), ("clerk", NANO)] == [
        (total.role, total.settled_usd) for total in left.totals
    ]
    assert known.raw_description.workflow_execution_info.memo.ByteSize() < 2048


async def test_own_workflows_and_running_items_are_among_the_items(
    running: Start, tierpool: Command
) -> None:
    """Also one that was denied, and one whose call is under way."""
    fleet = await running(ROLES)
    fleet.provider.default(Reply("fine", usage=USAGE))
    async with fleet.worker(OwnWorkflow) as queue:
        handle = await fleet.client.start_workflow(
            OwnWorkflow.run, id=f"own-{fleet.fleet.name}", task_queue=queue
        )
        await handle.result()
    denied = await fleet.start("work", budget_usd="0.003")
    await flow_result(denied)
    gate = asyncio.Event()
    fleet.provider.script(Reply("fine", usage=USAGE), Reply("late", gate=gate))
    under_way = await fleet.start("work")
    await fleet.provider.until(lambda books: books.in_flight == 1)
    await until_booked(tierpool, 3)

    told = await costs(tierpool, "--by", "item")
    ran = await tierpool("costs", "--by", "item")
    await under_way.terminate()
    after = await costs(tierpool, "--by", "item")
    gate.set()

    calls = {handle.id: 1, denied.id: 1, under_way.id: 1}
    assert calls == {row["key"]: row["calls"] for row in told["rows"]}
    assert (2, 1, 0) == (
        told["closed_items"],
        told["running_items"],
        told["unasked_items"],
    )
    assert calls == {row["key"]: row["calls"] for row in after["rows"]}
    assert (3, 0, 0) == (
        after["closed_items"],
        after["running_items"],
        after["unasked_items"],
    )
    (denial,) = told["denials"]
    assert ("judge", "premium", 1) == (denial["role"], denial["tier"], denial["times"])
    assert "denied by budgets: judge · premium, 1 time;" in ran.out


async def test_without_a_control_worker_items_tell(
    running: Start, tierpool: Command
) -> None:
    """It says what is missing, and does not wait for long."""
    fleet = await running(ROLES.split("agents:")[0].replace("max", "#max").replace(
        "guardrails", "#guardrails") + "agents:" + ROLES.split("agents:")[1].replace(
        ", max_instances: 2", ""), served=WITHOUT_CONTROL)  # fmt: skip
    await worked(fleet)

    told = await costs(tierpool)
    status = await tierpool("status")

    assert "items" == told["source"]
    assert 4 * NANO + 3 * PREMIUM == Decimal(told["total"]["settled_usd"])
    assert "the fleet has no ledger" in told["notes"][0]
    assert 0 == status.status


@pytest.mark.parametrize(
    ("since", "words"),
    [("8d", "is not within 7 days"), ("soon", "is no time"), ("0h", "not within")],
)
async def test_times_that_are_none_are_refused(
    tierpool: Command, since: str, words: str
) -> None:
    ran = await tierpool("costs", "--since", since)

    assert 2 == ran.status
    assert words in ran.err


async def test_status_shows_what_the_whole_fleet_has_used(
    running: Start, tierpool: Command
) -> None:
    """Dollars, calls at a time and claims; who holds one and who waits."""
    fleet = await running(ROLES)
    gate = asyncio.Event()
    fleet.provider.on(
        lambda request: request.model == "large", Reply("ok", gate=gate, usage=USAGE)
    )
    fleet.provider.default(Reply("fine", usage=USAGE))
    items = [await fleet.start("work") for _ in range(3)]
    await fleet.provider.until(lambda books: books.calls == 5)

    shared: dict[str, Any] = {}
    async with asyncio.timeout(30):
        while not shared or Decimal(shared["ledger"]["hour_usd"]) < 3 * NANO:
            ran = await tierpool("status", "--json")
            assert isinstance(ran.json, dict)
            shared = ran.json["shared"]
    shown = await tierpool("status")
    gate.set()
    await asyncio.gather(*(flow_result(item) for item in items))

    calls = {limit["resource"]: limit for limit in shared["ledger"]["limits"]}["calls"]
    assert ("max_concurrent", 2, 4) == (calls["name"], calls["reserved"], calls["cap"])
    assert ("running", 2, 1) == (
        shared["claims"]["life"],
        shared["claims"]["held"],
        shared["claims"]["waiting"],
    )
    assert "max_concurrent: 2 in use" in shown.out
    assert "at most $50.0000, alert at $40.0000" in shown.out
    assert "max_instances of judge: 2 of 2 in use, 1 waiting" in shown.out
    held = {f"judge/{item.id}" for item in items}
    assert sum(name in shown.out for name in held) == 3


async def test_status_names_limits_that_nobody_keeps_and_those_that_differ(
    running: Start, tierpool: Command
) -> None:
    await running(ROLES, served=Served(flows=True))
    nobody = await tierpool("status")
    await running(ROLES, served=WITHOUT_CONTROL)
    silent = await tierpool("status")
    fleet = await running(ROLES)
    await worked(fleet)
    path = fleet.fleet.path
    path.write_text(path.read_text().replace("max_concurrent: 4", "max_concurrent: 9"))
    differs = await tierpool("status")

    assert "no ledger keeps max_concurrent, max_cost_per_hour_usd yet" in nobody.out
    assert "no control worker has answered for it within 3 s" in silent.out
    assert "start one: tierpool worker --control" in silent.out
    assert "max_concurrent is 4, here 9" in differs.out
