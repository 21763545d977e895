"""What is recommended for a pool: slots, bounds, what is impossible, how to deploy."""

from __future__ import annotations

import random
from dataclasses import replace
from decimal import Decimal
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tierpool.blueprint import PoolSpec, Scaling
from tierpool.errors import UsageError
from tierpool.scaling.bounds import Elsewhere
from tierpool.scaling.capacity import erlang_c_slots
from tierpool.scaling.demand import (
    LEAST_CALLS,
    Demand,
    TooFewCalls,
    demand_of_calls,
    demand_of_rate,
    with_items,
)
from tierpool.scaling.planner import pattern_for, plan
from tierpool.scaling.policies.fixed import Fixed
from tierpool.scaling.policy import Constraint, Limits
from tierpool.scaling.replay import p95, replay
from tierpool.scaling.simulator import Setup, Workload, simulate
from tierpool.scaling.synthetic import synthetic_trace

WIDE = Limits(max_instances=1000)
STEADY = demand_of_rate(5.0, 4.0, tokens_per_call=1000, usd_per_call=Decimal("0.002"))
"""20 calls under way; 300 calls and 300,000 tokens a minute, $36 an hour."""


def measured(rate: float = 3.0, count: int = 4000, usd: str = "0.001") -> Demand:
    """Random arrivals, durations of 4 s on average."""
    dice = random.Random(5)
    arrivals = list(accumulate(dice.expovariate(rate) for _ in range(count)))
    services = [dice.expovariate(0.25) for _ in range(count)]
    tokens = [1000] * count
    return demand_of_calls(
        "test", arrivals, services, tokens, 5.0, usd_per_call=Decimal(usd)
    )


def test_few_calls_are_refused() -> None:
    """The number that would do is named, and what to do instead."""
    arrivals = [float(n) * 10 for n in range(LEAST_CALLS - 1)]
    with pytest.raises(TooFewCalls, match=r"199 calls .* 200 calls .*--rate"):
        demand_of_calls("test", arrivals, [1.0] * 199, [1] * 199, 5.0)


def test_calls_of_a_short_time_are_refused() -> None:
    """However many they are."""
    arrivals = [n / 10 for n in range(5000)]
    with pytest.raises(TooFewCalls, match=r"5,000 calls within 500 s: .* 600 s"):
        demand_of_calls("test", arrivals, [1.0] * 5000, [1] * 5000, 5.0)


@pytest.mark.parametrize(
    ("arrivals", "took"),
    [
        ([float(n) for n in range(700)], 0.0),
        ([0.0] * 300 + [700.0] * 300, 1.0),
    ],
)
def test_calls_that_show_no_load_are_refused(
    arrivals: list[float], took: float
) -> None:
    """Durations of 0, and calls at the two ends of a record only."""
    count = len(arrivals)
    with pytest.raises(TooFewCalls, match=r"test: no window .*--rate"):
        demand_of_calls("test", arrivals, [took] * count, [1] * count, 5.0)


def test_a_call_that_takes_no_time_is_planned_with_the_others() -> None:
    """Also as the last one."""
    arrivals = [float(n) for n in range(700)]
    services = [float(n % 3) for n in range(699)] + [0.0]
    demand = demand_of_calls("test", arrivals, services, [1] * 700, 5.0)

    assert 1 <= plan("standard", demand, WIDE).slots <= 3


def test_demand_of_thousands_of_slots_is_planned() -> None:
    """Its limits are far away, as they are for a small pool."""
    found = plan("standard", demand_of_rate(500.0, 10.0), Limits(max_instances=10_000))

    assert 5000 < found.slots < 5100
    assert pytest.approx(2.0, rel=0.02) == found.bounds[0].bites_at


def test_more_slots_than_are_planned_is_told_with_the_load() -> None:
    with pytest.raises(
        UsageError, match=r"1,000,000 calls under way .* need more than"
    ):
        plan("standard", demand_of_rate(1e5, 10.0), WIDE)


@pytest.mark.parametrize(
    ("rate", "workers"), [(5.0, 1000), (20_000.0, None), (20_000.0, 1), (0.01, 1000)]
)
def test_lines_are_what_the_file_takes(rate: float, workers: int | None) -> None:
    """Workers and instances within its limits; no worker without an instance."""
    found = plan("standard", demand_of_rate(rate, 4.0), WIDE, workers=workers)
    lines = found.lines

    PoolSpec(
        min_instances=lines.min_instances,
        max_instances=lines.max_instances,
        scaling=Scaling(
            min_workers=lines.min_workers,
            max_workers=lines.max_workers,
            wait_target_secs=lines.wait_target_secs,
        ),
    )
    assert found.slots <= lines.max_instances * lines.max_workers
    assert lines.max_workers <= max(2, found.slots)


def test_enough_calls_are_planned() -> None:
    """Exactly the least number over the least time."""
    arrivals = [n * 600.0 / (LEAST_CALLS - 1) for n in range(LEAST_CALLS)]
    count = len(arrivals)
    demand = demand_of_calls("test", arrivals, [1.0] * count, [1] * count, 5.0)

    assert 1 <= plan("standard", demand, WIDE).slots <= 2


def test_replayed_wait_is_within_the_target() -> None:
    """The wait that is told is that of a replay with the slots that are told."""
    demand = measured()
    found = plan("standard", demand, WIDE)

    assert found.possible
    assert "simulated" == found.p95_is
    replayed = replay(found.slots, demand.arrivals, demand.services)
    assert pytest.approx(p95(replayed)) == found.p95_wait_seconds
    assert (found.p95_wait_seconds or 0.0) <= 5.0
    assert found.slots_replayed is not None
    assert found.slots_replayed <= found.slots
    assert pytest.approx(demand.load / found.slots) == found.utilisation


@settings(max_examples=25, deadline=None)
@given(
    kind=st.sampled_from(
        ["poisson:{}", "bursts:{},times=8,every=5m,length=20s", "diurnal:{},period=30m"]
    ),
    rate=st.floats(0.5, 4.0),
    seconds=st.floats(0.2, 30.0),
    target=st.floats(0.5, 30.0),
    seed=st.integers(0, 2**20),
)
def test_planned_slots_keep_the_target_in_the_simulator(
    kind: str, rate: float, seconds: float, target: float, seed: int
) -> None:
    """The simulator's fixed policy waits as long as the plan says, within the target."""
    trace = synthetic_trace(kind.format(f"{rate:.3f}") + ",duration=20m", seed=seed)
    dice = random.Random(seed)
    services = [dice.expovariate(1 / seconds) for _ in trace.seconds]
    tokens = [1] * len(trace)
    demand = demand_of_calls("test", trace.seconds, services, tokens, target)
    found = plan("nano", demand, replace(WIDE, wait_target_seconds=target))
    size = replace(WIDE, min_instances=found.slots, max_instances=found.slots)

    done = simulate(
        Workload(trace.seconds, services, tokens),
        Fixed(),
        Setup(limits=size, start_instances=found.slots),
    )

    assert found.possible
    assert done.p95 <= target
    assert pytest.approx(done.p95, abs=1e-6) == found.p95_wait_seconds


def test_given_rate_is_planned_by_erlang_c() -> None:
    """Random calls at a steady rate are what it is for; the wait is an estimate."""
    found = plan("standard", STEADY, WIDE)

    assert erlang_c_slots(STEADY.windows, 5.0) == found.slots == found.slots_predicted
    assert "estimate" == found.p95_is
    assert found.slots_replayed is None
    assert Decimal("36.000000") == found.usd_per_hour


def test_peakedness_asks_for_more_slots() -> None:
    """At the same rate and duration."""
    bursty = demand_of_rate(5.0, 4.0, peakedness=6.0)

    assert plan("standard", STEADY, WIDE).slots < plan("standard", bursty, WIDE).slots


@pytest.mark.parametrize(
    ("limits", "first", "bites_at"),
    [
        (Limits(max_instances=1000, requests_per_minute=600), "requests_per_minute", 2),
        (
            Limits(max_instances=1000, tokens_per_minute=450_000),
            "tokens_per_minute",
            1.5,
        ),
        (
            Limits(max_instances=1000, usd_per_hour=Decimal(54)),
            "max_cost_per_hour_usd",
            1.5,
        ),
    ],
)
def test_first_bound_of_a_rate_is_told(
    limits: Limits, first: Constraint, bites_at: float
) -> None:
    """With the growth at which it is used up."""
    found = plan("standard", STEADY, limits)

    assert first == found.bounds[0].constraint
    assert pytest.approx(bites_at) == found.bounds[0].bites_at


@pytest.mark.parametrize(
    ("limits", "first"),
    [
        (Limits(max_instances=30), "max_instances"),
        (Limits(max_instances=1000, role_caps=30), "role_caps"),
        (Limits(max_instances=1000, max_concurrent=30), "max_concurrent"),
    ],
)
def test_first_bound_of_slots_is_told(limits: Limits, first: Constraint) -> None:
    """30 slots serve somewhat less than 30/20 of the calls that keep 20 busy."""
    found = plan("standard", STEADY, limits)

    assert first == found.bounds[0].constraint
    assert 1.2 < found.bounds[0].bites_at < 1.5
    assert (
        30
        == plan(
            "standard",
            demand_of_rate(5.0 * found.bounds[0].bites_at, 4.0),
            WIDE,
        ).slots
    )


@given(
    rate=st.floats(0.1, 20),
    most=st.integers(1, 200),
    requests=st.integers(1, 5000),
    usd=st.integers(1, 500),
)
def test_bounds_come_nearest_first(
    rate: float, most: int, requests: int, usd: int
) -> None:
    """And a plan is always one that can be written into the file."""
    demand = demand_of_rate(rate, 4.0, usd_per_call=Decimal("0.002"))
    limits = Limits(
        max_instances=most, requests_per_minute=requests, usd_per_hour=Decimal(usd)
    )
    found = plan("standard", demand, limits)

    distances = [bound.bites_at for bound in found.bounds]
    assert sorted(distances) == distances
    lines = found.lines
    assert 1 <= lines.min_instances <= lines.max_instances
    assert 1 <= lines.min_workers <= lines.max_workers
    assert lines.max_workers * lines.max_instances >= found.slots >= 1
    assert found.possible != any("impossible" in note for note in found.notes)


def test_what_others_take_is_left_out_of_shared_limits() -> None:
    """Of slots and dollars."""
    limits = Limits(max_instances=1000, max_concurrent=60, usd_per_hour=Decimal(100))
    alone = {b.constraint: b.limit for b in plan("a", STEADY, limits).bounds}
    others = Elsewhere(20, Decimal(40))
    shared = {
        b.constraint: b.limit
        for b in plan("a", STEADY, limits, elsewhere=others).bounds
    }

    assert (60, 100) == (alone["max_concurrent"], alone["max_cost_per_hour_usd"])
    assert (40, 60) == (shared["max_concurrent"], shared["max_cost_per_hour_usd"])


def test_rate_below_the_demand_makes_every_target_impossible() -> None:
    """It says what is served, and asks for no slot that would only wait."""
    found = plan("standard", STEADY, Limits(max_instances=99, requests_per_minute=150))

    assert not found.possible
    assert found.p95_wait_seconds is None
    assert found.nearest_possible_seconds is None
    assert 10 == found.slots
    assert "requests_per_minute 150 serves 9,000 of 18,000 calls" in found.notes[0]


def test_nearest_possible_wait_of_a_cap_is_told() -> None:
    """21 slots keep up with 20 calls under way, but not within 5 s."""
    found = plan("standard", STEADY, Limits(max_instances=99, max_concurrent=21))

    assert not found.possible
    assert 21 == found.slots
    assert 5.0 < (found.nearest_possible_seconds or 0.0) < 60.0
    assert "max_concurrent 21" in found.notes[0]


def test_nearest_possible_wait_within_rates_is_replayed() -> None:
    """All slots of the world wait for the provider as long."""
    demand = measured(rate=3.0)
    limits = Limits(max_instances=1000, requests_per_minute=178)
    found = plan("standard", demand, limits)

    assert not found.possible
    near = found.nearest_possible_seconds or 0.0
    assert 5.0 < near
    assert "requests_per_minute 178" in found.notes[0]
    wide = plan("standard", demand, replace(limits, wait_target_seconds=1.06 * near))
    assert wide.possible


def test_isolated_bursts_are_served_by_standing_instances() -> None:
    """The minimum is the maximum, and the plan says why."""
    dice = random.Random(2)
    arrivals = sorted(n * 600 + dice.random() for n in range(20) for _ in range(40))
    demand = demand_of_calls("test", arrivals, [2.0] * 800, [100] * 800, 5.0)
    found = plan("standard", demand, WIDE)

    assert found.isolated_bursts
    assert found.lines.min_workers == found.lines.max_workers
    assert found.lines.min_instances == found.lines.max_instances
    assert any("standing instances" in note for note in found.notes)


def test_busy_hours_leave_a_smaller_minimum() -> None:
    """What the quiet hours need."""
    dice = random.Random(4)
    arrivals, at = [], 0.0
    while at < 4 * 3600:
        at += dice.expovariate(8.0 if at > 2 * 3600 else 0.5)
        arrivals.append(at)
    services = [dice.expovariate(0.2) for _ in arrivals]
    demand = demand_of_calls("test", arrivals, services, [1] * len(arrivals), 5.0)
    found = plan("standard", demand, WIDE, workers=1)

    assert not found.isolated_bursts
    assert 40 < found.lines.max_instances
    assert 1 < found.lines.min_instances < 12


@pytest.mark.parametrize(
    ("items", "pattern"),
    [
        (0, "one process"),
        (99.9, "one process"),
        (100, "compose"),
        (1000, "compose"),
        (1001, "cluster"),
        (50_000, "cluster"),
    ],
)
def test_deployment_pattern_follows_the_items_of_a_day(
    items: float, pattern: str
) -> None:
    """Below 100 one process, to 1,000 compose, above a cluster."""
    assert pattern == pattern_for(items)


def test_cluster_has_a_second_worker() -> None:
    """So that one can be replaced at any time; chosen numbers go before."""
    assert 2 == plan("standard", STEADY, WIDE).lines.max_workers
    assert 5 == plan("standard", STEADY, WIDE, workers=5).lines.max_workers
    few = with_items(STEADY, calls_per_item=24 * 18_000 / 50)
    assert 1 == plan("standard", few, WIDE).lines.max_workers


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rate": 0.0}, "--rate 0.0 must be above 0"),
        ({"rate": float("nan")}, "--rate nan must be above 0"),
        ({"mean_seconds": -1.0}, "--mean-seconds -1.0 must be above 0"),
        ({"cv": 99.0}, "--cv 99.0 must be from 0 to 20"),
        ({"peakedness": 0.1}, "--peakedness 0.1 must be from 0.5"),
    ],
)
def test_demand_that_cannot_be_is_an_error(given: dict[str, float], said: str) -> None:
    """It names the option."""
    with pytest.raises(UsageError, match=said):
        demand_of_rate(**{"rate": 1.0, "mean_seconds": 1.0, **given})


def test_all_that_cannot_be_is_told_at_once() -> None:
    """Not one after the other."""
    with pytest.raises(UsageError, match=r"--rate .*; --mean-seconds .*; --cv"):
        demand_of_rate(-1.0, 0.0, cv=-1.0)
