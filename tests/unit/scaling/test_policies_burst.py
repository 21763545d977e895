"""The default policy at the onset of a burst, of which it is told late and in part."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from tierpool.scaling.policies import by_name
from tierpool.scaling.policy import Decision, Limits, Observation
from tierpool.scaling.simulator import Setup, Workload, simulate

LIMITS = Limits(
    min_instances=4,
    max_instances=32,
    step=4,
    lead_seconds=5.0,
    scale_down_idle_seconds=15.0,
)
CALM = Observation(
    at=0.0,
    instances=4,
    busy=2,
    backlog=0,
    arrivals_per_second=0.8,
    completions_per_second=0.8,
    mean_seconds=2.0,
)
BURST = [
    # instances, busy, backlog, arrivals per second; the new instances of the second
    # look have not reported a call yet
    (4, 4, 11, 1.2),
    (8, 4, 35, 2.2),
    (8, 8, 54, 3.1),
]


def observations(looks: int) -> list[Observation]:
    """Return two calm minutes and the first looks of a burst, 5 s apart."""
    row = [replace(CALM, at=5.0 * n, busy=(1, 2, 2, 1, 2)[n % 5]) for n in range(24)]
    for number, (instances, busy, backlog, arrivals) in enumerate(BURST[:looks]):
        seen = replace(CALM, at=120 + 5.0 * number, instances=instances, busy=busy)
        row.append(replace(seen, backlog=backlog, arrivals_per_second=arrivals))
    return row


def said(row: list[Observation]) -> Decision:
    """Return what the policy says at the end of a row of observations."""
    policy, decision = by_name("predictive"), None
    state = policy.start()
    for one in row:
        decision, state = policy.decide(one, LIMITS, state)
    assert decision is not None
    return decision


def test_a_backlog_counts_while_new_instances_report_no_calls_yet() -> None:
    assert 8 <= said(observations(1)).instances
    assert 16 <= said(observations(2)).instances


def test_a_burst_is_seen_before_the_mean_of_30_s_tells_it() -> None:
    """Calls that were added in 5 s must have come, whatever the mean rate says."""
    row = observations(2)
    untold = [replace(one, completions_per_second=None) for one in row]

    by_mean = said(untold).figures["arrivals_per_second"]
    by_both = said(row).figures["arrivals_per_second"]

    assert by_mean < 2.0
    assert by_both > 2.5


def test_five_calls_more_are_no_burst() -> None:
    more = replace(CALM, at=120.0, busy=4, backlog=3)

    figures = said([*observations(0), more]).figures

    assert 0.8 == pytest.approx(figures["arrivals_per_second"])


def calls(seed: int) -> Workload:
    """Return 0.8 calls a second, 8 for a minute, 0.8 again; each of 2 s."""
    dice, arrivals = random.Random(seed), []
    for begin, end, rate in ((0, 900, 0.8), (900, 960, 8.0), (960, 1080, 0.8)):
        at = begin + dice.expovariate(rate)
        while at < end:
            arrivals.append(at)
            at += dice.expovariate(rate)
    return Workload(arrivals, [2.0] * len(arrivals), [1] * len(arrivals))


@pytest.mark.parametrize("seed", range(4))
def test_calls_of_a_burst_wait_no_longer_than_under_threshold(seed: int) -> None:
    """Both pools have become small before it: fifteen calm minutes."""
    setup, load = Setup(lead_seconds=5.0, decide_every=5.0, limits=LIMITS), calls(seed)

    ours, theirs = (
        simulate(load, by_name(name), setup) for name in ("predictive", "threshold")
    )

    assert ours.p95 <= theirs.p95
