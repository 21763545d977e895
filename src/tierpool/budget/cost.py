"""What a call's usage costs at a given price: exact, pure arithmetic.

Workflow code imports this module, so it reads no clock, file or variable and
takes prices only as arguments. Looking prices up is in `pricing`.
"""

from __future__ import annotations

from decimal import Context, Decimal

from tierpool.blueprint import LongContextPrice, Price
from tierpool.contracts import Usage

__all__ = ["cost_usd"]

_EXACT = Context(prec=120)
"""Enough digits that no price times a token count is ever rounded.

An own context, because the ambient one has 28 digits and belongs to the caller.
"""


def cost_usd(usage: Usage, price: Price) -> Decimal:
    """Return the cost in USD, not rounded.

    Cached and cache-write tokens are parts of the input and are charged at
    their own prices, or at the input price where there is none. Once the input
    passes a limit of `price.long_context`, the prices of the highest limit
    passed hold for the whole call, output included. Should a provider report
    more cached tokens than input, they are charged as reported and the rest of
    the input counts as 0: the result is never negative.
    """
    rates = _rates(usage.input_tokens, price)
    cached, written = usage.cached_input_tokens, usage.cache_write_tokens
    plain = max(0, usage.input_tokens - cached - written)
    parts = (
        (plain, rates.input_usd_per_mtok),
        (cached, _or_input(rates.cached_input_usd_per_mtok, rates)),
        (written, _or_input(rates.cache_write_usd_per_mtok, rates)),
        (usage.output_tokens, rates.output_usd_per_mtok),
    )
    total = Decimal(0)
    for tokens, usd_per_mtok in parts:
        if tokens and usd_per_mtok:
            amount = _EXACT.multiply(Decimal(tokens), usd_per_mtok)
            total = _EXACT.add(total, amount.scaleb(-6, context=_EXACT))
    return total


def _rates(input_tokens: int, price: Price) -> Price | LongContextPrice:
    passed = [p for p in price.long_context if input_tokens > p.above_input_tokens]
    return max(passed, key=lambda p: p.above_input_tokens) if passed else price


def _or_input(usd_per_mtok: Decimal | None, rates: Price | LongContextPrice) -> Decimal:
    return rates.input_usd_per_mtok if usd_per_mtok is None else usd_per_mtok
