"""What the Web UI shows of an item: its current details and its summaries."""

import asyncio
import re
from datetime import timedelta

from temporalio.api.sdk.v1 import WorkflowMetadata
from temporalio.client import WorkflowHandle

from tierpool import flow_result
from tierpool.client import ItemHandle
from tierpool.contracts import HumanDecision, ItemStatus
from tierpool.testing import RateLimited, Reply

from .conftest import Start

RELEASE = """
agents:
  planner: {prompt: "Plan.\\n", tier: nano}
  approver: {type: human, output: {verdict: [approve, reject], note: string}}
flows:
  release:
    initial: incoming
    transitions:
      "incoming -> planned": {agent: planner}
      "planned -> done": {agent: approver, when: {verdict: approve}}
      "planned -> abandoned": {}
"""


async def details(handle: ItemHandle) -> list[str]:
    """Read the lines of an item's current details."""
    answer = await handle.query(
        "__temporal_workflow_metadata", result_type=WorkflowMetadata
    )
    return [line for line in answer.current_details.splitlines() if line]


async def until_a_human_is_asked(handle: ItemHandle) -> None:
    while not (await handle.query("status", result_type=ItemStatus)).waiting_for:
        pass


async def summaries(handle: WorkflowHandle, kind: str) -> list[str]:  # type: ignore[type-arg]
    """Read the summaries of all events of a kind."""
    history = await handle.fetch_history()
    return [
        event.user_metadata.summary.data.decode().strip('"')
        for event in history.events
        if event.HasField(kind)  # type: ignore[arg-type]
    ]


async def test_details_say_what_a_person_has_to_send(running: Start) -> None:
    """While a human role waits, the details name the update and the reply's fields."""
    fleet = await running(RELEASE)
    fleet.provider.script(Reply("the plan"))

    handle = await fleet.start("release")
    await until_a_human_is_asked(handle)

    where, waits, *table = await details(handle)
    assert where.startswith("**planned** · 1 attempt · $")
    assert waits == (
        "waits for **approver**: send the update `decide` with "
        '`{"reply": {"note": <string>, "verdict": "approve" or "reject"}}`'
    )
    assert len(table) == 3


async def test_details_of_an_ended_item_name_its_last_state(running: Start) -> None:
    """What an item waited for is gone, and the state is the one it ended in."""
    fleet = await running(RELEASE)
    fleet.provider.script(Reply("the plan"))
    handle = await fleet.start("release")
    await until_a_human_is_asked(handle)

    decision = HumanDecision(reply={"verdict": "reject", "note": "not yet"})
    await handle.execute_update("decide", decision)
    await flow_result(handle)

    where, *table = await details(handle)
    assert where.startswith("**abandoned** · 1 attempt · $")
    assert len(table) == 3


async def test_details_of_a_paused_item_say_how_it_goes_on(running: Start) -> None:
    """An item that is paused between two attempts names the update that helps."""
    fleet = await running(RELEASE.replace("type: human, ", 'prompt: "Approve.\\n", '))
    gate = asyncio.Event()
    fleet.provider.script(Reply("the plan", gate=gate))
    handle = await fleet.start("release")
    await fleet.provider.until(lambda books: books.calls == 1)

    await handle.execute_update("pause")
    gate.set()
    lines = await details(handle)
    while not lines[0].startswith("**planned**"):
        lines = await details(handle)

    assert lines[1] == "paused: send the update `resume` to go on"


async def test_wait_for_a_provider_says_for_whom_and_why(running: Start) -> None:
    """The timer names provider, time and reason once; the next attempt is counted."""
    fleet = await running(RELEASE)
    fleet.provider.script(RateLimited(wait=timedelta(seconds=1)), Reply("the plan"))

    handle = await fleet.start("release")
    await until_a_human_is_asked(handle)

    (timer,) = await summaries(handle, "timer_started_event_attributes")
    attempts = await summaries(handle, "activity_task_scheduled_event_attributes")
    assert timer.startswith("waits for openai until ")
    assert "UTC · HTTP 429 " in timer
    assert [re.sub(r"≤ \$[\d.]+", "≤ $", summary) for summary in attempts] == [
        "planner · nano · ≤ $ · fixed by the role",
        "planner · nano · attempt 2 · ≤ $ · fixed by the role",
    ]


async def test_title_with_markup_shows_as_it_is(running: Start) -> None:
    """The Web UI renders the summary as Markdown and drops unknown tags."""
    fleet = await running(RELEASE)
    fleet.provider.script(Reply("the plan"))

    handle = await fleet.start("release", {"title": "Sort List<Item> by *name*"})

    described = await handle.describe()
    assert await described.static_summary() == r"Sort List\<Item\> by \*name\*"
