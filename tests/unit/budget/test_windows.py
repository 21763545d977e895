"""Rolling windows: nothing is forgotten too early."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierpool.budget.windows import Meter, Windows, stricter
from tierpool.contracts.ledger import Cap

HOUR = Cap(amount=100, seconds=3600.0, bucket=60.0)

uses = st.lists(
    st.tuples(st.floats(0, 5000), st.integers(1, 40)), min_size=1, max_size=60
)


@given(uses, st.floats(0, 4000))
def test_what_lies_within_the_window_always_counts(
    made: list[tuple[float, int]], later: float
) -> None:
    meter = Meter(HOUR)
    for at, amount in made:
        meter.book(at, amount)
    now = max(at for at, _ in made) + later

    within = sum(amount for at, amount in made if at > now - 3600)
    nearly = sum(amount for at, amount in made if at > now - 3660)
    assert within <= meter.used(now) <= nearly


@given(uses, st.integers(1, 100))
def test_it_opens_when_it_says_so_and_not_before(
    made: list[tuple[float, int]], needs: int
) -> None:
    meter = Meter(HOUR)
    for at, amount in made:
        meter.book(at, amount)
    now = max(at for at, _ in made)

    wait = meter.opens(now, 0, needs)

    assert Meter(HOUR, meter.state()).fits(now + wait + 0.001, 0, needs)
    if wait > 0:
        assert not meter.fits(now, 0, needs)


def test_what_is_held_has_to_come_back_by_itself() -> None:
    meter = Meter(HOUR)
    meter.book(10.0, 30)
    assert math.isinf(meter.opens(10.0, 90, 20))
    assert meter.opens(10.0, 60, 20) == pytest.approx(3650.0)


def test_gauge_counts_what_is_held_and_nothing_else() -> None:
    meter = Meter(Cap(amount=4))
    meter.book(1.0, 100)
    assert meter.room(1.0, 3) == 1
    assert meter.fits(1.0, 3, 1)
    assert not meter.fits(1.0, 4, 1)


def test_pace_lets_a_large_amount_into_an_empty_window() -> None:
    """Else a request above a tenth of the minute would never begin."""
    meter = Meter(Cap(amount=10, seconds=6.0, bucket=0.5, paces=True))
    assert meter.fits(0.0, 0, 50)
    assert not meter.fits(0.0, 1, 50)
    meter.book(0.0, 50)
    assert not meter.fits(6.0, 0, 1)
    assert meter.opens(0.0, 0, 50) == pytest.approx(6.5)


def test_correction_takes_back_what_was_booked() -> None:
    meter = Meter(HOUR)
    meter.book(10.0, 80)
    meter.book(10.0, -30)
    assert meter.used(11.0) == 50


def test_changed_caps_know_what_was_used() -> None:
    windows = Windows({"usd": (HOUR,)})
    windows.book("usd", 10.0, 60)
    windows.change(
        {"usd": (HOUR.model_copy(update={"amount": 50}),), "calls": (Cap(amount=2),)}
    )

    assert windows.room("usd", 11.0, 0) == -10
    assert windows.room("calls", 11.0, 0) == 2
    assert windows.room("tokens", 11.0, 0) is None


def test_of_two_files_the_stricter_one_counts() -> None:
    low, high = HOUR.model_copy(update={"amount": 20}), HOUR
    both = stricter({"usd": (high,), "calls": (Cap(amount=3),)}, {"usd": (low,)})
    assert both == {"usd": (low,), "calls": (Cap(amount=3),)}
