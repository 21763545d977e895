"""What waits begins: several queues and processes, idle times, few places, lent money."""

from collections.abc import Callable

import pytest
from tests.unit.leases.processes import LARGE, NANO, STEP, TOOLS, World

from tierpool.contracts.ledger import CALLS, USD, Cap, FleetLimits

ALL = (NANO, LARGE, TOOLS)
WORST = {NANO: 4_000_000, LARGE: 40_000_000, TOOLS: 0}
"""Nano-dollars of a call; about what the fleet's file lets expect."""


def places(most: int) -> FleetLimits:
    return FleetLimits(caps={CALLS: (Cap(amount=most),)}, grace=5.0)


def dollars(most: int) -> FleetLimits:
    cap = Cap(amount=most, seconds=60.0, bucket=1.0)
    return FleetLimits(caps={USD: (cap,)}, grace=5.0)


def steadily(
    until: float = 1e9, share: float = 0.01, **per_second: float
) -> Callable[[World], None]:
    """Let calls come; each costs a share of its worst case."""
    queues = {"nano": NANO, "large": LARGE, "tools": TOOLS}

    def arrive(world: World) -> None:
        for name, rate in per_second.items():
            if world.now < until and world.dice.random() < rate * STEP:
                worst = WORST[queues[name]]
                world.add(queues[name], worst, int(worst * share))

    return arrive


def nothing(world: World) -> None:
    """No call comes any more."""


def test_idle_processes_do_not_renew() -> None:
    world = World(places(6), [ALL, ALL])
    world.play(20.0, steadily(until=10.0, nano=2.0))
    world.play(20.0, nothing)
    assert not world.left
    before = world.renewals

    world.play(60.0, nothing)

    assert world.renewals == before
    assert world.ledger.held(CALLS) == 0


def test_place_goes_round_where_there_are_more_processes_than_places() -> None:
    """A pool whose queue is never empty does not keep its place for good."""
    world = World(places(2), [[NANO], [NANO], [LARGE], [TOOLS]])
    world.play(150.0, steadily(nano=5.0, large=0.1, tools=0.1))

    assert world.peak <= 2
    assert world.count[NANO] > 50
    assert world.count[LARGE] > 3
    assert world.count[TOOLS] > 3
    assert max(world.longest[LARGE], world.longest[TOOLS]) < 60


@pytest.mark.parametrize("seed", range(3))
def test_queues_of_one_process_share_its_places(seed: int) -> None:
    world = World(places(3), [ALL], seed)
    world.play(120.0, steadily(nano=4.0, large=0.2, tools=0.2))

    assert world.peak == 3
    assert max(world.longest[LARGE], world.longest[TOOLS]) < 60
    assert world.sent_back < 0.2 * world.count.total()
    assert world.renewals < 2 * 120


@pytest.mark.parametrize("processes", [[[NANO]] * 3 + [[LARGE]], [ALL] * 4])
def test_money_that_is_only_lent_comes_back_for_a_dear_call(
    processes: list[list[str]],
) -> None:
    """Cheap calls hold most of the cap all the time, and spend hardly any of it."""
    world = World(dollars(60_000_000), processes)
    world.play(150.0, steadily(share=0.001, nano=6.0, large=0.05))

    assert world.count[LARGE] > 2
    assert world.count[NANO] > 200


def test_what_waited_for_money_begins_when_the_window_frees() -> None:
    world = World(dollars(60_000_000), [ALL] * 3)
    world.play(60.0, steadily(until=60.0, share=0.3, nano=2.0, large=0.1, tools=0.2))
    world.play(600.0, nothing)

    assert not world.left
    assert world.count[LARGE]
    assert world.longest[TOOLS] < 3, "a tool waits for no money"


def test_guess_above_the_cap_does_not_stop_a_queue() -> None:
    """The usual call is only guessed; the caps may also have been lowered since."""
    world = World(dollars(2_000_000), [[NANO], [NANO]])
    for _ in range(6):
        world.add(NANO, 1_500_000, 1000)

    world.play(120.0, nothing)

    assert world.count[NANO] == 6


def test_limit_that_is_set_later_counts_from_then_on() -> None:
    """What was used without it needs no grant: it would not fit into the cap."""
    world = World(FleetLimits(), [[NANO]])
    world.play(30.0, steadily(nano=20.0, share=0.5))
    world.play(70.0, nothing)
    limits = dollars(60_000_000).model_copy(update={"generation": 1})
    for process in world.processes:
        process.lease.follow(limits)
    before = world.count[NANO]
    world.add(NANO, 4_000_000, 1000)

    world.play(10.0, nothing)

    assert world.count[NANO] == before + 1


def test_lowered_cap_stops_new_grants_only() -> None:
    world = World(dollars(60_000_000), [[NANO, LARGE]])
    world.play(5.0, steadily(large=1.0))
    lower = dollars(6_000_000).model_copy(update={"generation": 1})
    world.processes[0].lease.follow(lower)
    world.backlog.clear()
    world.timers.clear()
    world.processes[0].waiting.clear()
    world.processes[0].lease.waiting.clear()
    world.add(LARGE, 5_000_000, 1000)

    world.play(150.0, nothing)

    assert not world.left, "its usual call needs more than the new cap"
