"""Ceilings: each limit by its name, and never more than it."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierpool.scaling.ceilings import bound, ceiling
from tierpool.scaling.policy import Decision, Limits, Observation

SEEN = Observation(
    at=100.0,
    instances=4,
    busy=4,
    backlog=10,
    arrivals_per_second=2.0,
    completions_per_second=2.0,
    mean_seconds=6.0,
    tokens_per_call=2000.0,
    usd_per_call=Decimal("0.02"),
)
ROOMY = Limits(max_instances=100)


def asked(number: int, limits: Limits, seen: Observation = SEEN) -> Decision:
    """Return what becomes of a wish."""
    return bound(Decision(number, "demand", "asked", number), seen, limits)


@pytest.mark.parametrize(
    ("limit", "number", "name"),
    [
        ({"max_instances": 12}, 12, "max_instances"),
        # 60 a minute of 6 s each are 6 calls under way
        ({"requests_per_minute": 60}, 6, "requests_per_minute"),
        # 150,000 a minute are 75 calls, of 6 s: 7.5
        ({"tokens_per_minute": 150_000}, 8, "tokens_per_minute"),
        # 36 USD are 1800 calls an hour, of 6 s: 3
        ({"usd_per_hour": Decimal(36)}, 3, "max_cost_per_hour_usd"),
        ({"role_caps": 7}, 7, "role_caps"),
        ({"max_concurrent": 9}, 9, "max_concurrent"),
    ],
)
def test_each_limit_binds_under_its_own_name(
    limit: dict[str, Any], number: int, name: str
) -> None:
    limits = replace(ROOMY, **limit)

    decided = asked(50, limits)

    assert (number, name) == (decided.instances, decided.constraint)
    assert decided.reason.startswith(f"bound by {name}")
    assert 50 == decided.wanted


def test_the_lowest_limit_is_named() -> None:
    limits = replace(ROOMY, requests_per_minute=90, role_caps=7, max_concurrent=30)

    assert "role_caps" == ceiling(SEEN, limits).constraint
    assert (7, "role_caps") == (
        asked(50, limits).instances,
        asked(50, limits).constraint,
    )


def test_longer_calls_raise_a_rate_ceiling_and_larger_ones_lower_it() -> None:
    limits = replace(ROOMY, tokens_per_minute=150_000)
    longer = replace(SEEN, mean_seconds=12.0)
    larger = replace(SEEN, tokens_per_call=5000.0)

    assert 15 == ceiling(longer, limits).instances
    assert 3 == ceiling(larger, limits).instances


def test_money_that_is_gone_leaves_the_minimum() -> None:
    gone = replace(ROOMY, usd_per_hour=Decimal(0), min_instances=2)
    unknown = replace(SEEN, usd_per_call=None, mean_seconds=None)

    decided = asked(10, gone, unknown)

    assert (2, "max_cost_per_hour_usd") == (decided.instances, decided.constraint)


def test_a_rate_of_unknown_calls_is_no_limit() -> None:
    limits = replace(ROOMY, requests_per_minute=1, tokens_per_minute=1)
    unknown = replace(SEEN, mean_seconds=None, tokens_per_call=None)

    assert 50 == asked(50, limits, unknown).instances


def test_the_minimum_is_kept_and_named() -> None:
    decided = asked(1, replace(ROOMY, min_instances=3))

    assert (3, "min_instances") == (decided.instances, decided.constraint)


def test_whole_workers_are_taken_up_to_the_maximum() -> None:
    limits = Limits(max_instances=10, step=4)

    assert [4, 8, 10] == [asked(number, limits).instances for number in (1, 5, 9)]


def test_a_waiting_call_wakes_an_empty_pool() -> None:
    empty = replace(SEEN, instances=0, busy=0, backlog=1)
    limits = replace(ROOMY, min_instances=0)

    assert 1 == asked(0, limits, empty).instances
    assert 0 == asked(0, limits, replace(empty, backlog=0)).instances


def test_a_ceiling_that_trembles_does_not_make_the_size_tremble() -> None:
    """A mean that moves by a few percent changes a rate's ceiling all the time."""
    limits = replace(ROOMY, requests_per_minute=300)
    sizes, current = [], 31
    for seconds in (6.0, 6.1, 5.9, 6.2, 5.8):
        seen = replace(SEEN, instances=current, mean_seconds=seconds)
        current = asked(60, limits, seen).instances
        sizes.append(current)

    assert [31] * 5 == sizes
    shorter = replace(SEEN, instances=31, mean_seconds=4.0)
    assert 20 == asked(60, limits, shorter).instances


@given(
    st.integers(0, 200),
    st.integers(0, 60),
    st.integers(1, 60),
    st.integers(1, 8),
    st.integers(1, 1000),
)
def test_never_outside_the_counted_limits(
    number: int, low: int, extra: int, step: int, rate: int
) -> None:
    limits = Limits(
        min_instances=low,
        max_instances=low + extra,
        step=step,
        requests_per_minute=rate,
    )

    assert low <= asked(number, limits).instances <= low + extra


@given(st.integers(0, 200), st.integers(1, 2000), st.integers(0, 2000))
def test_a_higher_ceiling_never_means_fewer_instances(
    number: int, rate: int, more: int
) -> None:
    tight = replace(ROOMY, requests_per_minute=rate)
    loose = replace(ROOMY, requests_per_minute=rate + more)

    assert asked(number, tight).instances <= asked(number, loose).instances
