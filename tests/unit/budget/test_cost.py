"""Cost is exact, never negative, and a function of usage and price alone."""

from __future__ import annotations

from decimal import Decimal, localcontext
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierpool.blueprint import LongContextPrice, Price
from tierpool.budget.cost import cost_usd
from tierpool.contracts import Usage

SONNET = Price(
    input_usd_per_mtok=Decimal("3.00"),
    cached_input_usd_per_mtok=Decimal("0.30"),
    cache_write_usd_per_mtok=Decimal("3.75"),
    output_usd_per_mtok=Decimal("15.00"),
    long_context=(
        LongContextPrice(
            above_input_tokens=200_000,
            input_usd_per_mtok=Decimal("6.00"),
            cached_input_usd_per_mtok=Decimal("0.60"),
            cache_write_usd_per_mtok=Decimal("7.50"),
            output_usd_per_mtok=Decimal("22.50"),
        ),
    ),
)
FLAT = Price(input_usd_per_mtok=Decimal("0.10"), output_usd_per_mtok=Decimal("0.40"))

TOKENS = st.integers(0, 10_000_000)
MONEY = st.decimals(0, 10_000, allow_nan=False, allow_infinity=False, places=9)
COUNTS = ("input_tokens", "output_tokens", "cached_input_tokens", "cache_write_tokens")


@st.composite
def prices(draw: st.DrawFn) -> Price:
    """Prices where cache reads are cheaper and long contexts dearer, as in life."""
    plain, cached, written, output = (draw(MONEY) for _ in range(4))
    base = Price(
        input_usd_per_mtok=plain,
        cached_input_usd_per_mtok=draw(st.sampled_from([None, min(cached, plain)])),
        cache_write_usd_per_mtok=draw(st.sampled_from([None, max(written, plain)])),
        output_usd_per_mtok=output,
    )
    factors = sorted(draw(st.lists(st.integers(1, 5), max_size=3)))
    steps = [
        LongContextPrice(
            above_input_tokens=100_000 * number,
            input_usd_per_mtok=factor * plain,
            cache_write_usd_per_mtok=factor * max(written, plain),
            output_usd_per_mtok=factor * output,
        )
        for number, factor in enumerate(factors, 1)
    ]
    return base.model_copy(update={"long_context": tuple(steps)})


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    """Usages that a provider could report: the parts are parts of the input."""
    plain, cached, written, output = (draw(TOKENS) for _ in range(4))
    return Usage(
        input_tokens=plain + cached + written,
        cached_input_tokens=cached,
        cache_write_tokens=written,
        output_tokens=output,
    )


@pytest.mark.parametrize(
    ("price", "counts", "expected"),
    [
        (FLAT, (0, 0, 0, 0), "0"),
        (FLAT, (1, 0, 0, 0), "0.0000001"),
        (FLAT, (1_000_000, 1_000_000, 0, 0), "0.50"),
        (FLAT, (1_000, 0, 900, 50), "0.0001"),
        (SONNET, (1_000, 100, 0, 0), "0.0045"),
        (SONNET, (1_000, 0, 800, 100), "0.000915"),
        (SONNET, (200_000, 1_000, 0, 0), "0.615"),
        (SONNET, (200_001, 1_000, 0, 0), "1.222506"),
        (SONNET, (300_000, 0, 250_000, 50_000), "0.525"),
        (SONNET, (10, 0, 100, 0), "0.00003"),
    ],
)
def test_costs_are_those_calculated_by_hand(
    price: Price, counts: tuple[int, int, int, int], expected: str
) -> None:
    """Each count is charged at its price, per million tokens."""
    usage = Usage(**dict(zip(COUNTS, counts, strict=True)))

    assert Decimal(expected) == cost_usd(usage, price)


def test_no_tokens_cost_a_plain_zero() -> None:
    """Zero has no exponent, so that it reads as 0 in the history."""
    assert "0" == str(cost_usd(Usage(), SONNET))


@given(usage=usages(), price=prices(), more=st.integers(1, 1_000_000))
def test_more_tokens_never_cost_less(usage: Usage, price: Price, more: int) -> None:
    """Cost is monotone in input and in output tokens."""
    for name in ("input_tokens", "output_tokens"):
        larger = usage.model_copy(update={name: getattr(usage, name) + more})

        assert cost_usd(usage, price) <= cost_usd(larger, price)


@given(usage=usages(), price=prices(), data=st.data())
def test_a_cache_read_never_costs_more_and_a_write_never_less(
    usage: Usage, price: Price, data: st.DataObject
) -> None:
    """Moving plain input into the cache changes the cost in the right direction."""
    plain = usage.input_tokens - usage.cached_input_tokens - usage.cache_write_tokens
    moved = data.draw(st.integers(0, plain))
    if price.long_context:
        price = price.model_copy(update={"long_context": ()})

    read = usage.model_copy(
        update={"cached_input_tokens": usage.cached_input_tokens + moved}
    )
    written = usage.model_copy(
        update={"cache_write_tokens": usage.cache_write_tokens + moved}
    )

    assert cost_usd(read, price) <= cost_usd(usage, price) <= cost_usd(written, price)


@given(first=usages(), second=usages(), price=prices())
def test_calls_below_every_limit_add_up(
    first: Usage, second: Usage, price: Price
) -> None:
    """Without long-context prices the cost of a sum is the sum of the costs."""
    flat = price.model_copy(update={"long_context": ()})

    together = cost_usd(first + second, flat)

    assert cost_usd(first, flat) + cost_usd(second, flat) == together


@given(
    counts=st.tuples(TOKENS, TOKENS, TOKENS, TOKENS), price=prices(), digits=st.just(6)
)
def test_nonsense_of_a_provider_is_charged_and_never_negative(
    counts: tuple[int, int, int, int], price: Price, digits: int
) -> None:
    """More cached tokens than input still cost what they were reported as."""
    usage = Usage(**dict(zip(COUNTS, counts, strict=True)))

    with localcontext() as context:
        context.prec = digits  # the caller's context must not matter
        cost = cost_usd(usage, price)

    assert 0 <= cost
    assert cost_usd(usage, price) == cost
    assert cost.is_finite()


@given(usage=usages(), price=prices())
def test_cost_is_exact(usage: Usage, price: Price) -> None:
    """The same sum in exact fractions has the same value."""
    passed = [
        s for s in price.long_context if usage.input_tokens > s.above_input_tokens
    ]
    rates = passed[-1] if passed else price
    plain = usage.input_tokens - usage.cached_input_tokens - usage.cache_write_tokens

    def rate(value: Decimal | None) -> Fraction:
        return Fraction(rates.input_usd_per_mtok if value is None else value)

    expected = (
        plain * rate(None)
        + usage.cached_input_tokens * rate(rates.cached_input_usd_per_mtok)
        + usage.cache_write_tokens * rate(rates.cache_write_usd_per_mtok)
        + usage.output_tokens * Fraction(rates.output_usd_per_mtok)
    ) / 1_000_000

    assert expected == Fraction(cost_usd(usage, price))


def test_the_order_of_long_context_prices_does_not_matter() -> None:
    """The highest limit that is passed decides."""
    higher = LongContextPrice(
        above_input_tokens=500_000,
        input_usd_per_mtok=Decimal(9),
        output_usd_per_mtok=Decimal(30),
    )
    steps = (higher, *SONNET.long_context)
    usage = Usage(input_tokens=600_000, output_tokens=1_000_000)

    cost = cost_usd(usage, SONNET.model_copy(update={"long_context": steps}))

    assert Decimal("35.4") == cost
