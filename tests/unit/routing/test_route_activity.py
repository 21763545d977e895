"""The route activity: pure policy behind a name, with errors made plain."""

from __future__ import annotations

from decimal import Decimal

import pytest
from structlog.testing import capture_logs
from temporalio.testing import ActivityEnvironment

from tierpool.activities import classify
from tierpool.blueprint import Price, TierPolicy
from tierpool.contracts import RouteAnswer, RouteRequest
from tierpool.fleet import FleetSnapshot, ModelSnapshot, RoleSnapshot, TierSnapshot
from tierpool.routing.classifier import Estimate

PRICE = Price(input_usd_per_mtok=Decimal(1), output_usd_per_mtok=Decimal(2))
PACKED = FleetSnapshot(
    fleet="acme",
    tiers={
        name: TierSnapshot(
            models=(
                ModelSnapshot(
                    model=f"openai:{name}-1", queue=f"acme-{name}", price=PRICE
                ),
            ),
            max_output_tokens=100,
        )
        for name in ("nano", "standard", "premium")
    },
    roles={
        "writer": RoleSnapshot(),
        "careful": RoleSnapshot(tier=TierPolicy(min="standard")),
    },
).pack()


class Broken:
    """A classifier that fails, with the text in its message."""

    name = "broken"
    version = "1"

    def classify(self, role: str, text: str) -> Estimate:
        raise ValueError(text)


async def route(**fields: str) -> RouteAnswer:
    request = RouteRequest(fleet=PACKED, **fields)
    return await ActivityEnvironment().run(classify.route, request)


async def test_it_answers_with_the_route_of_the_rules() -> None:
    """A plain request of an open role goes to the cheapest tier."""
    answer = await route(role="writer", text="Correct the spelling of the title.")

    assert answer.route is not None
    expected = ("nano", "openai:nano-1", "acme-nano", "rules@1")
    found = answer.route
    assert expected == (found.tier, found.model, found.queue, found.classifier)


async def test_a_refused_tier_is_an_answer() -> None:
    """What the role's range is stands in the recorded answer."""
    answer = await route(role="careful", wanted="nano")

    assert answer.route is None
    assert "from standard to premium" in answer.refused


async def test_an_unknown_role_is_named() -> None:
    """With the nearest known one."""
    answer = await route(role="writr")

    assert "did you mean 'writer'" in answer.refused


async def test_a_failing_classifier_is_logged_once_without_the_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The call goes to standard, the log names role, classifier and error type."""
    monkeypatch.setattr(classify, "_CLASSIFIER", classify._Reported(Broken()))

    with capture_logs() as logs:
        answer = await route(role="writer", text="private words")

    assert answer.route is not None
    expected = ("standard", "broken failed (ValueError)")
    assert expected == (answer.route.tier, answer.route.reason)
    event = {
        "event": "classifier.failed",
        "log_level": "warning",
        "role": "writer",
        "classifier": "broken@1",
        "error": "ValueError",
    }
    assert [event] == logs
    assert "private words" not in answer.model_dump_json()
