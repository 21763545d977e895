"""One attempt on its way: texts by reference, sizes, failover, cancels, huge replies."""

import asyncio
import base64
import random
from datetime import timedelta

import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import PauseActivityRequest
from temporalio.client import WorkflowHistory
from temporalio.service import RPCError

from tierpool import TierpoolPlugin, flow_result, load_fleet, start_flow
from tierpool.contracts import HumanDecision, ItemCosts, Outcome, Usage
from tierpool.errors import PayloadTooLarge
from tierpool.testing import Overloaded, Reply
from tierpool.worker import Served

from .conftest import FLEET, Start, client_of, working

FLOWS = Served(flows=True)

REVIEW = """
agents:
  reviewer: {prompt: "Review.\\n", tier: nano}
flows:
  review:
    initial: incoming
    transitions:
      "incoming -> done": {agent: reviewer}
"""
APPROVED_FIRST = """
agents:
  approver: {type: human, output: {verdict: [approve, reject]}}
  reviewer: {prompt: "Review as of old.\\n", tier: nano}
flows:
  release:
    initial: asking
    transitions:
      "asking -> approved": {agent: approver}
      "approved -> done": {agent: reviewer}
"""


def long_text(characters: int) -> str:
    """Return a text in which no part repeats and some characters take several bytes."""
    line = "{:07d} größer als 5 €; "
    count = characters // len(line.format(0)) + 1
    return "".join(line.format(n) for n in range(count))[:characters].rstrip()


def scheduled_bytes(history: WorkflowHistory) -> list[int]:
    """Return the sizes of the activities' inputs in a history."""
    return [
        event.activity_task_scheduled_event_attributes.input.ByteSize()
        for event in history.events
        if event.HasField("activity_task_scheduled_event_attributes")
    ]


async def test_item_brings_its_own_prompt(running: Start) -> None:
    """A worker with another agents.yaml uses the prompt that the item was started with."""
    fleet = await running(REVIEW)
    fleet.provider.default(Reply("fine"))
    other = fleet.fleet.path.with_name("other.yaml")
    other.write_text(fleet.fleet.path.read_text().replace("Review.", "Review harder."))

    handle = await start_flow(
        fleet.client, "review", "text", id="brings-prompt", fleet=load_fleet(other)
    )
    await flow_result(handle)
    await fleet.run("review")

    prompts = [request.system for request in fleet.provider.requests]
    assert [p.strip() for p in prompts if p] == ["Review harder.", "Review."]


async def test_running_item_does_not_change_with_the_file(running: Start) -> None:
    """An item that waits while agents.yaml changes goes on as it was started."""
    fleet = await running(APPROVED_FIRST, served=FLOWS)
    fleet.provider.default(Reply("fine"))
    handle = await fleet.start("release")
    path = fleet.fleet.path
    old = path.read_text()
    path.write_text(old.replace("of old", "of late").replace(": nano", ": premium"))
    changed = load_fleet(path)
    client = client_of(fleet.client, TierpoolPlugin(changed))

    async with working(client, changed, Served(pools=("nano", "premium"))):
        late = await start_flow(client, "release", "text", id=f"{handle.id}-late")
        for item in (handle, late):
            await item.execute_update(
                "decide", HumanDecision(reply={"verdict": "approve"})
            )
            await flow_result(item)

    seen = [(r.model, (r.system or "").strip()) for r in fleet.provider.requests]
    assert seen == [("small", "Review as of old."), ("large", "Review as of late.")]


async def test_long_texts_go_by_reference_and_arrive_whole(running: Start) -> None:
    """Texts above 32 KB stand in the history once; the attempt asks the item for them."""
    fleet = await running(REVIEW)
    fleet.provider.default(Reply("fine"))
    text = long_text(100_000)

    handle = await fleet.start("review", text)
    await flow_result(handle)

    assert fleet.provider.requests[0].messages[-1][1] == text
    (size,) = scheduled_bytes(await handle.fetch_history())
    assert size < 2_000


LOOPING = """
agents:
  writer: {prompt: "Write.\\n", tier: nano}
flows:
  essay:
    initial: incoming
    transitions:
      "incoming -> written": {agent: writer}
      "written -> incoming": {max_visits: VISITS}
      "written -> done": {}
"""


async def test_largest_item_goes_its_way(running: Start) -> None:
    """An item near the limit moves on, however much its replies add to its history."""
    fleet = await running(LOOPING.replace("VISITS", "3"))
    fleet.provider.default(
        Reply("w" * 900_000, usage=Usage(input_tokens=1, output_tokens=2_000))
    )
    text = long_text(1_600_000)

    handle = await fleet.start("essay", text)
    result = await flow_result(handle)

    assert (result.state, result.attempts) == ("done", 4)
    assert all(text in request.text for request in fleet.provider.requests)
    assert max(scheduled_bytes(await handle.fetch_history())) < 2_000


async def test_long_history_goes_on_in_a_next_run(running: Start) -> None:
    """An item that continues as new keeps its path, its counts and its account."""
    fleet = await running(LOOPING.replace("VISITS", "7"))
    text = base64.b64encode(random.Random(1).randbytes(675_000)).decode()
    fleet.provider.default(
        Reply(text, usage=Usage(input_tokens=1, output_tokens=2_000))
    )

    handle = await fleet.start("essay")
    result = await flow_result(handle)

    assert (await handle.describe()).run_id != handle.first_execution_run_id
    assert result.path == ("incoming", "written") * 8 + ("done",)
    assert (result.attempts, result.usage.output_tokens) == (8, 16_000)
    costs = await handle.query("costs", result_type=ItemCosts)
    assert len(costs.attempts) == 8


async def test_item_that_does_not_fit_is_refused_at_once(running: Start) -> None:
    """An item above the limit fails in the client, which says the limit; nothing starts."""
    fleet = await running(REVIEW, served=FLOWS)

    with pytest.raises(PayloadTooLarge, match="the limit is 1,900,000"):
        await fleet.start("review", "x" * 1_900_000, id="too-large")

    with pytest.raises(RPCError, match="not found"):
        await fleet.client.get_workflow_handle("too-large").describe()


async def test_overloaded_model_fails_over(running: Start) -> None:
    """Refused twice without a price, a call goes to the fallback's own queue."""
    spare = """fallback:
      - model: openai:spare
        base_url: BASE_URL/v1
        price: {input_usd_per_mtok: 3, output_usd_per_mtok: 4}
    pool: {max_instances: 4}"""
    base = FLEET.replace("pool: {max_instances: 4}", spare, 1)
    fleet = await running(REVIEW, base=base)
    usage = Usage(input_tokens=1_000_000, output_tokens=1)
    fleet.provider.on(lambda request: request.model == "small", Overloaded())
    fleet.provider.default(Reply("fine", usage=usage))

    handle = await fleet.start("review")
    result = await flow_result(handle)

    assert result.state == "done"
    costs = await handle.query("costs", result_type=ItemCosts)
    models = [attempt.model for attempt in costs.attempts]
    assert models == ["openai:small", "openai:small", "openai:spare"]
    assert [int(a.cost_usd or 0) for a in costs.attempts] == [0, 0, 3]
    queues = [
        event.activity_task_scheduled_event_attributes.task_queue.name
        for event in (await handle.fetch_history()).events
        if event.HasField("activity_task_scheduled_event_attributes")
    ]
    assert queues[-1] == f"{fleet.fleet.name}-nano--1"


STOPPED = """
agents:
  reviewer: {prompt: "Review.\\n", tier: nano}
flows:
  review:
    initial: incoming
    transitions:
      "incoming -> done": {agent: reviewer}
  timed:
    initial: incoming
    transitions:
      "incoming -> done": {agent: reviewer}
      "incoming -> late": {}
    states: {incoming: {timeout: 3}}
"""


async def test_stopping_an_item_stops_its_provider_call(running: Start) -> None:
    """A cancel, a termination or a state's timeout closes the connection; no call follows."""
    fleet = await running(STOPPED)
    fleet.provider.default(Reply("never", gate=asyncio.Event()))
    timed = await fleet.start("timed")
    cancelled, updated, terminated = [await fleet.start("review") for _ in range(3)]
    await fleet.provider.until(lambda books: books.in_flight == 4)

    await cancelled.cancel()
    await updated.execute_update("cancel_item", "no longer wanted")
    await terminated.terminate()
    results = [await flow_result(h) for h in (cancelled, updated, terminated, timed)]
    await fleet.provider.until(lambda books: len(books.aborted) == 4)

    assert [r.state for r in results] == ["cancelled", "cancelled", "failed", "late"]
    assert fleet.provider.accounting.calls == 4
    for handle in (cancelled, updated, timed):
        (attempt,) = (await handle.query("costs", result_type=ItemCosts)).attempts
        assert attempt.outcome is Outcome.AMBIGUOUS
        assert attempt.cost_usd == attempt.reserved_usd > 0
        assert attempt.note == "cancelled"  # and not: the worker was lost


async def test_reply_too_large_for_temporal_is_billed_and_final(running: Start) -> None:
    """A reply that cannot be kept is paid for once and says its size."""
    fleet = await running(REVIEW)
    usage = Usage(input_tokens=10, output_tokens=500_000)
    fleet.provider.script(Reply("x" * 1_600_000, usage=usage))

    handle = await fleet.start("review")
    result = await flow_result(handle)

    assert result.state == "failed"
    assert "1,600,000 bytes; the limit is 1,500,000" in result.reason
    (attempt,) = (await handle.query("costs", result_type=ItemCosts)).attempts
    assert (attempt.outcome, attempt.usage) == (Outcome.BILLED, usage)
    assert result.unknown_cost_attempts == 0


async def test_operators_pause_of_an_attempt_is_not_paid_twice_unseen(
    running: Start,
) -> None:
    """Pausing a running activity ends that attempt on the record; the item makes another."""
    fleet = await running(REVIEW)
    fleet.provider.script(
        Reply("late", first_byte_delay=timedelta(seconds=60)), Reply("x")
    )
    handle = await fleet.start("review")
    await fleet.provider.until(lambda books: books.in_flight == 1)
    pending = (await handle.describe()).raw_description.pending_activities

    await fleet.client.workflow_service.pause_activity(
        PauseActivityRequest(
            namespace=fleet.client.namespace,
            execution=WorkflowExecution(workflow_id=handle.id),
            id=pending[0].activity_id,
            identity="operator",
        )
    )
    result = await flow_result(handle)

    costs = await handle.query("costs", result_type=ItemCosts)
    assert "done" == result.state
    assert ["ambiguous", "billed"] == [a.outcome.value for a in costs.attempts]
    assert "operator" in costs.attempts[0].note
    assert 2 == fleet.provider.accounting.calls
