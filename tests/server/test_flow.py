"""Flows on a real server: transitions, verification, escalation, human states."""

import asyncio
import json
from decimal import Decimal

import pytest
from temporalio.client import WorkflowUpdateFailedError
from temporalio.common import SearchAttributeKey

from tierpool import flow_result
from tierpool.contracts import HumanDecision, ItemCosts, ItemStatus, Usage
from tierpool.testing import Fail, Reply

from .conftest import Start

REVIEWED = """
agents:
  planner: {prompt: "Plan.\\n", tier: nano}
  reviewer:
    prompt: "Review.\\n"
    tier: standard
    output: {verdict: [approve, reject], notes: string}
flows:
  feature:
    initial: incoming
    transitions:
      "incoming -> planned": {agent: planner}
      "planned -> done": {agent: reviewer, when: {verdict: approve}}
      "planned -> incoming": {when: {verdict: reject}, max_visits: 1}
      "planned -> abandoned": {}
"""


async def test_item_moves_to_a_terminal_state(running: Start) -> None:
    """An item visits the declared states, and its cost is that of its usage."""
    fleet = await running(REVIEWED)
    fleet.provider.script(
        Reply("the plan", usage=Usage(input_tokens=100, output_tokens=10)),
        Reply(
            json={"verdict": "approve", "notes": "fine"},
            usage=Usage(input_tokens=200, output_tokens=20),
        ),
    )

    result = await fleet.run("feature", {"title": "Title", "text": "Do it."})

    assert result.path == ("incoming", "planned", "done")
    assert result.reply == {"verdict": "approve", "notes": "fine"}
    assert Decimal("0.00252") == result.cost_usd
    assert Usage(input_tokens=300, output_tokens=30) == result.usage


async def test_role_sees_prompt_item_and_last_reply(running: Start) -> None:
    """A role reads its prompt, the item, and the reply before it, and no more."""
    fleet = await running(REVIEWED)
    fleet.provider.script(
        Reply("the plan"), Reply(json={"verdict": "approve", "notes": ""})
    )

    await fleet.run("feature", {"title": "Title", "text": "Do it.", "data": {"n": 1}})

    planner, reviewer = fleet.provider.requests
    assert planner.system.strip() == "Plan."
    assert planner.messages[-1][1] == '# Title\n\nDo it.\n\n## Data\n{\n "n": 1\n}'
    assert reviewer.messages[-1][1].endswith("## Last reply\nthe plan")


async def test_rejection_loops_until_max_visits(running: Start) -> None:
    """A loop is taken as often as max_visits allows; then the next transition is tried."""
    fleet = await running(REVIEWED)
    rejected = Reply(json={"verdict": "reject", "notes": "no"})
    fleet.provider.script(Reply("a"), rejected, Reply("b"), rejected)

    result = await fleet.run("feature")

    assert result.path == ("incoming", "planned", "incoming", "planned", "abandoned")


async def test_failed_call_ends_in_failed_with_reason(running: Start) -> None:
    """A call that cannot succeed ends the item in `failed`, with the reason, not in a loop."""
    fleet = await running(REVIEWED)
    fleet.provider.script(Fail(400, "the model does not like this"))

    result = await fleet.run("feature")

    assert result.state == "failed"
    assert "planner" in result.reason
    assert "400" in result.reason


async def test_no_transition_holds_names_each(running: Start) -> None:
    """An item for which nothing holds says for every transition why."""
    fleet = await running(REVIEWED.replace('      "planned -> abandoned": {}\n', ""))
    rejected = Reply(json={"verdict": "reject", "notes": "no"})
    fleet.provider.script(Reply("a"), rejected, Reply("b"), rejected)

    result = await fleet.run("feature")

    assert result.state == "failed"
    assert "planned -> done: the last reply does not match" in result.reason
    assert "max_visits" in result.reason


VERIFIED = """
agents:
  implementer: {prompt: "Implement.\\n", tier: {min: nano, max: standard}}
  checker: {prompt: "Check.\\n", tier: nano, output: {accept: boolean, reason: string}}
flows:
  feature:
    initial: incoming
    transitions:
      "incoming -> done": {agent: implementer, verify: checker, escalate: true}
      "incoming -> abandoned": {}
"""


def answering(*verdicts: bool):  # type: ignore[no-untyped-def]
    """Return a default for the provider: verdicts in turn for the checker."""
    left = list(verdicts)

    def answer(request):  # type: ignore[no-untyped-def]
        if "Check." in (request.system or ""):
            accept = left.pop(0)
            return Reply(
                json={"accept": accept, "reason": "" if accept else "too vague"}
            )
        return Reply(f"work on {request.model}")

    return answer


@pytest.fixture
def small_item() -> dict[str, str]:
    return {"title": "t", "text": "Fix the typo."}


async def test_refused_reply_escalates_with_the_refusal(
    running: Start, small_item: dict[str, str]
) -> None:
    """After a refusal the next tier gets the refused reply and the reason."""
    fleet = await running(
        VERIFIED.replace("{min: nano, max: standard}", "{min: nano, max: premium}")
    )
    fleet.provider.default(answering(False, True))

    handle = await fleet.start("feature", small_item)
    result = await flow_result(handle)

    assert result.state == "done"
    costs = await handle.query("costs", result_type=ItemCosts)
    tiers = [a.tier for a in costs.attempts if a.role == "implementer"]
    assert len(tiers) == 2
    assert list(fleet.fleet.fleet.tiers).index(tiers[0]) + 1 == list(
        fleet.fleet.fleet.tiers
    ).index(tiers[1])
    assert costs.attempts[2].reason == "escalated: checker: too vague"
    again = fleet.provider.requests[2]
    assert [who for who, _ in again.messages] == ["user", "assistant", "user"]
    assert "too vague" in again.messages[-1][1]


async def test_refusal_at_the_highest_tier_lets_the_next_transition_hold(
    running: Start, small_item: dict[str, str]
) -> None:
    """When no tier is left, the transition does not hold."""
    fleet = await running(VERIFIED)
    fleet.provider.default(answering(False, False))

    result = await fleet.run("feature", small_item)

    assert result.state == "abandoned"


HUMAN = """
agents:
  approver: {type: human, output: {verdict: [approve, reject]}}
flows:
  release:
    initial: asking
    transitions:
      "asking -> done": {agent: approver, when: {verdict: approve}}
      "asking -> abandoned": {}
"""


async def test_human_decides_by_update(running: Start) -> None:
    """A human state waits for `decide`; a reply that breaks the schema is refused."""
    fleet = await running(HUMAN)
    handle = await fleet.start("release")
    status = await handle.query("status", result_type=ItemStatus)

    with pytest.raises(WorkflowUpdateFailedError) as refused:
        await handle.execute_update("decide", HumanDecision(reply={"verdict": "maybe"}))
    await handle.execute_update("decide", HumanDecision(reply={"verdict": "approve"}))
    result = await flow_result(handle)

    assert "verdict" in str(refused.value.cause)
    assert status.waiting_for == "approver"
    assert result.state == "done"


async def test_state_timeout_tries_what_needs_no_agent(running: Start) -> None:
    """When a state's time is over, only transitions without an agent are left."""
    fleet = await running(HUMAN + "    states: {asking: {timeout: 0.5}}\n")

    result = await fleet.run("release")

    assert result.state == "abandoned"


async def test_cancel_item_ends_in_cancelled(running: Start) -> None:
    """`cancel_item` ends an item in the state cancelled, with the reason given."""
    fleet = await running(HUMAN)
    handle = await fleet.start("release")

    await handle.execute_update("cancel_item", "no longer wanted")
    result = await flow_result(handle)

    assert (result.state, result.reason) == ("cancelled", "cancelled: no longer wanted")


async def test_temporal_cancel_ends_in_cancelled(running: Start) -> None:
    """A cancel from the Web UI ends the item in the state cancelled, too."""
    fleet = await running(HUMAN)
    handle = await fleet.start("release")
    await handle.query("status", result_type=ItemStatus)

    await handle.cancel()
    result = await flow_result(handle)

    state = (await handle.describe()).typed_search_attributes.get(
        SearchAttributeKey.for_keyword("TierpoolState")
    )
    assert result.state == "cancelled"
    assert state == "cancelled"


@pytest.mark.parametrize("way", ["cancel", "terminate"])
async def test_item_that_is_stopped_tells_what_it_is_charged(
    running: Start, way: str
) -> None:
    """A call that was under way is in the result at its reservation, not at zero."""
    fleet = await running(REVIEWED)
    fleet.provider.script(Reply("never", gate=asyncio.Event()))
    handle = await fleet.start("feature")
    await fleet.provider.until(lambda books: books.in_flight == 1)

    await getattr(handle, way)()
    result = await flow_result(handle)

    costs = await handle.query("costs", result_type=ItemCosts)
    assert result.cost_usd == costs.cost_usd + costs.reserved_usd > 0
    assert 1 == result.unknown_cost_attempts


async def test_pause_starts_nothing_new(running: Start) -> None:
    """A paused item makes no further attempt until it is resumed."""
    fleet = await running(REVIEWED)
    handle = None

    def pausing(request):  # type: ignore[no-untyped-def]
        return Reply("the plan")

    fleet.provider.default(pausing)
    handle = await fleet.start("feature", id="paused-item")
    await handle.execute_update("pause")
    status = await handle.query("status", result_type=ItemStatus)
    await handle.execute_update("resume")
    fleet.provider.on(
        lambda r: "Review." in (r.system or ""),
        Reply(json={"verdict": "approve", "notes": ""}),
    )
    result = await flow_result(handle)

    assert status.paused
    assert result.state == "done"


async def test_search_attributes_and_details_tell_the_story(running: Start) -> None:
    """The Web UI shows flow, state, role, tier and cost; details have a row per attempt."""
    fleet = await running(REVIEWED)
    fleet.provider.script(
        Reply("the plan"), Reply(json={"verdict": "approve", "notes": ""})
    )

    handle = await fleet.start("feature", {"title": "A title", "text": "x"})
    result = await flow_result(handle)

    described = await handle.describe()
    found = {pair.key.name: pair.value for pair in described.typed_search_attributes}
    assert found["TierpoolFlow"] == "feature"
    assert found["TierpoolState"] == "done"
    assert found["TierpoolRole"] == "reviewer"
    assert found["TierpoolTier"] == "standard"
    assert pytest.approx(float(result.cost_usd)) == found["TierpoolCostUsd"]
    assert described.workflow_type == "feature"
    assert await described.static_summary() == "A title"
    history = json.loads((await handle.fetch_history()).to_json())
    summaries = [
        e["userMetadata"]["summary"]
        for e in history["events"]
        if e["eventType"] == "EVENT_TYPE_ACTIVITY_TASK_SCHEDULED"
    ]
    assert len(summaries) == 2


COMMANDS = """
agents:
  build:
    type: command
    run: ["sh", "-c", "cat > request.json; printf '{\\"size\\": 3}'; exit EXIT"]
    output: {size: integer}
  shout: {type: python, call: "shouting:shout"}
flows:
  make:
    initial: incoming
    transitions:
      "incoming -> built": {agent: build}
      "incoming -> broken": {}
      "built -> done": {agent: shout}
"""
SHOUT = """
async def shout(request):
    return {"said": request.item.text.upper(), "size": request.last_reply["size"]}
"""


async def test_command_and_python_roles_reply(running: Start) -> None:
    """A program and an async callable fill roles; the second sees the first's reply."""
    fleet = await running(COMMANDS.replace("EXIT", "0"), shouting__py=SHOUT)

    handle = await fleet.start("make", "hello")
    result = await flow_result(handle)

    assert ("incoming", "built", "done") == result.path
    assert {"said": "HELLO", "size": 3} == result.reply
    assert 0 == result.cost_usd
    folder = fleet.fleet.path.parent / ".tierpool" / "work"
    (request,) = folder.glob("*/request.json")
    assert "hello" == json.loads(request.read_text())["item"]["text"]


async def test_failing_program_lets_its_transition_not_hold(running: Start) -> None:
    """A non-zero exit refuses, also for a role with an `output` of its own."""
    fleet = await running(COMMANDS.replace("EXIT", "3"), shouting__py=SHOUT)

    result = await fleet.run("make", "hello")

    assert ("incoming", "broken") == result.path
    assert 3 == result.reply["exit_code"]
