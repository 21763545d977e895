"""Models that a run passes by, and for how long."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from tierpool.blueprint import Price
from tierpool.contracts import FailureDetail, NextStep, Outcome, Route
from tierpool.fleet import FleetSnapshot, ModelSnapshot, TierSnapshot
from tierpool.workflows.failover import Unavailable, patience

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
PRICE = Price(input_usd_per_mtok=Decimal(1), output_usd_per_mtok=Decimal(1))


def model(name: str, queue: str) -> ModelSnapshot:
    return ModelSnapshot(model=f"openai:{name}", queue=queue, price=PRICE)


SNAPSHOT = FleetSnapshot(
    fleet="acme",
    tiers={
        "nano": TierSnapshot(
            models=(model("a", "q0"), model("b", "q1"), model("c", "q2")),
            max_output_tokens=10,
        ),
        "premium": TierSnapshot(models=(model("d", "p0"),), max_output_tokens=10),
    },
    roles={},
)
ROUTE = SNAPSHOT.route_to("nano", "fixed by the role")


def failure(seconds: float | None = None) -> FailureDetail:
    wait = None if seconds is None else timedelta(seconds=seconds)
    return FailureDetail(
        outcome=Outcome.UNBILLED,
        next=NextStep.FAILOVER,
        message="down",
        provider="openai",
        retry_after=wait,
    )


@pytest.fixture
def unavailable() -> Unavailable:
    return Unavailable()


def queue_at(known: Unavailable, seconds: float, route: Route = ROUTE) -> str:
    return known.around(SNAPSHOT, route, NOON + timedelta(seconds=seconds)).queue


def test_available_model_is_kept_as_it_is(unavailable: Unavailable) -> None:
    assert ROUTE is unavailable.around(SNAPSHOT, ROUTE, NOON)


def test_calls_pass_by_for_a_minute_and_come_back(unavailable: Unavailable) -> None:
    unavailable.note("q0", failure(), NOON)
    assert ["q1", "q1", "q0"] == [queue_at(unavailable, s) for s in (0, 59, 60)]


def test_longer_wait_of_the_provider_counts(unavailable: Unavailable) -> None:
    unavailable.note("q0", failure(600), NOON)
    unavailable.note("q1", failure(5), NOON)
    assert ["q2", "q1", "q0"] == [queue_at(unavailable, s) for s in (0, 61, 601)]


@pytest.mark.parametrize(
    "failure",
    [
        failure().model_copy(update={"about_input": True}),
        failure().model_copy(update={"provider": ""}),  # nobody took it in time
    ],
)
def test_what_says_nothing_of_other_calls_is_not_noted(
    unavailable: Unavailable, failure: FailureDetail
) -> None:
    unavailable.note("q0", failure, NOON)
    assert "q0" == queue_at(unavailable, 0)


def test_worker_that_knows_better_is_believed(unavailable: Unavailable) -> None:
    told = failure().model_copy(update={"provider": "", "admitted": False})
    unavailable.note("q0", told, NOON)
    assert "q1" == queue_at(unavailable, 0)


def test_model_that_comes_back_first_is_next(unavailable: Unavailable) -> None:
    unavailable.note("q0", failure(90), NOON)
    unavailable.note("q1", failure(70), NOON)
    last = SNAPSHOT.route_to("nano", "", 2)
    found, wait = unavailable.next(SNAPSHOT, last, failure(600), NOON)
    assert ("q1", timedelta(seconds=70)) == (found.queue, wait)
    same, wait = unavailable.next(SNAPSHOT, last, failure(60), NOON)
    assert (last, None) == (same, wait)


def test_with_all_unavailable_the_route_stays(unavailable: Unavailable) -> None:
    for queue in ("q0", "q1", "q2"):
        unavailable.note(queue, failure(), NOON)
    assert "q0" == queue_at(unavailable, 0)


def test_reason_tells_of_the_model_that_is_passed_by(
    unavailable: Unavailable,
) -> None:
    unavailable.note("q0", failure(), NOON)
    route = unavailable.around(SNAPSHOT, ROUTE, NOON)
    assert ("openai:b", 1) == (route.model, route.fallback)
    assert (
        "fixed by the role; failover: openai:a left alone until 12:01:00"
        == route.reason
    )


def test_tools_have_no_models(unavailable: Unavailable) -> None:
    tool = Route(tier="", queue="acme-tools")
    assert tool is unavailable.around(SNAPSHOT, tool, NOON)
    assert None is patience(SNAPSHOT, tool)


def test_only_who_has_a_fallback_is_impatient() -> None:
    last = SNAPSHOT.route_to("nano", "", 2)
    assert timedelta(minutes=10) == patience(SNAPSHOT, ROUTE)
    assert None is patience(SNAPSHOT, last)
    assert None is patience(SNAPSHOT, SNAPSHOT.route_to("premium", ""))
