"""Policies: what each one does, and what none of them ever does."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tierpool.errors import UnknownName
from tierpool.scaling.policies import NAMES, Fixed, by_name
from tierpool.scaling.policies.trend import Trend, slope
from tierpool.scaling.policies.windows import Highs, highest, weight
from tierpool.scaling.policy import Decision, Limits, Observation, Policy
from tierpool.scaling.simulator import Setup, Workload, simulate

LIMITS = Limits(min_instances=1, max_instances=50)
QUIET = Observation(
    at=0.0,
    instances=10,
    busy=7,
    backlog=0,
    arrivals_per_second=1.4,
    completions_per_second=1.4,
    mean_seconds=5.0,
    tokens_per_call=1000.0,
)


def last(
    policy: Policy[Any], seen: list[Observation], limits: Limits = LIMITS
) -> Decision:
    """Let a policy see a row of observations; return what it says at the end."""
    state, decision = policy.start(), None
    for one in seen:
        decision, state = policy.decide(one, limits, state)
    assert decision is not None
    return decision


def steady(times: int, **changes: Any) -> list[Observation]:
    """Return the same observation, 10 s apart."""
    return [replace(QUIET, at=10.0 * number, **changes) for number in range(times)]


counts = st.integers(0, 80)
maybe_counts = st.none() | counts
rates = st.none() | st.floats(0, 50)
observations = st.builds(
    Observation,
    at=st.just(0.0),
    instances=counts,
    starting=st.integers(0, 10),
    busy=maybe_counts,
    backlog=maybe_counts,
    arrivals_per_second=rates,
    completions_per_second=rates,
    mean_seconds=st.none() | st.floats(0, 700),
    tokens_per_call=st.none() | st.floats(0, 1e6),
)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60, deadline=None)
@given(
    row=st.lists(st.tuples(observations, st.floats(0, 600)), min_size=1, max_size=12),
    low=st.integers(0, 5),
    more=st.integers(0, 50),
    step=st.integers(1, 4),
)
def test_no_policy_leaves_the_limits_or_fails(
    name: str, row: list[tuple[Observation, float]], low: int, more: int, step: int
) -> None:
    limits = Limits(min_instances=low, max_instances=low + more, step=step)
    policy, at = by_name(name), 0.0
    state = policy.start()
    for seen, gap in row:
        at += gap
        decision, state = policy.decide(replace(seen, at=at), limits, state)

        assert low <= decision.instances <= low + more
        assert decision.reason


@pytest.mark.parametrize("name", [name for name in NAMES if name != "fixed"])
@given(current=st.integers(1, 50), busy=maybe_counts, before=st.integers(0, 8))
def test_missing_data_changes_nothing(
    name: str, current: int, busy: int | None, before: int
) -> None:
    if name == "utilisation":
        busy = None  # looks at nothing else
    unknown = replace(
        QUIET, at=10.0 * before, instances=current, busy=busy, backlog=None,
        arrivals_per_second=None, completions_per_second=None,
    )  # fmt: skip

    decision = last(by_name(name), [*steady(before), unknown])

    assert current == decision.instances
    assert "no_data" == decision.constraint


@pytest.mark.parametrize("name", NAMES)
@given(row=st.lists(observations, min_size=1, max_size=8), more=st.integers(0, 40))
def test_a_higher_maximum_never_means_fewer_instances(
    name: str, row: list[Observation], more: int
) -> None:
    seen = [replace(one, at=10.0 * place) for place, one in enumerate(row)]
    tight, loose = Limits(max_instances=10), Limits(max_instances=10 + more)

    few = last(by_name(name), seen, tight).instances
    many = last(by_name(name), seen, loose).instances

    assert few <= many


def constant(rate: float, mean: float, seconds: float, seed: int = 1) -> Workload:
    """Return Poisson arrivals with exponential services."""
    dice, at, arrivals = random.Random(seed), 0.0, []
    while (at := at + dice.expovariate(rate)) < seconds:
        arrivals.append(at)
    services = [dice.expovariate(1 / mean) for _ in arrivals]
    return Workload(arrivals, services, [1] * len(arrivals))


@pytest.mark.parametrize("every", [10.0, 30.0])
@pytest.mark.parametrize("lead", [2.0, 45.0])
@pytest.mark.parametrize("missing", [0.01, 0.2])
def test_predictive_serves_a_constant_load_without_flapping(
    every: float, lead: float, missing: float
) -> None:
    load = constant(rate=4.0, mean=5.0, seconds=6 * 3600.0)
    setup = Setup(
        lead_seconds=lead, decide_every=every, missing=missing,
        limits=Limits(max_instances=1000),
    )  # fmt: skip

    outcome = simulate(load, by_name("predictive"), setup)

    assert outcome.share_within(5.0) > 0.99
    assert outcome.cost_ratio < 1.7
    assert outcome.changes_per_day < 300


def test_predictive_rises_with_the_backlog_and_falls_late() -> None:
    """The pool obeys; a burst at 300 s, and calm again from 310 s on."""
    policy, sizes, current = by_name("predictive"), [], 10
    state = policy.start()
    for number in range(300):
        seen = replace(QUIET, at=10.0 * number, instances=current)
        if number == 30:
            seen = replace(seen, busy=current, backlog=30, arrivals_per_second=6.0)
        decision, state = policy.decide(seen, LIMITS, state)
        current = decision.instances
        sizes.append(current)

    assert [10, 10] == [sizes[20], sizes[29]]
    assert sizes[30] > 20
    assert sizes[30] == sizes[36]
    assert sizes[-1] < 13
    falls = [b < a for a, b in pairwise(sizes[30:])]
    assert 1 <= sum(falls) <= 6


def test_predictive_takes_a_stale_backlog_for_history_while_instances_are_idle() -> (
    None
):
    idle = last(by_name("predictive"), steady(40, backlog=9))
    full = last(by_name("predictive"), steady(40, backlog=9, busy=10))

    assert 10 == idle.instances
    assert full.instances > 10


def test_predictive_asks_for_more_at_once_when_calls_take_longer() -> None:
    calm = steady(30)
    longer = replace(QUIET, at=300.0, mean_seconds=15.0)
    limits = replace(LIMITS, lead_seconds=45.0)

    assert 10 == last(by_name("predictive"), calm, limits).instances
    assert last(by_name("predictive"), [*calm, longer], limits).instances > 18


def test_predictive_is_bound_by_tokens_when_calls_grow() -> None:
    limits = replace(LIMITS, tokens_per_minute=120_000)
    small = last(by_name("predictive"), steady(30, busy=10, backlog=20), limits)
    grown = steady(30, busy=10, backlog=20, tokens_per_call=2000.0)
    large = last(by_name("predictive"), grown, limits)

    assert (10, "tokens_per_minute") == (small.instances, small.constraint)
    assert (5, "tokens_per_minute") == (large.instances, large.constraint)
    assert "bound by tokens_per_minute" in large.reason


def test_predictive_gives_every_call_an_instance_while_no_call_has_ended() -> None:
    first = replace(QUIET, busy=1, instances=1, backlog=12, mean_seconds=None)

    assert 13 == last(by_name("predictive"), [first]).instances


def test_predictive_reports_what_it_estimated() -> None:
    figures = last(by_name("predictive"), steady(30)).figures

    assert 1.4 == pytest.approx(figures["arrivals_per_second"])
    assert 5.0 == figures["seconds_per_call"]
    assert 0.0 == pytest.approx(figures["arrivals_trend"])
    assert {"peakedness", "skill", "completions_trend", "expected"} <= figures.keys()


def test_predictive_tells_when_calls_or_contexts_grow() -> None:
    """By a tenth of the last value each minute; what shrinks or stays is not worth a word."""
    grows = [
        replace(one, mean_seconds=5.0 + 0.1 * number, tokens_per_call=1000.0)
        for number, one in enumerate(steady(11))
    ]
    wider = [replace(one, tokens_per_call=1000.0 + 20 * one.at) for one in steady(21)]

    longer = last(by_name("predictive"), grows)
    larger = last(by_name("predictive"), wider)

    assert ", seconds of a call +10% a minute" in longer.reason
    assert "tokens of a call" not in longer.reason
    assert 0.6 == pytest.approx(longer.figures["seconds_trend"])
    assert ", tokens of a call +24% a minute" in larger.reason
    assert 1200.0 == pytest.approx(larger.figures["tokens_trend"])
    assert "of a call" not in last(by_name("predictive"), steady(21)).reason


def test_the_state_of_predictive_stays_small() -> None:
    policy, state = by_name("predictive"), by_name("predictive").start()
    for number in range(5000):
        seen = replace(QUIET, at=0.1 * number, busy=number % 7)
        _, state = policy.decide(seen, LIMITS, state)

    assert len(state.demand.trend.samples) <= 64
    assert len(state.demand.trend.pending) <= 64
    assert len(state.demand.made.ends) <= 64
    assert len(state.demand.made.sizes) <= 64
    assert len(state.wishes) <= 60


def feed(rate_at: Any, times: int = 400) -> Trend:
    """Let a trend see rates every 10 s."""
    trend = Trend()
    for number in range(times):
        trend = trend.see(10.0 * number, rate_at(10.0 * number), 45.0)
    return trend


def test_a_trend_has_skill_on_a_ramp_and_none_on_noise() -> None:
    dice = random.Random(1)
    ramp = feed(lambda at: 1.0 + 0.01 * at)
    noise = feed(lambda at: dice.uniform(0, 10))

    assert ramp.skill > 0.3
    assert 0.01 == pytest.approx(ramp.per_second)
    assert ramp.ahead(45.0) > 0
    assert noise.skill < 0
    assert 0.0 == noise.ahead(45.0)


def test_a_trend_is_not_trusted_before_it_was_judged() -> None:
    assert 0.0 == feed(lambda at: at, times=20).ahead(45.0)


def test_the_slope_is_that_of_the_line_of_least_squares() -> None:
    assert 0.5 == pytest.approx(slope(((0.0, 1.0), (10.0, 6.0), (20.0, 11.0))))
    assert 0.0 == slope(((0.0, 1.0), (10.0, 6.0)))


def test_threshold_adds_a_worker_and_takes_away_what_was_idle() -> None:
    limits = replace(LIMITS, step=2, scale_up_threshold=4, scale_down_idle_seconds=60.0)
    policy = by_name("threshold")

    assert 10 == last(policy, steady(1, backlog=4), limits).instances
    assert 12 == last(policy, steady(1, backlog=5, busy=10), limits).instances
    assert 10 == last(policy, steady(6), limits).instances
    assert 8 == last(policy, steady(7), limits).instances  # 7, in whole workers


def test_utilisation_moves_by_one_worker_between_two_bounds() -> None:
    policy, limits = by_name("utilisation"), replace(LIMITS, step=2)

    sizes = [
        last(policy, steady(1, busy=busy), limits).instances for busy in (8, 7, 2, 1)
    ]

    assert [12, 10, 10, 8] == sizes


def test_hpa_divides_the_backlog_alone() -> None:
    limits = replace(LIMITS, scale_up_threshold=4)

    assert 15 == last(by_name("hpa"), steady(1, backlog=60), limits).instances


def test_keda_counts_busy_instances_and_waits_five_minutes_to_fall() -> None:
    policy = by_name("keda")

    assert 14 == last(policy, steady(1, busy=8, backlog=4)).instances
    assert 10 == last(policy, steady(1, busy=9)).instances  # within the tolerance
    assert 20 == last(policy, steady(1, busy=10, backlog=40)).instances  # doubles
    assert 10 == last(policy, steady(30, busy=4)).instances
    assert 5 == last(policy, steady(32, busy=4)).instances


def test_ewma_staffs_by_the_square_root() -> None:
    # a = 1.4 * 5 = 7; 7 + 3 * sqrt(7) = 14.9
    assert 15 == last(by_name("ewma"), steady(3)).instances


def test_fixed_never_changes() -> None:
    assert 12 == last(Fixed(12), steady(2, backlog=90)).instances
    assert 1 == last(by_name("fixed"), steady(2, backlog=90)).instances


def test_an_unknown_policy_is_told_with_all_known_ones() -> None:
    with pytest.raises(UnknownName, match=r"'predictve'; did you mean 'predictive'"):
        by_name("predictve")
    with pytest.raises(UnknownName, match=", ".join(NAMES)):
        by_name("?")


@given(
    st.lists(st.tuples(st.floats(0, 60), st.floats(0, 100)), max_size=40),
    st.floats(1, 300),
)
def test_the_highest_of_a_window_is_that_of_its_values(
    row: list[tuple[float, float]], seconds: float
) -> None:
    highs: Highs = ()
    at, values = 0.0, []
    for gap, value in row:
        at += gap
        values.append((at, value))
        highs = highest(highs, at, value, seconds)

        within = [one for when, one in values if when >= at - seconds + 1e-6]
        assert max(within) == highs[0][1]


@given(st.floats(0.1, 100), st.floats(1, 500))
def test_two_short_times_weigh_as_much_as_a_long_one(
    seconds: float, constant_: float
) -> None:
    half = weight(seconds / 2, constant_)

    assert weight(seconds, constant_) == pytest.approx(1 - (1 - half) ** 2)
