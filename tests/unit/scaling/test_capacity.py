"""Queueing formulas, measured demand, and replays of a pool of a fixed size."""

from __future__ import annotations

import math
import random
from fractions import Fraction
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierpool.errors import UsageError
from tierpool.scaling.capacity import (
    Window,
    erlang_c,
    erlang_c_slots,
    grown,
    late_share,
    slots_for,
    wait_estimate,
    whole,
)
from tierpool.scaling.occupancy import burst_share, measure
from tierpool.scaling.policies.fixed import Fixed
from tierpool.scaling.policy import Limits
from tierpool.scaling.replay import Rates, p95, replay, slots_by_replay, waits
from tierpool.scaling.simulator import Setup, Workload, simulate

special = pytest.importorskip("scipy.special")

loads = st.floats(0.05, 300)
peaks = st.floats(0.5, 30)


def random_calls(
    rate: float, mean: float, count: int, seed: int = 1
) -> tuple[list[float], list[float]]:
    """M/M: random arrivals, exponential durations."""
    dice = random.Random(seed)
    arrivals = list(accumulate(dice.expovariate(rate) for _ in range(count)))
    return arrivals, [dice.expovariate(1 / mean) for _ in range(count)]


def bursts(every: float, calls: int, count: int) -> tuple[list[float], list[float]]:
    """Calls of 2 s that come within a second, and then none for long."""
    dice = random.Random(3)
    arrivals = [n * every + dice.random() for n in range(count) for _ in range(calls)]
    return sorted(arrivals), [2.0] * (calls * count)


def exact_erlang_b(slots: int, load: Fraction) -> Fraction:
    """Erlang's B by its recursion, in fractions: B(c) = aB(c-1) / (c + aB(c-1))."""
    blocked = Fraction(1)
    for number in range(1, slots + 1):
        blocked = load * blocked / (number + load * blocked)
    return blocked


@pytest.mark.parametrize(
    ("slots", "load"),
    [(5, "1.361"), (10, "4.461"), (15, "8.108"), (20, "12.03"), (100, "84.06")],
)
def test_erlang_c_follows_tables_and_the_exact_recursion(slots: int, load: str) -> None:
    """Loads of which Erlang-B blocks 1 %, as rounded as tables have them; B into C.

    Source of 8.108 for 15: https://erlang.com/calculatormanual, "How much traffic can
    a trunk group handle", as of 2026-11. The others, and C, are from the recursion,
    which rounds nothing: 1 / C = u + (1 - u) / B with the share u of slots busy.
    """
    blocked, use = exact_erlang_b(slots, Fraction(load)), Fraction(load) / slots

    assert pytest.approx(0.01, rel=0.001) == float(blocked)
    expected = 1 / (use + (1 - use) / blocked)
    assert pytest.approx(float(expected), rel=1e-9) == erlang_c(slots, float(load))


@given(
    slots=st.integers(1, 60), share=st.fractions("0.01", "0.99", max_denominator=100)
)
def test_erlang_c_is_the_exact_recursion(slots: int, share: Fraction) -> None:
    """For any load below the slots."""
    load = slots * share
    blocked = exact_erlang_b(slots, load)

    expected = 1 / (share + (1 - share) / blocked)

    assert pytest.approx(float(expected), rel=1e-9) == erlang_c(slots, float(load))


def test_erlang_c_has_its_closed_forms() -> None:
    """M/M/1, M/M/2 with half its slots busy, and 4/9 for three slots under two.

    C is load for one slot, and 2u² / (1 + u) for two with the share u of them busy;
    for three under two: (2³/3!)·3 / (1 + 2 + 2²/2 + (2³/3!)·3) = 4/9.
    """
    assert pytest.approx(0.7) == erlang_c(1, 0.7)
    assert pytest.approx(2 * 0.25 / 1.5) == erlang_c(2, 1.0)
    assert pytest.approx(4 / 9) == erlang_c(3, 2.0)


@given(load=loads, spare=st.floats(0.001, 50))
def test_erlang_c_agrees_with_the_gamma_function(load: float, spare: float) -> None:
    """For a number of slots that is not whole, too."""
    slots = load + spare
    log_pmf = slots * math.log(load) - load - special.gammaln(slots + 1)
    blocked = math.exp(log_pmf) / special.gammaincc(slots + 1, load)

    expected = blocked / (1 - load / slots * (1 - blocked))

    assert pytest.approx(expected, rel=1e-6, abs=1e-12) == erlang_c(slots, load)


@given(load=loads, spare=st.floats(0.01, 50), more=st.floats(0.001, 10))
def test_more_slots_never_wait_more(load: float, spare: float, more: float) -> None:
    """Also between whole numbers."""
    fewer = erlang_c(load + spare, load)

    assert 0 <= erlang_c(load + spare + more, load) <= fewer * (1 + 1e-9) <= 1 + 1e-9


@given(load=loads, peak=peaks, target=st.floats(0, 100), factor=st.floats(1, 3))
def test_more_calls_never_need_fewer_slots(
    load: float, peak: float, target: float, factor: float
) -> None:
    """And the slots hold what they promise."""
    one = Window(100, load, 5.0, peak)
    slots = slots_for([one], target)

    assert slots > load
    assert late_share(slots, one, target) <= 0.05
    assert slots_for(grown([one], factor), target) >= slots


def test_all_slots_taken_means_late() -> None:
    """A load at or above the slots only grows its backlog."""
    assert 1.0 == erlang_c(4, 4)
    assert 1.0 == late_share(3, Window(10, 3.5, 1.0), 100)
    assert wait_estimate(3, [Window(10, 3.5, 1.0)]) is None
    assert 0.0 == erlang_c(4, 0)


def test_estimated_wait_is_the_target_of_its_slots() -> None:
    """One is the inverse of the other."""
    one = Window(100, 20.0, 5.0, 2.0)
    wait = wait_estimate(24, [one])

    assert wait is not None
    assert pytest.approx(0.05, rel=0.01) == late_share(24, one, wait)


@pytest.mark.parametrize("load", [2.0, 8.0, 25.0])
def test_formula_agrees_with_simulated_random_calls(load: float) -> None:
    """M/M/c: the share that waits is within 5 % of a simulation's, and so are slots."""
    mean = 4.0
    arrivals, services = random_calls(load / mean, mean, 150_000)
    load = sum(services) / arrivals[-1]
    slots = math.ceil(load + math.sqrt(load))
    waiting = sum(w > 0 for w in waits(slots, arrivals, services)) / len(arrivals)

    assert pytest.approx(waiting, rel=0.05) == erlang_c(slots, load)
    simulated = slots_by_replay(arrivals, services, 5.0)
    measured = measure(arrivals, services, 5.0)
    assert pytest.approx(simulated, rel=0.05) == erlang_c_slots(measured, 5.0)
    assert 0 <= slots_for(measured, 5.0) - simulated <= 1


def test_random_calls_have_peakedness_one() -> None:
    """And a high load lasts about as long as a call."""
    arrivals, services = random_calls(5.0, 4.0, 60_000)
    windows = measure(arrivals, services, 5.0)

    assert pytest.approx(1.0, abs=0.1) == whole(windows).peakedness
    assert pytest.approx(20.0, rel=0.03) == whole(windows).load
    lasting = [(w.persistence or 0) / w.mean_seconds for w in windows]
    assert 1.0 <= sum(lasting) / len(lasting) < 1.3


def test_record_that_begins_too_empty_is_not_taken_for_a_burst() -> None:
    """15 minutes of calls of a minute: the first of them find nothing under way."""
    arrivals, services = random_calls(1.5, 60.0, 1350)
    windows = measure(arrivals, services, 5.0)

    assert 1.5 > whole(windows).peakedness
    assert pytest.approx(90, rel=0.15) == whole(windows).load


def test_bursts_are_measured_and_need_more_slots() -> None:
    """At the same rate: Erlang-C cannot tell, the peakedness can."""
    arrivals, services = bursts(every=30.0, calls=30, count=200)
    windows = measure(arrivals, services, 5.0)
    simulated = slots_by_replay(arrivals, services, 5.0)

    assert 10 < whole(windows).peakedness
    assert simulated <= slots_for(windows, 5.0) <= 2 * simulated
    assert erlang_c_slots(windows, 5.0) < simulated


def test_changes_of_the_rate_are_followed_by_windows() -> None:
    """A busy hour in a quiet day decides on the slots, not the day's mean."""
    quiet, short = random_calls(0.2, 5.0, 2000)
    busy, more = random_calls(4.0, 5.0, 7200, seed=2)
    end = quiet[-1]
    arrivals, services = quiet + [end + at for at in busy], short + more
    simulated = slots_by_replay(arrivals, services, 5.0)

    predicted = slots_for(measure(arrivals, services, 5.0), 5.0)

    assert pytest.approx(simulated, rel=0.1) == predicted


def test_isolated_bursts_are_told_from_random_calls() -> None:
    """Bursts out of quiet are; calls at random, and bursts close together, are not."""
    assert 0.9 < burst_share(*bursts(every=600.0, calls=40, count=20))
    assert 0.01 > burst_share(*random_calls(3.0, 5.0, 20_000))
    assert 0.1 > burst_share(*bursts(every=15.0, calls=40, count=200))


def test_replay_is_the_simulator_with_a_fixed_size() -> None:
    """Wait by wait."""
    arrivals, services = random_calls(2.0, 3.0, 3000)
    limits = Limits(min_instances=7, max_instances=7)
    setup = Setup(start_instances=7, limits=limits)
    load = Workload(arrivals, services, [1] * len(arrivals))

    expected = simulate(load, Fixed(), setup).waits

    assert pytest.approx(list(expected)) == list(waits(7, arrivals, services))


def test_fewest_slots_are_the_fewest() -> None:
    """One less misses the target."""
    arrivals, services = random_calls(3.0, 4.0, 5000)
    slots = slots_by_replay(arrivals, services, 2.0)

    assert 2.0 >= p95(replay(slots, arrivals, services))
    assert 2.0 < p95(replay(slots - 1, arrivals, services))


def test_rates_hold_in_any_minute_of_a_replay() -> None:
    """Requests, tokens and dollars; and calls begin in order."""
    arrivals, services = random_calls(3.0, 1.0, 2000)
    tokens = [100 + 10 * (n % 7) for n in range(len(arrivals))]
    rates = Rates(100, 12_000, usd_per_hour=5.0, usd_per_call=0.001)

    found = replay(None, arrivals, services, tokens, rates)

    starts = [at + wait for at, wait in zip(arrivals, found, strict=True)]
    assert sorted(starts) == starts
    assert min(found) >= 0
    for index, at in enumerate(starts):
        minute = [n for n in range(index, len(starts)) if starts[n] < at + 59.999]
        assert len(minute) <= 100
        assert sum(tokens[n] for n in minute) <= 12_000


def test_hour_of_dollars_holds_in_a_replay() -> None:
    """The 11th call of 50 cents waits until the first is an hour old."""
    arrivals = [float(n) for n in range(12)]
    rates = Rates(usd_per_hour=5.0, usd_per_call=0.5)

    found = replay(None, arrivals, [1.0] * 12, rates=rates)

    assert [0.0] * 10 == found[:10]
    assert [3590.0, 3590.0] == found[10:]


def test_replay_with_generous_rates_is_that_without() -> None:
    """A limit that nothing reaches changes nothing."""
    arrivals, services = random_calls(2.0, 3.0, 2000)
    rates = Rates(10_000, 10**9)

    expected = replay(5, arrivals, services)

    assert pytest.approx(expected) == replay(
        5, arrivals, services, [10] * len(arrivals), rates
    )


@pytest.mark.parametrize(
    ("windows", "target", "said"),
    [
        ([], 5.0, "no calls"),
        ([Window(0, 0.0, 0.0)], 5.0, "no calls"),
        ([Window(9, 2.0, 1.0)], math.nan, "a wait target of nan s is none"),
        ([Window(9, 2.0, 1.0)], -1.0, "a wait target of -1.0 s is none"),
    ],
)
def test_what_cannot_be_planned_is_an_error(
    windows: list[Window], target: float, said: str
) -> None:
    """It says what is wrong."""
    with pytest.raises(UsageError, match=said):
        slots_for(windows, target)


def test_calls_at_one_moment_have_no_rate() -> None:
    """So there is nothing to measure."""
    with pytest.raises(UsageError, match="at one moment"):
        measure([3.0, 3.0], [1.0, 1.0], 5.0)
