"""The arithmetic that judges a budget race, in `benchmarks/_judge.py`."""

from __future__ import annotations

import importlib.util
import sys
from decimal import Decimal
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "benchmarks" / "_judge.py"
CAP, WORST = Decimal(4), Decimal(1)


@pytest.fixture(scope="module")
def bench():
    """Load the module, which is in no package."""
    spec = importlib.util.spec_from_file_location("_judge", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["_judge"] = module  # dataclasses look it up
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        del sys.modules["_judge"]


def judged(bench, asked, billed):
    """Judge calls given as (label, asked, ended, outcome) and (label, from, to, usd)."""
    return bench.judge(
        [bench.AskedCall(*call) for call in asked],
        [bench.BilledCall(*call[:3], Decimal(call[3])) for call in billed],
        cap_usd=CAP,
        worst_usd=WORST,
    )


def test_a_full_cap_refuses_rightly(bench):
    """What is settled and what is under way leave no worst case: nothing is wrong."""
    asked = [(f"c{n}", 0, 5, "replied") for n in range(4)] + [("r", 1, 2, "refused")]
    billed = [(f"c{n}", 0, 5, "0.5") for n in range(4)]

    found = judged(bench, asked, billed)

    assert 0 == found.wrongful
    assert 1 == found.refused_before
    assert 0 == found.unused_usd
    assert 0.5 == found.ratio


def test_a_refusal_that_the_cap_would_pay_for_is_wrongful(bench):
    """Settled calls count with what they cost, not with their worst case."""
    asked = [(f"c{n}", 0, 5, "replied") for n in range(4)] + [("r", 6, 7, "refused")]
    billed = [(f"c{n}", 0, 5, "0.5") for n in range(4)]

    found = judged(bench, asked, billed)

    assert 1 == found.wrongful
    assert 2 == found.unused_usd


def test_refused_after_paying_is_told_apart(bench):
    """A refused call that the provider billed is money spent for nothing."""
    asked = [("c", 0, 1, "replied"), ("r", 1, 2, "refused")]
    billed = [("c", 0, 1, "3.5"), ("r", 1, 2, "1")]

    found = judged(bench, asked, billed)

    assert (0, 1) == (found.refused_before, found.refused_after_paying)
    assert 0 == found.wrongful
    assert 1.125 == found.ratio
    assert Decimal("0.5") == found.unused_usd


def test_failed_and_refused_calls_reserve_nothing(bench):
    """A call that never reached the provider holds no money once it has ended."""
    asked = [
        ("e", 0, 1, "error"),
        ("r1", 0, 1, "refused"),
        *((f"c{n}", 0, 9, "replied") for n in range(3)),
        ("r2", 2, 3, "refused"),
    ]

    found = judged(bench, asked, [])

    assert 1 == found.errors
    assert 2 == found.refused_before
    assert 2 == found.wrongful  # at both refusals three calls are under way
