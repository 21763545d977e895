"""The book of claims: order, all or nothing, caps that hold, dead holders, rates."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tierpool.budget.claims import ClaimBook
from tierpool.contracts.claims import (
    ClaimAsk,
    ClaimLimits,
    ClaimRelease,
    ClaimsState,
    WaitingClaim,
)
from tierpool.contracts.ledger import Cap
from tierpool.workflows.stubs import HEARTBEAT_TIMEOUT

MANY = 1000


def book(generation: int = 0, **caps: int) -> ClaimBook:
    return ClaimBook(ClaimsState(fleet="f", limits=limits(generation, **caps)))


def limits(generation: int = 0, **caps: int) -> ClaimLimits:
    """Caps on gauges: `a` is a role, `wip_x` a WIP limit."""
    return ClaimLimits(
        caps={_resource(name): (Cap(amount=amount),) for name, amount in caps.items()},
        generation=generation,
    )


def _resource(name: str) -> str:
    return name.replace("wip_", "wip:") if name.startswith("wip_") else f"role:{name}"


def ask(run: str, *needs: str, number: int = 1, **more: Any) -> ClaimAsk:
    return ClaimAsk(
        workflow=f"w-{run}",
        run=run,
        first=more.pop("first", run),
        number=number,
        id=f"{needs[0]}/{run}" if needs else "",
        needs={_resource(need): 1 for need in needs} | more.pop("amounts", {}),
        **more,
    )


def release(run: str, number: int = 1, **more: Any) -> ClaimRelease:
    return ClaimRelease(run=run, first=run, number=number, **more)


def granted(book: ClaimBook, now: float = 0.0) -> list[str]:
    return [w.ask.run for w in book.grant(now, MANY)]


def test_first_come_first_served_up_to_the_cap() -> None:
    """No more than the cap; the next one in line gets what comes back."""
    claims = book(a=2)
    for run in "pqrs":
        claims.ask(ask(run, "a"), 0)

    assert ["p", "q"] == granted(claims)
    assert [] == granted(claims)
    claims.release(release("q"), 0)
    assert ["r"] == granted(claims)


def test_priority_goes_before_arrival() -> None:
    """Lower numbers first; equal ones in the order of arrival."""
    claims = book(a=1)
    for run, priority in (("p", 3), ("q", 5), ("r", 1), ("s", 1), ("t", 3)):
        claims.ask(ask(run, "a", priority=priority), 0)

    served = []
    while one := granted(claims):
        served += one
        claims.release(release(one[0]), 0)

    assert list("rsptq") == served


def test_blocked_claim_does_not_block_those_that_need_other_things() -> None:
    """A full role leaves the others alone."""
    claims = book(a=0, b=1)
    claims.ask(ask("p", "a"), 0)
    claims.ask(ask("q", "b"), 0)

    assert ["q"] == granted(claims)


def test_all_needs_at_once_or_none() -> None:
    """Who cannot have a slot of the WIP limit takes no instance either."""
    claims = book(a=1, wip_x=0)
    claims.ask(ask("p", "a", hold="x/p"), 0)
    claims.ask(ask("q", "a"), 0)

    assert ["q"] == granted(claims)
    assert 0 == claims.resources(0)["wip:x"].used


def test_waiting_for_an_instance_keeps_the_slot() -> None:
    """Others that need only the slot do not starve one that needs both."""
    claims = book(a=1, wip_x=1)
    claims.ask(ask("busy", "a"), 0)
    granted(claims)
    claims.ask(ask("both", "a", hold="x/both"), 0)
    claims.ask(ask("slot", hold="x/slot"), 0)

    assert [] == granted(claims)
    claims.release(release("busy"), 0)
    assert ["both"] == granted(claims)


def test_waiting_for_a_slot_leaves_the_role_to_those_that_free_it() -> None:
    """An item that holds the slot gets the role that it needs to leave."""
    claims = book(a=1, wip_x=1)
    claims.ask(ask("inside", "a", hold="x/inside"), 0)
    granted(claims)
    claims.release(release("inside"), 0)
    claims.ask(ask("outside", "a", hold="x/outside"), 0)
    claims.ask(ask("inside", "a", number=2, holds=("x/inside",)), 0)

    assert ["inside"] == granted(claims)
    claims.release(release("inside", 2, holds=("x/inside",)), 0)
    assert ["outside"] == granted(claims)


def test_lower_cap_stops_new_grants_only() -> None:
    """What is held stays held; nothing more is granted until it fits."""
    claims = book(a=3)
    for run in "pqrst":
        claims.ask(ask(run, "a"), 0)
    granted(claims)

    claims.change(limits(a=1))
    assert 3 == claims.resources(0)["role:a"].used
    for run in "pq":
        claims.release(release(run), 0)
        assert [] == granted(claims)
    claims.release(release("r"), 0)
    assert ["s"] == granted(claims)


def test_highest_generation_counts() -> None:
    """An older one changes nothing, an equal one that comes later does."""
    claims = book(2, a=1)

    claims.change(limits(1, a=7))
    assert 1 == claims.resources(0)["role:a"].cap
    claims.change(limits(2, a=5))
    assert 5 == claims.resources(0)["role:a"].cap


def test_asking_twice_changes_nothing_and_a_lost_grant_is_found() -> None:
    """The same ask waits once; granted before, it is given back to be told again."""
    claims = book(a=1)
    assert claims.ask(ask("p", "a"), 0) is None
    assert claims.ask(ask("p", "a"), 0) is None

    assert ["p"] == granted(claims)
    again = claims.ask(ask("p", "a"), 0)
    assert isinstance(again, WaitingClaim)
    assert [] == granted(claims)


def test_grant_that_finds_nobody_goes_to_the_next() -> None:
    """All of it comes back, the hold and the rate as well."""
    rate = {"requests:a": (Cap(amount=1, seconds=60.0),)}
    state = limits(a=1, wip_x=1)
    state = state.model_copy(update={"caps": state.caps | rate})
    claims = ClaimBook(ClaimsState(limits=state))
    for run in "pq":
        more = {"hold": f"x/{run}", "amounts": {"requests:a": 1}}
        claims.ask(ask(run, "a", **more), 0)

    (first,) = claims.grant(0, MANY)
    claims.drop(first, 1)

    assert ["q"] == granted(claims, 1)


def test_dead_holder_keeps_its_claim_until_its_call_must_be_over() -> None:
    """Its call may go on until the heartbeat timeout; its hold has no call."""
    claims = book(a=1, wip_x=1)
    claims.ask(ask("p", "a", hold="x/p"), 0)
    claims.ask(ask("q", "a"), 0)
    claims.ask(ask("r", hold="x/r"), 0)
    granted(claims)

    asked = claims.unheard(20, 10, MANY)
    claims.examined(asked, {"p"}, {"p"}, 20)

    assert ["p", "q", "r"] == [holder.run for holder in asked]
    assert ["r"] == granted(claims, 20)
    assert 20 + claims.limits.grace == claims.due()
    claims.bury(20 + claims.limits.grace)
    assert ["q"] == granted(claims, 30)
    assert claims.limits.grace > HEARTBEAT_TIMEOUT.total_seconds()


def test_dead_waiter_leaves_the_line() -> None:
    """A run that has ended is not granted anything."""
    claims = book(a=0)
    claims.ask(ask("p", "a"), 0)

    claims.examined(claims.unheard(20, 10, MANY), {"p"}, set(), 20)

    assert claims.idle


def test_same_id_of_another_execution_is_another_holder() -> None:
    """A reused item ID gets what is free, not what the one before it held."""
    claims = book(a=2, wip_x=1)
    claims.ask(ask("old", "a", hold="x/ITEM"), 0)
    granted(claims)
    claims.ask(ask("new", "a"), 0)
    claims.ask(ask("new", number=2, hold="x/ITEM", calls=(1,)), 0)

    assert ["new"] == granted(claims)
    claims.release(release("new", 1, holds=("x/ITEM",)), 0)
    assert {"role:a": 1, "wip:x": 1} == {
        name: use.used for name, use in claims.resources(0).items()
    }


def test_hold_outlives_the_run_that_took_it() -> None:
    """The next run of the execution has it without asking; its calls are over."""
    claims = book(a=2, wip_x=1)
    claims.ask(ask("run1", "a", hold="x/i", first="e"), 0)
    granted(claims)

    claims.examined(claims.unheard(20, 10, MANY), {"run1"}, set(), 20)
    claims.bury(50)
    claims.ask(ask("run2", "a", first="e", holds=("x/i",)), 51)

    assert ["run2"] == granted(claims, 51)
    assert 1 == claims.resources(51)["wip:x"].used
    claims.release(ClaimRelease(run="run2", first="e", holds=("x/i",)), 52)
    assert 0 == claims.resources(52)["wip:x"].used


def test_lost_release_is_mended_by_the_next_ask() -> None:
    """A run names what it has not released; all else of it is free."""
    claims = book(a=1)
    claims.ask(ask("p", "a"), 0)
    granted(claims)

    claims.ask(ask("p", "a", number=2), 1)

    assert ["p"] == granted(claims, 1)


def test_rate_opens_when_its_window_has_passed() -> None:
    """Who waits for a rate is told when to look again."""
    caps = {"requests:a": (Cap(amount=2, seconds=10.0, bucket=1.0),)}
    claims = ClaimBook(ClaimsState(limits=ClaimLimits(caps=caps)))
    for run in "pqr":
        claims.ask(ask(run, "a", amounts={"requests:a": 1}), 100)

    assert ["p", "q"] == granted(claims, 100)
    assert [] == granted(claims, 101)
    assert 100 < claims.due() <= 112
    assert ["r"] == granted(claims, claims.due())


def test_tokens_are_corrected_to_what_was_used() -> None:
    """Less than expected comes back at once; more than there is takes all of it."""
    caps = {"tokens:a": (Cap(amount=100, seconds=60.0, bucket=1.0),)}
    claims = ClaimBook(ClaimsState(limits=ClaimLimits(caps=caps)))
    claims.ask(ask("p", "a", amounts={"tokens:a": 1_000}), 0)
    claims.ask(ask("q", "a", amounts={"tokens:a": 60}), 0)

    assert ["p"] == granted(claims, 1)
    claims.release(release("p", used={"tokens:a": 40}), 2)
    assert ["q"] == granted(claims, 2)
    claims.release(release("q", used={"tokens:a": 70}), 3)
    assert 110 == claims.resources(3)["tokens:a"].used


def test_nothing_is_granted_while_closed() -> None:
    """After a recovery without knowledge nobody gets anything for a while."""
    claims = ClaimBook(ClaimsState(limits=limits(a=1), closed_until=50, closed_why="?"))
    claims.ask(ask("p", "a"), 1)

    assert [] == granted(claims, 1)
    assert 50 == claims.due()
    assert ["p"] == granted(claims, 50)


def test_state_goes_on_where_it_was() -> None:
    """Another book made of the state grants the same to the same."""
    claims = book(a=1, wip_x=2)
    for run, priority in (("p", 3), ("q", 3), ("r", 1)):
        more = {"hold": f"x/{run}", "priority": priority}
        claims.ask(ask(run, "a", **more), 0)
    granted(claims)

    raw = claims.state().model_dump_json()
    other = ClaimBook(ClaimsState.model_validate_json(raw))

    assert claims.state() == other.state()
    other.release(release("r"), 1)
    assert ["p"] == granted(other, 1)
    assert {"wip:x": 2} == {
        n: u.used for n, u in other.resources(1).items() if n.startswith("wip")
    }


RUNS = st.sampled_from([f"r{number}" for number in range(8)])
STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("ask"), RUNS, st.sets(st.sampled_from("ab"), max_size=2),
            st.booleans(), st.integers(1, 5),
        ),
        st.tuples(st.just("release"), RUNS, st.booleans()),
        st.tuples(st.just("die"), RUNS),
        st.tuples(st.just("wait"), st.floats(0, 20)),
        st.tuples(st.just("again")),
    ),
    max_size=60,
)  # fmt: skip


@settings(deadline=None)
@given(STEPS, st.integers(0, 3), st.integers(0, 3), st.integers(0, 3))
def test_gauges_never_pass_their_caps(steps: list[Any], a: int, b: int, x: int) -> None:
    """Whatever comes in whatever order; and in the end nothing is left over."""
    claims, now, numbers = book(a=a, b=b, wip_x=x), 0.0, dict[str, int]()
    for step in steps:
        match step:
            case ("ask", run, needs, hold, priority):
                numbers[run] = numbers.get(run, 0) + 1
                more = {"hold": f"x/{run}"} if hold or not needs else {}
                wanted = ask(
                    run, *sorted(needs), number=numbers[run], priority=priority, **more
                )
                claims.ask(wanted, now)
            case ("release", run, hold):
                holds = (f"x/{run}",) if hold else ()
                claims.release(release(run, numbers.get(run, 1), holds=holds), now)
            case ("die", run):
                claims.examined(claims.unheard(math.inf, 0, MANY), {run}, {run}, now)
            case ("wait", seconds):
                now += seconds
                claims.bury(now)
            case _:
                claims = ClaimBook(claims.state())
        claims.grant(now, MANY)
        for name, use in claims.resources(now).items():
            assert 0 <= use.used <= (use.cap or 0), name
    runs = {f"r{number}" for number in range(8)}
    claims.examined([], runs, runs, now)
    claims.bury(math.inf)
    assert claims.idle
    assert all(use.used == 0 for use in claims.resources(now).values())


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 5), st.booleans()), max_size=30))
def test_everybody_is_served_in_order(wants: list[tuple[int, bool]]) -> None:
    """Of those that need the same, nobody passes another of higher rank."""
    claims = book(a=1, wip_x=1)
    for number, (priority, hold) in enumerate(wants):
        run = f"r{number}"
        more = {"hold": f"x/{run}"} if hold else {}
        claims.ask(ask(run, "a", priority=priority, **more), 0)

    served = []
    while one := granted(claims):
        served += one
        claims.release(release(one[0], holds=(f"x/{one[0]}",)), 0)

    ranked = sorted(range(len(wants)), key=lambda n: (wants[n][0], n))
    assert [f"r{n}" for n in ranked] == served


@pytest.mark.parametrize("waiting", [500])
def test_500_waiters_are_cheap(waiting: int) -> None:
    """A pass over a long line does no work that grows with its square."""
    claims = book(a=1)
    for number in range(waiting):
        claims.ask(ask(f"r{number}", "a"), 0)

    for number in range(waiting):
        assert [f"r{number}"] == granted(claims)
        claims.release(release(f"r{number}"), 0)

    assert claims.idle
