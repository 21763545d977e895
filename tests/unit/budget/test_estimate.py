"""The worst case is exact and no usage within its bounds costs more."""

from __future__ import annotations

import decimal
from decimal import Decimal, localcontext
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tierpool.blueprint import LongContextPrice, Price
from tierpool.budget.cost import cost_usd
from tierpool.budget.estimate import (
    MESSAGE_TOKENS,
    Quote,
    input_bytes,
    input_tokens,
    worst_case_usd,
)
from tierpool.contracts import Usage

FREE = Price(input_usd_per_mtok=Decimal(0), output_usd_per_mtok=Decimal(0))
FLAT = Price(input_usd_per_mtok=Decimal("0.10"), output_usd_per_mtok=Decimal("0.40"))
CACHED = Price(
    input_usd_per_mtok=Decimal("3.00"),
    cached_input_usd_per_mtok=Decimal("0.30"),
    cache_write_usd_per_mtok=Decimal("3.75"),
    output_usd_per_mtok=Decimal("15.00"),
)
CHEAPER_ABOVE = Price(
    input_usd_per_mtok=Decimal(3),
    output_usd_per_mtok=Decimal(15),
    long_context=(
        LongContextPrice(
            above_input_tokens=1_000,
            input_usd_per_mtok=Decimal(1),
            output_usd_per_mtok=Decimal(60),
        ),
    ),
)

TINY = Decimal("1e-60")
TOKENS = st.one_of(
    st.integers(0, 3_000), st.integers(0, 10_000_000), st.integers(0, 10**18)
)
RATES = st.one_of(
    st.just(Decimal(0)),
    st.decimals(0, 100, allow_nan=False, allow_infinity=False, places=9),
    st.decimals(0, 10**9, allow_nan=False, allow_infinity=False, places=30),
)


@st.composite
def prices(draw: st.DrawFn) -> Price:
    """Prices without any sense: free parts, cheaper long contexts, dear cache reads."""

    def rates() -> dict[str, Decimal | None]:
        return {
            "input_usd_per_mtok": draw(RATES),
            "cached_input_usd_per_mtok": draw(st.none() | RATES),
            "cache_write_usd_per_mtok": draw(st.none() | RATES),
            "output_usd_per_mtok": draw(RATES),
        }

    limits = draw(st.lists(st.integers(1, 5_000) | st.integers(1, 10**7), max_size=3))
    rows = [{"above_input_tokens": limit, **rates()} for limit in limits]
    return Price.model_validate({**rates(), "long_context": rows})


@st.composite
def usages(draw: st.DrawFn, bound: int, limit: int) -> Usage:
    """Usages within the bounds, whatever part of the input was read or written."""
    total = draw(st.just(bound) | st.integers(0, bound))
    cached = draw(st.integers(0, total))
    return Usage(
        input_tokens=total,
        cached_input_tokens=cached,
        cache_write_tokens=draw(st.integers(0, total - cached)),
        output_tokens=draw(st.just(limit) | st.integers(0, limit)),
    )


@st.composite
def quotes(draw: st.DrawFn) -> Quote:
    return Quote(
        input_bytes=draw(TOKENS),
        messages=draw(st.integers(0, 200)),
        output_tokens=draw(st.integers(1, 1_000) | st.integers(1, 10**6)),
        price=draw(prices()),
    )


def exact(bound: int, limit: int, price: Price) -> Fraction:
    """Say the worst case again, in fractions."""
    rows = [
        price,
        *(row for row in price.long_context if bound > row.above_input_tokens),
    ]
    dearest = max(
        Fraction(rate)
        for row in rows
        for rate in (
            row.input_usd_per_mtok,
            row.cached_input_usd_per_mtok,
            row.cache_write_usd_per_mtok,
        )
        if rate is not None
    )
    output = max(Fraction(row.output_usd_per_mtok) for row in rows)
    return (bound * dearest + limit * output) / 1_000_000


@pytest.mark.parametrize(
    ("expected", "bound", "limit", "price"),
    [
        ("0", 0, 0, FLAT),
        ("0", 10**12, 10**12, FREE),
        ("0.0000001", 1, 0, FLAT),
        ("0.50", 1_000_000, 1_000_000, FLAT),
        ("0.00525", 1_000, 100, CACHED),  # every token could be written to the cache
        ("0.0045", 1_000, 100, CHEAPER_ABOVE),
        ("0.009003", 1_001, 100, CHEAPER_ABOVE),  # dear input below, dear output above
    ],
)
def test_worst_cases_are_those_calculated_by_hand(
    expected: str, bound: int, limit: int, price: Price
) -> None:
    """All input counts at the dearest rate that it can meet, and all output too."""
    assert Decimal(expected) == worst_case_usd(bound, limit, price)


@given(price=prices(), bound=TOKENS, limit=TOKENS, data=st.data())
def test_no_usage_within_the_bounds_costs_more(
    price: Price, bound: int, limit: int, data: st.DataObject
) -> None:
    """Whatever is cached, written, and whichever row of long contexts is reached."""
    usage = data.draw(usages(bound, limit))

    assert cost_usd(usage, price) <= worst_case_usd(bound, limit, price)


@given(price=prices(), bound=TOKENS, limit=TOKENS)
def test_worst_case_is_exact(price: Price, bound: int, limit: int) -> None:
    """The same sum in fractions has the same value."""
    assert exact(bound, limit, price) == Fraction(worst_case_usd(bound, limit, price))


@given(price=prices(), bound=TOKENS, limit=TOKENS, more=st.integers(0, 10**6))
def test_more_tokens_are_never_a_smaller_worst_case(
    price: Price, bound: int, limit: int, more: int
) -> None:
    """An input that may pass a limit with cheaper prices stays as dear as below it."""
    worst = worst_case_usd(bound, limit, price)

    assert worst <= worst_case_usd(bound + more, limit, price)
    assert worst <= worst_case_usd(bound, limit + more, price)


@given(quote=quotes(), usd=RATES)
def test_context_of_the_caller_does_not_matter(quote: Quote, usd: Decimal) -> None:
    """Neither its digits nor its traps change a result."""
    expected = quote.usd, quote.least_usd, quote.output_for(usd)

    with localcontext() as context:
        context.prec = 2
        context.rounding = decimal.ROUND_UP
        context.traps[decimal.Inexact] = True
        found = quote.usd, quote.least_usd, quote.output_for(usd)

    assert expected == found


@given(quote=quotes(), data=st.data())
@example(quote=Quote(0, 0, 1, FREE), data=None)
def test_output_is_all_that_an_amount_pays_for(
    quote: Quote, data: st.DataObject | None
) -> None:
    """It fits, one token more would not; less than the least useful output is none."""
    usd = data.draw(amounts(quote)) if data else Decimal(0)

    output = quote.output_for(usd)

    if usd < quote.least_usd:
        assert 0 == output
    else:
        assert quote.least_output <= output <= quote.output_tokens
        assert quote.usd_with(output) <= usd
        full = output == quote.output_tokens
        assert full or quote.usd_with(output + 1) > usd


@st.composite
def amounts(draw: st.DrawFn, quote: Quote) -> Decimal:
    """Amounts around those where the answer changes."""
    tokens = draw(st.integers(0, quote.output_tokens + 1) | st.just(quote.least_output))
    around = draw(st.sampled_from([-TINY, Decimal(0), TINY]))
    with localcontext() as context:
        context.prec = 200
        near = quote.usd_with(tokens) + around
    return draw(st.just(near) | RATES | st.just(Decimal(-1)))


@pytest.mark.parametrize(
    ("least", "asked"),
    [(1, 1), (255, 255), (256, 256), (256, 257), (256, 1_024), (257, 1_028)],
)
def test_least_output_is_a_quarter_and_256_tokens(least: int, asked: int) -> None:
    """A call that asks for less than 256 tokens needs all of them."""
    assert least == Quote(0, 0, asked, FLAT).least_output


@pytest.mark.parametrize(
    ("expected", "usd"),
    [
        (0, "0.00010639999"),  # a hair less than 256 tokens of output cost
        (256, "0.0001064"),
        (256, "0.00010679999"),
        (257, "0.0001068"),
        (999, "0.00040399999"),
        (1_000, "0.000404"),
        (1_000, "1"),
    ],
)
def test_output_is_cut_to_the_token(expected: int, usd: str) -> None:
    """By hand: 40 tokens of input cost 0.000004 USD, one of output 0.0000004."""
    quote = Quote(input_bytes=8, messages=2, output_tokens=1_000, price=FLAT)

    assert expected == quote.output_for(Decimal(usd))


def test_free_models_get_their_output_without_money() -> None:
    """A price of 0 needs no budget, an amount below 0 still pays for nothing."""
    quote = Quote(10**9, 10, 4_096, FREE)

    assert 4_096 == quote.output_for(Decimal(0))
    assert 0 == quote.output_for(Decimal("-0.01"))


@given(texts=TOKENS, schema=TOKENS, messages=st.integers(0, 10_000))
def test_bytes_and_messages_bound_the_tokens(
    texts: int, schema: int, messages: int
) -> None:
    """Each byte is a token at most, a schema may grow, and nothing is forgotten."""
    size = input_bytes(texts, schema, messages)

    assert texts + 2 * schema + 20 * messages < size
    assert size + MESSAGE_TOKENS * messages == input_tokens(size, messages)
