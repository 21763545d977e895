"""The simulator: nothing is lost, nothing jumps the queue, theory agrees."""

import math
import random
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tierpool.errors import UsageError
from tierpool.scaling.policies import Fixed
from tierpool.scaling.policy import Decision, Limits, Observation
from tierpool.scaling.simulator import Oracle, Outcome, Setup, Workload, simulate

MANY = Limits(max_instances=1000)


@dataclass(frozen=True)
class Script:
    """Sizes by decision; the last one stays. Keeps what it was told."""

    sizes: tuple[int, ...]
    told: list[Observation]
    name: str = "script"

    def start(self) -> int:
        return 0

    def decide(
        self, seen: Observation, limits: Limits, state: int
    ) -> tuple[Decision, int]:
        self.told.append(seen)
        size = self.sizes[min(state, len(self.sizes) - 1)]
        return Decision(size, "demand", "script", size), state + 1


def run(load: Workload, *sizes: int, **setup: Any) -> tuple[Outcome, list[Observation]]:
    """Run scripted sizes."""
    told: list[Observation] = []
    given_ = {"start_instances": sizes[0], "missing": 0.0, "limits": MANY} | setup
    return simulate(load, Script(sizes, told), Setup(**given_)), told


def poisson(rate: float, mean: float, seconds: float, seed: int) -> Workload:
    """Return Poisson arrivals with exponential services."""
    dice, at, arrivals = random.Random(seed), 0.0, []
    while (at := at + dice.expovariate(rate)) < seconds:
        arrivals.append(at)
    services = [dice.expovariate(1 / mean) for _ in arrivals]
    return Workload(arrivals, services, [100] * len(arrivals))


calls = st.lists(
    st.tuples(st.floats(0, 20), st.floats(0, 60), st.integers(0, 1000)),
    min_size=1,
    max_size=40,
)


def workload(drawn: list[tuple[float, float, int]]) -> Workload:
    """Return a workload from gaps, services and tokens."""
    gaps, services, tokens = zip(*drawn, strict=True)
    return Workload(list(accumulate(gaps)), list(services), list(tokens))


@settings(max_examples=80, deadline=None)
@given(calls, st.lists(st.integers(0, 6), max_size=12), st.integers(1, 4))
def test_every_call_is_served_once_in_order_and_all_service_is_paid(
    drawn: list[tuple[float, float, int]], sizes: list[int], last: int
) -> None:
    load = workload(drawn)

    outcome, _ = run(load, *sizes, last)

    assert len(load.arrivals) == len(outcome.waits)
    assert min(outcome.waits) >= 0
    starts = [a + w for a, w in zip(load.arrivals, outcome.waits, strict=True)]
    assert sorted(starts) == pytest.approx(starts)
    assert outcome.ideal_seconds <= outcome.instance_seconds + 1e-6
    assert 0 == outcome.killed


@settings(max_examples=60, deadline=None)
@given(calls, st.integers(1, 5))
def test_a_fixed_pool_is_the_textbook_queue(
    drawn: list[tuple[float, float, int]], size: int
) -> None:
    load = workload(drawn)
    free = [load.arrivals[0]] * size
    waits = []
    for at, service in zip(load.arrivals, load.services, strict=True):
        free.sort()
        start = max(at, free[0])
        waits.append(start - at)
        free[0] = start + service

    outcome = simulate(load, Fixed(size), Setup(start_instances=size, limits=MANY))

    assert waits == pytest.approx(outcome.waits)
    assert 0 == outcome.changes


def test_waits_are_those_of_erlang_c() -> None:
    """M/M/c with c = 5, a = 4: P(wait > 0) is .5541, the mean wait of all .5541 S."""
    load = poisson(rate=0.8, mean=5.0, seconds=500_000, seed=3)

    outcome = simulate(load, Fixed(5), Setup(start_instances=5, limits=MANY))

    waited = 1 - outcome.share_within(0.0)
    assert 0.5541 == pytest.approx(waited, rel=0.05)
    assert 0.5541 * 5.0 == pytest.approx(
        math.fsum(outcome.waits) / len(outcome.waits), rel=0.1
    )


def test_littles_law_holds_for_those_who_wait() -> None:
    """Mean backlog = arrivals per second times mean wait."""
    load = poisson(rate=0.8, mean=5.0, seconds=200_000, seed=4)

    outcome = simulate(load, Fixed(5), Setup(start_instances=5, limits=MANY))

    backlog = sum(one.backlog for one in outcome.timeline) / len(outcome.timeline)
    arrivals = len(load.arrivals) / outcome.seconds
    mean_wait = math.fsum(outcome.waits) / len(outcome.waits)
    assert arrivals * mean_wait == pytest.approx(backlog, rel=0.05)


def test_new_instances_take_calls_after_the_lead_time_and_are_paid_at_once() -> None:
    load = Workload([0.0, 0.0, 100.0], [200.0, 10.0, 1.0], [1, 1, 1])

    outcome, told = run(load, 1, 2, lead_seconds=45.0)

    # the second decision, at 20 s, starts one; it takes the second call at 65 s
    assert [0.0, 65.0, 0.0] == pytest.approx(outcome.waits)
    assert [0, 0, 1] == [seen.starting for seen in told[:3]]
    assert 200.0 + (100.0 - 20.0) + 1.0 == pytest.approx(outcome.instance_seconds)


def test_a_busy_instance_goes_after_its_call() -> None:
    load = Workload([0.0, 0.0, 50.0], [35.0, 100.0, 10.0], [1, 1, 1])

    outcome, told = run(load, 2, 1)

    # at 20 s one has to go: it is paid to the end of its call at 35 s, takes no
    # more, and the last call waits for the other one until 100 s
    assert [0.0, 0.0, 50.0] == pytest.approx(outcome.waits)
    assert 35.0 + 110.0 == pytest.approx(outcome.instance_seconds)
    assert [2, 2, 2, 1] == [seen.busy for seen in told[:4]]
    assert [2, 2, 1, 1] == [seen.instances for seen in told[:4]]
    assert 0 == outcome.killed


def test_starting_and_idle_instances_go_before_busy_ones() -> None:
    load = Workload([0.0, 100.0], [60.0, 1.0], [1, 1])

    outcome, told = run(load, 2, 4, 1, lead_seconds=45.0)

    assert [0, 0, 2, 0] == [seen.starting for seen in told[:4]]
    assert [2, 2, 2, 1] == [seen.instances for seen in told[:4]]
    assert 1 == told[3].busy
    # two for 30 s, two more for 10 s, one until the last call's end
    assert 30 + 2 * 10 + 101 == pytest.approx(outcome.instance_seconds)


def test_the_policy_is_told_what_a_fleet_would_know() -> None:
    load = Workload([0.0, 1.0, 2.0, 12.0, 17.0, 60.0], [4.0] * 6, [10, 20, 30, 1, 1, 1])

    _, told = run(load, 1, decide_every=10.0, backlog_lag=5.0, rates_over=30.0)

    first, second = told[:2]
    assert (10.0, 1, 1) == (first.at, first.instances, first.busy)
    # 5 s ago the second call was under way and the third waited, since 3 s
    assert (1, 3.0) == (first.backlog, first.oldest_seconds)
    assert (0.3, 0.2) == pytest.approx(
        (first.arrivals_per_second, first.completions_per_second)
    )
    assert (4.0, 15.0) == (first.mean_seconds, first.tokens_per_call)
    assert (5 / 20, 4 / 20) == pytest.approx(
        (second.arrivals_per_second, second.completions_per_second)
    )


def test_missing_observations_are_repeatable_and_leave_busy_known() -> None:
    load = poisson(rate=1.0, mean=3.0, seconds=5_000, seed=1)

    _, told = run(load, 6, missing=0.2, seed=5)
    _, again = run(load, 6, missing=0.2, seed=5)

    lost = [seen for seen in told if seen.backlog is None]
    assert told == again
    assert 0.2 == pytest.approx(len(lost) / len(told), abs=0.05)
    assert all(seen.arrivals_per_second is None for seen in lost)
    assert all(seen.busy is not None for seen in lost)


def test_the_oracle_keeps_nobody_waiting_and_is_cheaper_than_standing_instances() -> (
    None
):
    load = poisson(rate=2.0, mean=5.0, seconds=7_200, seed=2)
    setup = Setup(lead_seconds=45.0, limits=MANY)

    seen = simulate(load, Oracle(load), setup)
    peak = max(one.instances for one in seen.timeline)
    standing = simulate(load, Fixed(peak), setup)

    assert seen.share_within(5.0) > 0.99
    assert seen.instance_seconds < standing.instance_seconds


def test_figures_of_an_outcome() -> None:
    load = Workload([0.0, 0.0, 0.0, 0.0], [10.0] * 4, [1] * 4)

    outcome, _ = run(load, 1)

    assert [0.0, 10.0, 20.0, 30.0] == pytest.approx(outcome.waits)
    assert (10.0, 30.0, 30.0) == (outcome.p50, outcome.p95, outcome.p99)
    assert 0.75 == outcome.share_within(20.0)
    assert 1.0 == pytest.approx(outcome.cost_ratio)
    with pytest.raises(ValueError, match=r"share 0 must be above 0"):
        outcome.wait(0)


@pytest.mark.parametrize(
    ("arrivals", "services", "tokens", "said"),
    [
        ([], [], [], "no calls"),
        ([0.0], [1.0, 2.0], [1], r"differ in length: \[1, 2\]"),
        ([5.0, 3.0], [1.0, 1.0], [1, 1], r"arrivals\[1\] is 3.0, before 5.0: sort"),
        ([0.0, math.nan], [1.0, 1.0], [1, 1], r"arrivals\[1\] is nan, must be finite"),
        ([0.0], [-1.0], [1], r"services\[0\] is -1.0"),
        ([0.0], [math.inf], [-1], r"services\[0\] is inf.*tokens\[0\] is -1"),
    ],
)
def test_bad_workloads_are_refused_by_place_and_value(
    arrivals: list[float], services: list[float], tokens: list[int], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        Workload(arrivals, services, tokens)


def test_bad_setups_are_refused_all_at_once() -> None:
    with pytest.raises(UsageError, match=r"lead_seconds is -1.*missing is 2"):
        Setup(lead_seconds=-1, missing=2)


def test_a_policy_that_serves_nobody_is_told_instead_of_waited_for() -> None:
    load = Workload([0.0, 1.0], [1.0, 1.0], [1, 1])

    with pytest.raises(UsageError, match=r"'script' leaves 2 of 2 calls waiting"):
        run(load, 0, limits=Limits(min_instances=0))


def test_size_zero_at_first_is_no_obstacle() -> None:
    load = Workload([0.0, 1.0], [1.0, 1.0], [1, 1])

    outcome, _ = run(load, 0, 1, limits=Limits(min_instances=0), lead_seconds=3.0)

    assert [23.0, 23.0] == pytest.approx(outcome.waits)
