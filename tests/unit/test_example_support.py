"""The example fleet: its file, its texts, and where the rules send them."""

from __future__ import annotations

from collections import Counter
from itertools import product
from pathlib import Path

import pytest

from tierpool.config import load_fleet
from tierpool.contracts import RouteRequest, WorkItem
from tierpool.fleet import LoadedFleet
from tierpool.flow import Reply, RunRole, Take, Visit
from tierpool.routing.classifier import RulesClassifier
from tierpool.routing.policy import decide
from tierpool.workflows.render import render_for_model

SUPPORT = Path(__file__).parents[2] / "examples" / "support"
ITEMS = sorted((SUPPORT / "items").glob("*.md"))
PROMPTS = sorted((SUPPORT / "prompts").glob("*.md"))
REPLIES: dict[str, list[Reply]] = {
    "triager": [{"kind": kind} for kind in ("bug", "question", "change")],
    "solver": [{"action": action} for action in ("explain", "fix", "ask_back")],
    "reviewer": [{"verdict": verdict} for verdict in ("accept", "rework")],
}


@pytest.fixture(scope="module")
def fleet() -> LoadedFleet:
    """The example fleet."""
    return load_fleet(SUPPORT / "agents.yaml")


def test_example_loads_without_a_warning(fleet: LoadedFleet) -> None:
    """The file has no errors and nothing that is not enforced."""
    assert fleet.warnings == ()
    assert list(fleet.fleet.tiers) == ["nano", "standard", "premium"]


def test_example_prices_rise_with_the_tier(fleet: LoadedFleet) -> None:
    """Tiers are ordered, cheapest first, and their prices say where they come from."""
    prices = [tier.models[0].price for tier in fleet.snapshot.tiers.values()]

    inputs = [price.input_usd_per_mtok for price in prices]
    outputs = [price.output_usd_per_mtok for price in prices]

    assert sorted(set(inputs)) == inputs
    assert sorted(set(outputs)) == outputs
    assert all("example" in price.source for price in prices)


@pytest.mark.parametrize(
    "replies",
    list(product(*REPLIES.values())),
    ids=lambda replies: "-".join(str(v) for r in replies for v in r.values()),
)
def test_every_item_ends_whatever_the_roles_say(
    fleet: LoadedFleet, replies: tuple[Reply, ...]
) -> None:
    """A small model's verdicts are worthless: no path to the end depends on one."""
    said = dict(zip(REPLIES, replies, strict=True))
    flow = fleet.fleet.flows["ticket"]
    state, last, ran = flow.initial, Reply(), []

    while flow.leaving(state):
        visit = Visit(flow, state, Counter(), last)
        while isinstance(decision := visit.decide(), RunRole):
            ran.append(decision.role)
            visit.replied(decision.role, said[decision.role])
        assert isinstance(decision, Take)
        state, last = decision.target, visit.last_reply

    accepted = said["reviewer"] == {"verdict": "accept"}
    assert ran == ["triager", "solver", "reviewer"]
    assert state == ("done" if accepted else "needs_rework")


@pytest.mark.parametrize("path", ITEMS, ids=lambda path: path.stem)
def test_items_are_short_texts_with_a_title(path: Path) -> None:
    """A text fits a small model: a title, then at most 120 words."""
    title, _, body = path.read_text().partition("\n")

    assert title.startswith("# ")
    assert 5 <= len(body.split()) <= 120


@pytest.mark.parametrize("path", PROMPTS, ids=lambda path: path.stem)
def test_prompts_are_short(path: Path) -> None:
    """A prompt takes little of a small model's time."""
    assert 0 < len(path.read_text().split()) < 60


def test_items_use_every_tier(fleet: LoadedFleet) -> None:
    """Short questions go to nano, changes of many files to premium, the rest between."""
    tiers: dict[str, set[str]] = {name: set() for name in fleet.fleet.tiers}
    for path in ITEMS:
        title, _, body = path.read_text().partition("\n")
        item = WorkItem(id=path.stem, title=title.removeprefix("# "), text=body.strip())
        request = RouteRequest(
            role="solver",
            fleet=fleet.packed_for("ticket"),
            text=render_for_model(item, None, {"kind": "bug"}),
        )
        answer = decide(request, fleet.snapshot, RulesClassifier())
        assert answer.route is not None
        tiers[answer.route.tier].add(path.stem)

    assert len(ITEMS) >= 12
    assert tiers["nano"] == {"change-language", "dark-theme", "invoice-copy"}
    assert tiers["premium"] == {"room-limit-diff", "token-rotation-diff"}
    assert len(tiers["standard"]) == len(ITEMS) - 5
