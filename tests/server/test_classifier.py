"""The way of a call to its tier: fixed, by rules, by a model that is asked."""

from decimal import Decimal

import pytest
from temporalio.common import SearchAttributeKey

from tierpool import flow_result
from tierpool.contracts import Attempt, ItemCosts, Outcome, Usage
from tierpool.testing import Overloaded, Reply, SeenRequest

from .conftest import FLEET, Running, Start

DOUBTFUL = (
    "Please:\n- rename the field\n- move the button\n- explain why\nx = compute(1)"
)
"""Neither plain nor large: the rules do not trust themselves here."""

ROLES = """
agents:
  writer: {prompt: "Write.\\n", tier: {min: nano}, classifier: llm}
flows:
  feature:
    initial: incoming
    transitions:
      "incoming -> done": {agent: writer}
"""
TWO_MORE = """
  large:
    model: local:rather-large
    base_url: BASE_URL/v1
    price: {input_usd_per_mtok: 30, output_usd_per_mtok: 60}
  premium:
"""
FOUR_TIERS = FLEET.replace("\n  premium:\n", TWO_MORE)


def asks_classifier(request: SeenRequest) -> bool:
    return "<work>" in request.text


async def attempts_of(fleet: Running, text: str) -> tuple[Attempt, ...]:
    handle = await fleet.start("feature", {"title": "", "text": text})
    result = await flow_result(handle)
    assert result.state == "done"
    return (await handle.query("costs", result_type=ItemCosts)).attempts


@pytest.mark.parametrize(
    ("verdict", "tier"),
    [("NANO", "nano"), ("STANDARD", "standard"), ("PREMIUM", "large")],
)
async def test_model_moves_a_doubtful_call_by_one_tier(
    running: Start, verdict: str, tier: str
) -> None:
    """The classifier's answer moves the call one tier at most; asking is a paid attempt."""
    fleet = await running(ROLES, base=FOUR_TIERS)
    usage = Usage(input_tokens=200, output_tokens=5)
    answer = Reply(json={"tier": verdict}, usage=usage)
    fleet.provider.on(asks_classifier, answer, times=1)
    fleet.provider.default(Reply("fine"))

    asked, made = await attempts_of(fleet, DOUBTFUL)

    assert (asked.role, asked.tier, asked.usage) == ("classifier", "nano", usage)
    assert asked.cost_usd == Decimal("0.00021")
    assert (made.role, made.tier) == ("writer", tier)
    assert f"llm classifier says {verdict}" in made.reason


@pytest.mark.parametrize(
    ("answer", "outcome", "why"),
    [
        (Reply("PREMIUM, I would say"), Outcome.BILLED, "JSON"),
        (Reply(json={"tier": "GOLD"}), Outcome.BILLED, "schema"),
        (Overloaded(), Outcome.UNBILLED, "529"),
    ],
    ids=["prose", "unknown label", "overloaded"],
)
async def test_useless_answer_leaves_the_rules_choice(
    running: Start, answer: Reply | Overloaded, outcome: Outcome, why: str
) -> None:
    """Without a usable answer the rules decide, the reason says so, nobody asks twice."""
    fleet = await running(ROLES)
    fleet.provider.on(asks_classifier, answer)
    fleet.provider.default(Reply("fine"))

    asked, made = await attempts_of(fleet, DOUBTFUL)

    assert (asked.role, asked.outcome) == ("classifier", outcome)
    assert made.tier == "standard"
    assert "llm classifier failed" in made.reason
    assert "rules in doubt" in made.reason
    assert why in asked.note


async def test_sure_rules_ask_nobody(running: Start) -> None:
    """Where the rules are sure, no model is asked."""
    fleet = await running(ROLES)
    fleet.provider.default(Reply("fine"))

    (made,) = await attempts_of(fleet, "Fix the typo.")

    assert made.tier == "nano"


async def test_search_attributes_name_the_role_not_its_classifier(
    running: Start,
) -> None:
    """What works on the item is the role; asking for its tier is not a role of the flow."""
    fleet = await running(ROLES)
    fleet.provider.on(asks_classifier, Reply(json={"tier": "PREMIUM"}))
    fleet.provider.default(Reply("fine"))

    handle = await fleet.start("feature", {"title": "", "text": DOUBTFUL})
    await flow_result(handle)

    found = (await handle.describe()).typed_search_attributes
    assert found.get(SearchAttributeKey.for_keyword("TierpoolRole")) == "writer"
    assert found.get(SearchAttributeKey.for_keyword("TierpoolTier")) == "premium"


FIXED = """
agents:
  writer: {prompt: "Write.\\n", tier: nano}
  editor: {prompt: "Edit.\\n", tier: nano}
flows:
  feature:
    initial: incoming
    transitions:
      "incoming -> written": {agent: writer}
      "written -> edited": {agent: editor}
      "edited -> done": {agent: writer}
"""


async def test_fixed_tier_costs_no_classification(running: Start) -> None:
    """Roles of a fixed tier leave no marker, and at most 8 events a call."""
    fleet = await running(FIXED)
    fleet.provider.default(Reply("fine"))

    handle = await fleet.start("feature")
    result = await flow_result(handle)

    assert result.attempts == 3
    history = await handle.fetch_history()
    markers = [
        event
        for event in history.events
        if event.HasField("marker_recorded_event_attributes")
    ]
    # started, the first workflow task's three events, the closing attributes, completed
    bare = 1 + 3 + 1 + 1
    assert markers == []
    assert len(history.events) <= bare + 3 * (6 + 2)
