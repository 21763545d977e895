"""What a pool did within the last five minutes."""

from __future__ import annotations

import pytest

from tierpool.contracts.reports import Window
from tierpool.pools.meter import Meter

from .conftest import Clock


@pytest.fixture
def meter(clock: Clock) -> Meter:
    made = Meter(clock)
    made.note(0, 4)
    return made


def test_time_is_weighed_by_what_held(meter: Meter, clock: Clock) -> None:
    clock.now = 10
    meter.note(2, 4)
    clock.now = 20
    meter.note(4, 4)
    clock.now = 30

    window = meter.window()

    assert (60, 120) == (window.busy_seconds, window.capacity_seconds)
    assert 0.5 == window.utilisation


def test_only_five_minutes_count(meter: Meter, clock: Clock) -> None:
    meter.note(4, 4)
    for second in range(1, 400):
        clock.now = second
        meter.note(4 if second < 50 else 0, 4)
    window = meter.window()
    assert 300 <= window.seconds <= 310
    assert 0 == window.busy_seconds


def test_calls_are_counted_for_ever_and_for_a_while(meter: Meter, clock: Clock) -> None:
    meter.ended(2.0, failed=False)
    meter.ended(4.0, failed=True)
    assert 3.0 == meter.window().mean_seconds
    for second in range(1, 400):
        clock.now = second
        meter.note(0, 4)
    assert (2, 1, 6.0) == (meter.calls, meter.failed, meter.call_seconds)
    assert (0, None) == (meter.window().completed, meter.window().mean_seconds)


def test_calls_of_a_shrunk_pool_are_no_use_above_one(
    meter: Meter, clock: Clock
) -> None:
    meter.note(4, 1)
    clock.now = 10
    assert 1.0 == meter.window().utilisation


def test_paused_pool_has_no_utilisation(clock: Clock) -> None:
    meter = Meter(clock)
    meter.note(0, 0)
    clock.now = 10
    assert None is meter.window().utilisation


def test_windows_of_processes_add_up() -> None:
    one = Window(seconds=300, busy_seconds=30, capacity_seconds=60, completed=3)
    other = Window(seconds=10, busy_seconds=0, capacity_seconds=40, completed=1)

    both = one + other

    assert (300, 0.3, 4) == (both.seconds, both.utilisation, both.completed)
