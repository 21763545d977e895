"""What an attempt needs of its role's limits, and what it says it has used."""

from __future__ import annotations

from decimal import Decimal

import pytest

from tierpool.blueprint import RateLimit
from tierpool.contracts import (
    AgentRequest,
    AgentResult,
    FailureDetail,
    NextStep,
    Outcome,
    Route,
    Usage,
)
from tierpool.fleet import RoleSnapshot
from tierpool.workflows.claiming import needs_of, used_of

REQUEST = AgentRequest(
    role="r",
    item_id="i",
    route=Route(tier="nano", model="openai:m"),
    input_bytes=400,
    max_output_tokens=1000,
    reserved_usd=Decimal(1),
)
RATE = RateLimit(requests_per_minute=5, tokens_per_minute=9000)
NEEDS = {"role:r": 1, "requests:r": 1, "tokens:r": 600}


@pytest.mark.parametrize(
    ("spec", "needs"),
    [
        (None, {}),
        (RoleSnapshot(), {}),
        (RoleSnapshot(rate_limit=RateLimit()), {}),
        (RoleSnapshot(max_instances=0), {"role:r": 1}),
        (RoleSnapshot(rate_limit=RateLimit(burst=2)), {"requests:r": 1}),
        (RoleSnapshot(max_instances=3, rate_limit=RATE), NEEDS),
    ],
)
def test_attempt_needs_what_its_role_limits(
    spec: RoleSnapshot | None, needs: dict[str, int]
) -> None:
    """No limits, no needs."""
    assert needs == needs_of(spec, REQUEST)


def test_tool_uses_no_tokens() -> None:
    """Only a model's role has tokens to count."""
    tool = REQUEST.model_copy(update={"route": Route(tier="", queue="tools")})

    assert {"requests:r": 1} == needs_of(RoleSnapshot(rate_limit=RATE), tool)


def failed(**more: object) -> FailureDetail:
    fields = {"outcome": Outcome.UNBILLED, "next": NextStep.RETRY, "message": "no"}
    return FailureDetail.model_validate(fields | more)


@pytest.mark.parametrize(
    ("last", "used"),
    [
        (None, {}),
        (AgentResult(usage=Usage(input_tokens=7, output_tokens=5)), {"tokens:r": 12}),
        (AgentResult(), {}),
        (failed(), {"tokens:r": 0}),
        (failed(outcome=Outcome.AMBIGUOUS), {}),
        (failed(admitted=False), {"requests:r": 0, "tokens:r": 0}),
    ],
)
def test_use_is_told_where_it_is_known(
    last: AgentResult | FailureDetail | None, used: dict[str, int]
) -> None:
    """What nobody knows stays at what was expected."""
    assert used == used_of(NEEDS, "r", last)
