"""What the recorder reads from Temporal, against what the provider saw."""

import asyncio
import time
from collections import Counter
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import pytest
from temporalio import workflow

from tierpool.client import flow_result
from tierpool.contracts import Usage
from tierpool.errors import UnknownName
from tierpool.pools.recorded import Recorded, recorded_calls
from tierpool.testing import RateLimited, Reply
from tierpool.worker import Served
from tierpool.workflows import call_agent

from .conftest import Command, Running, Start, nano
from .resets import reset, task_ends

ROLES = """
agents:
  clerk: {prompt: "Work.\\n", tier: nano}
  judge: {prompt: "Judge.\\n", tier: premium}
  tests: {type: command, run: ["true"]}
flows:
  work:
    initial: incoming
    transitions:
      "incoming -> worked": {agent: clerk, verify: tests}
      "worked -> done": {agent: judge}
"""
HOUR = timedelta(hours=1)
WITHOUT_CONTROL = Served(flows=True, pools=("nano", "standard", "premium"), tools=True)


@workflow.defn
class RecordedOwnWorkflow:
    @workflow.run
    async def run(self) -> str:
        return await call_agent("clerk", "some text", output=str)


async def recorded(fleet: Running, **more: Any) -> Recorded:
    return await recorded_calls(fleet.client, fleet.fleet, HOUR, **more)


async def test_calls_are_recorded_with_times_and_tokens(running: Start) -> None:
    """Of work items and tools; a refused attempt is a call that failed."""
    fleet = await running(ROLES, served=WITHOUT_CONTROL)
    fleet.provider.script(RateLimited())
    fleet.provider.default(Reply("fine", usage=Usage(input_tokens=90, output_tokens=7)))
    items = [await fleet.start("work") for _ in range(3)]
    await asyncio.gather(*(flow_result(item) for item in items))

    seen = await recorded(fleet)

    assert {"nano": 4, "premium": 3, "tools": 3} == Counter(c.tier for c in seen.calls)
    assert {"clerk": 4, "judge": 3, "tests": 3} == Counter(c.role for c in seen.calls)
    assert {item.id for item in items} == {call.item for call in seen.calls}
    answered = [c for c in seen.calls if c.tier != "tools" and not c.failed]
    assert [(90, 7, True)] * 6 == [
        (c.input_tokens, c.output_tokens, c.usage_known) for c in answered
    ]
    (refused,) = (c for c in seen.calls if c.failed)
    assert ("clerk", 0, 0) == (
        refused.role,
        refused.input_tokens,
        refused.output_tokens,
    )
    times = [call.seconds for call in seen.calls]
    assert sorted(times) == times
    assert seen.begin.timestamp() <= times[0] <= times[-1] <= seen.end.timestamp()
    assert (0, 3) == (seen.unfinished, seen.workflows)
    assert () == seen.notes


async def test_waits_and_durations_are_those_of_the_calls(running: Start) -> None:
    """One call holds the only instance for half a second while another one waits."""
    fleet = await running(ROLES, served=WITHOUT_CONTROL)
    nano(fleet).resize(1)
    gate = asyncio.Event()
    fleet.provider.script(Reply("slow", gate=gate))
    fleet.provider.default(Reply("fine"))
    items = [await fleet.start("work") for _ in range(2)]
    await fleet.provider.until(lambda books: books.in_flight == 1)
    under_way = await recorded(fleet)
    while under_way.unfinished < 2:
        under_way = await recorded(fleet, tiers=["nano"])

    await asyncio.sleep(0.5)
    gate.set()
    await asyncio.gather(*(flow_result(item) for item in items))
    seen = await recorded(fleet, tiers=["nano"])

    assert ((), 2) == (under_way.calls, under_way.unfinished)
    assert "2 calls wait or are under way" in under_way.notes[0]
    slow, late = sorted(seen.calls, key=lambda call: call.wait_seconds)
    assert slow.duration_seconds >= 0.5
    assert late.wait_seconds >= 0.5
    assert slow.seconds + slow.wait_seconds + slow.duration_seconds <= (
        late.seconds + late.wait_seconds + 0.001
    )
    assert 0 == seen.unfinished


async def test_own_workflows_are_found_by_what_they_leave(running: Start) -> None:
    """Once ended; or by their type. Calls of another fleet are not among them."""
    another = await running(ROLES, served=WITHOUT_CONTROL)
    another.provider.default(Reply("fine"))
    async with another.worker(RecordedOwnWorkflow) as queue:
        await another.client.execute_workflow(
            RecordedOwnWorkflow.run, id=f"another-{queue}", task_queue=queue
        )
    fleet = await running(ROLES, served=WITHOUT_CONTROL)
    gate = asyncio.Event()
    fleet.provider.script(Reply("fine"), Reply("late", gate=gate))
    async with fleet.worker(RecordedOwnWorkflow) as queue:
        first, second = f"first-{queue}", f"second-{queue}"
        run = fleet.client.execute_workflow
        await run(RecordedOwnWorkflow.run, id=first, task_queue=queue)
        handle = await fleet.client.start_workflow(
            RecordedOwnWorkflow.run, id=second, task_queue=queue
        )
        await fleet.provider.until(lambda books: books.in_flight == 1)

        seen = await recorded(fleet)
        gate.set()
        await handle.result()
        after = await recorded(fleet, types=["RecordedOwnWorkflow"])

    assert [first] == [call.item for call in seen.calls]
    assert 1 == seen.unfinished
    assert [first, second] == [call.item for call in after.calls]
    assert {"nano"} == {call.tier for call in after.calls}


async def test_what_was_before_the_time_is_left_out(running: Start) -> None:
    """Whole items, and the early calls of an item that has ended since."""
    fleet = await running(ROLES, served=WITHOUT_CONTROL)
    gate = asyncio.Event()
    fleet.provider.script(Reply("a"), Reply("b"), Reply("c", gate=gate))
    fleet.provider.default(Reply("fine"))
    await fleet.run("work")
    long = await fleet.start("work")
    await fleet.provider.until(lambda books: books.in_flight == 1)
    begin = time.monotonic()
    await asyncio.sleep(0.5)
    gate.set()
    await flow_result(long)

    since = timedelta(seconds=time.monotonic() - begin)
    seen = await recorded_calls(fleet.client, fleet.fleet, since)

    assert ["tests", "judge"] == [call.role for call in seen.calls]
    assert {long.id} == {call.item for call in seen.calls}


async def test_a_reset_repeats_no_call(running: Start) -> None:
    """The new run's history has a copy of the calls before the reset."""
    fleet = await running(ROLES, served=WITHOUT_CONTROL)
    fleet.provider.default(Reply("fine"))
    handle = await fleet.start("work")
    await flow_result(handle)
    last = (await task_ends(handle))[-1]
    await reset(fleet.client, handle, last)
    await flow_result(handle)

    seen = await recorded(fleet, tiers=["nano"])

    assert 1 == len(seen.calls)


async def test_an_unknown_tier_is_named(running: Start) -> None:
    fleet = await running(ROLES, served=WITHOUT_CONTROL)

    with pytest.raises(UnknownName, match="did you mean 'nano'"):
        await recorded(fleet, tiers=["nanno"])


async def test_recorded_calls_are_replayed(
    running: Start, tierpool: Command, tmp_path: Path
) -> None:
    """Written as CSV and simulated; or simulated at once; the tokens cost the same."""
    fleet = await running(ROLES, served=WITHOUT_CONTROL)
    fleet.provider.default(Reply("fine", usage=Usage(input_tokens=90, output_tokens=7)))
    items = [await fleet.start("work") for _ in range(4)]
    await asyncio.gather(*(flow_result(item) for item in items))

    written = await tierpool("simulate", "--record", "calls.csv", "--tier", "nano")
    each = await tierpool("simulate", "--record", "each.csv", "--all", "--json")
    of_file = await replayed(tierpool, "calls.csv")
    at_once = await replayed(tierpool, "recorded:1h")

    assert "calls.csv: 4 calls of nano\n" == written.out
    assert 5 == len((tmp_path / "calls.csv").read_text().splitlines())
    assert ["each-nano.csv", "each-premium.csv"] == [
        one["file"] for one in cast(Any, each.json)["written"]
    ]
    cost = 4 * (90 * 1 + 7 * 2) / Decimal(1_000_000)
    for told in (of_file, at_once):
        assert (4, cost) == (told["calls"], Decimal(told["cost_usd"]))
        assert "durations: measured durations of the trace" in told["assumed"]
    assert of_file["policies"][0]["instance_hours"] == pytest.approx(
        at_once["policies"][0]["instance_hours"], rel=0.01
    )


async def replayed(tierpool: Command, trace: str) -> Any:
    ran = await tierpool("simulate", "--trace", trace, "--tier", "nano", "--json")
    assert (0, "") == (ran.status, ran.err)
    return cast(Any, ran.json)["pools"][0]


async def test_nothing_recorded_and_no_server_are_told(
    running: Start, tierpool: Command
) -> None:
    await running(ROLES, served=WITHOUT_CONTROL)

    nothing = await tierpool("simulate", "--record", "calls.csv")
    nobody = await tierpool(
        "simulate", "--record", "calls.csv", TEMPORAL_ADDRESS="127.0.0.1:1"
    )

    assert 2 == nothing.status
    assert "no call of nano, standard, premium has ended since" in nothing.err
    assert 3 == nobody.status
