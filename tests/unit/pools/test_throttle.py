"""What a process learns from a provider's refusals, answers and headers."""

from __future__ import annotations

import math

import pytest

from tierpool.budget.rates import Headroom
from tierpool.pools.throttle import Throttle

from .conftest import Clock


@pytest.fixture
def throttle(clock: Clock) -> Throttle:
    return Throttle("openai:small", clock)


def begin(throttle: Throttle, count: int) -> None:
    for _ in range(count):
        throttle.begin()


def answer(throttle: Throttle, count: int) -> None:
    for _ in range(count):
        throttle.answered()


def test_knows_no_bound_at_first(throttle: Throttle) -> None:
    assert (math.inf, 0, "") == (throttle.room, throttle.closed_for, throttle.why())


def test_refusal_closes_for_as_long_as_the_provider_asks(
    throttle: Throttle, clock: Clock
) -> None:
    throttle.begin()
    throttle.refused(7)
    assert (0, 7) == (throttle.room, throttle.closed_for)
    assert "openai:small takes no calls for 7 s" == throttle.why()
    clock.now += 7
    assert 0 == throttle.closed_for
    assert 1 == throttle.room


def test_refusals_of_calls_sent_together_cut_once(
    throttle: Throttle, clock: Clock
) -> None:
    begin(throttle, 10)
    for _ in range(4):
        throttle.refused(2)
    clock.now += 2
    assert 7 == throttle.room
    begin(throttle, 0)
    throttle.refused(2)
    clock.now += 2
    assert 4 == throttle.room  # 0.7 of 7, whatever else is under way


def test_recovers_by_one_for_each_round_of_answers(
    throttle: Throttle, clock: Clock
) -> None:
    begin(throttle, 10)
    throttle.refused(1)
    clock.now += 1
    answer(throttle, 7)
    assert 8 == throttle.allowed
    answer(throttle, 8)
    assert 9 == throttle.allowed


def test_what_was_refused_is_tried_again_slowly(
    throttle: Throttle, clock: Clock
) -> None:
    begin(throttle, 4)
    throttle.refused(1)
    clock.now += 1
    answer(throttle, 100)
    assert 3 == throttle.allowed
    clock.now += 30
    answer(throttle, 3)
    assert 4 == throttle.allowed
    answer(throttle, 100)
    assert 4 == throttle.allowed


def test_forgets_when_nothing_is_refused_for_long(
    throttle: Throttle, clock: Clock
) -> None:
    begin(throttle, 4)
    throttle.refused(1)
    clock.now += 301
    throttle.answered()
    assert math.inf == throttle.room


def test_pauses_double_without_a_hint_and_are_bounded(
    throttle: Throttle, clock: Clock
) -> None:
    pauses = []
    for _ in range(9):
        throttle.refused()
        pauses.append(throttle.closed_for)
        clock.now += throttle.closed_for
    assert [1, 2, 4, 8, 16, 32, 60, 60, 60] == pauses
    assert 1 == throttle.allowed
    throttle.answered()
    throttle.refused()
    assert 1 == throttle.closed_for


@pytest.mark.parametrize("hint", [1e9, 3600.0])
def test_absurd_hint_is_bounded(throttle: Throttle, hint: float) -> None:
    throttle.refused(hint)
    assert 3600 == throttle.closed_for


def test_headers_leave_room_for_what_the_provider_still_takes(
    throttle: Throttle, clock: Clock
) -> None:
    begin(throttle, 2)
    throttle.answered(Headroom(calls=3, per_second=0.5, seconds=60))
    assert 5 == throttle.room
    begin(throttle, 3)
    assert 2 == throttle.closed_for  # half a call a second
    clock.now += 2
    assert 6 == throttle.room
    clock.now += 58
    assert math.inf == throttle.room


def test_empty_bucket_of_unknown_speed_closes_until_it_is_full(
    throttle: Throttle,
) -> None:
    throttle.answered(Headroom(calls=0, per_second=0, seconds=9))
    assert 9 == throttle.closed_for


def test_newer_headers_replace_older_ones(throttle: Throttle) -> None:
    throttle.answered(Headroom(calls=0, per_second=0, seconds=9))
    throttle.answered(Headroom(calls=500, per_second=8, seconds=60))
    assert 0.125 == throttle.closed_for  # answers may overtake each other


def test_refused_key_lets_one_call_at_a_time_try_it(
    throttle: Throttle, clock: Clock
) -> None:
    begin(throttle, 9)
    throttle.refused_key("HTTP 401")
    throttle.refused_key("HTTP 401")
    assert (1, "HTTP 401") == (throttle.closed_for, throttle.why())
    for _ in range(9):
        throttle.end()
    clock.now += 1
    assert (1, False) == (throttle.room, throttle.unavailable)
    throttle.begin()
    assert (True, True) == (throttle.full, throttle.unavailable)
    throttle.refused_key("HTTP 401")
    assert 2 == throttle.closed_for
    clock.now += 2
    throttle.answered()
    throttle.end()
    assert (math.inf, "") == (throttle.room, throttle.why())


def test_steps_above_what_was_refused_double(throttle: Throttle, clock: Clock) -> None:
    throttle.begin()
    throttle.refused(1)
    clock.now += 1
    seen = []
    for _ in range(5):
        clock.now += 30
        answer(throttle, int(throttle.allowed))
        seen.append(throttle.allowed)
    assert [2, 4, 8, 16, 32] == seen


def test_all_that_wait_for_a_model_are_told(throttle: Throttle) -> None:
    told: list[str] = []
    throttle.listeners += [lambda: told.append("a"), lambda: told.append("b")]
    throttle.begin()
    throttle.end()
    assert ["a", "b"] == told
