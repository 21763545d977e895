"""The worst case of a call before it is made: exact, pure arithmetic.

Money is estimated from bytes: no tokenizer in use makes more tokens than a
text has UTF-8 bytes. Workflow code imports this module, so it reads no clock,
file or variable and takes prices only as arguments.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_FLOOR, Context, Decimal

from tierpool.blueprint import LongContextPrice, Price

__all__ = [
    "MESSAGE_TOKENS",
    "Quote",
    "input_bytes",
    "input_tokens",
    "worst_case_usd",
]

MESSAGE_TOKENS = 16
"""Tokens that a provider's chat template adds to a message, at most."""

SCHEMA_FACTOR = 2
"""Providers' forms of a schema are longer than the schema itself."""

MESSAGE_BYTES = 40
"""What a request's body has around each text: a key, a role, punctuation."""

REQUEST_BYTES = 512
"""What a request's body has besides texts and schema: names, options."""

_USEFUL_OUTPUT = 256
"""Output tokens below which a reply is cut off more often than not."""

_EXACT = Context(prec=120)
_MILLION = Decimal(1_000_000)


def input_bytes(texts: int, schema: int, messages: int) -> int:
    """Return the bytes that a request is expected to have at most.

    Args:
        texts: UTF-8 bytes of the prompt and of all messages.
        schema: UTF-8 bytes of the compact JSON Schema of the reply; 0 for none.
        messages: How many texts there are.
    """
    return texts + SCHEMA_FACTOR * schema + MESSAGE_BYTES * messages + REQUEST_BYTES


def input_tokens(size: int, messages: int) -> int:
    """Return the most input tokens of a request of so many bytes and messages."""
    return size + MESSAGE_TOKENS * messages


def worst_case_usd(input_tokens: int, output_tokens: int, price: Price) -> Decimal:
    """Return the most that a call can cost in USD, not rounded.

    Every input token counts at the dearest of the input, cache-read and
    cache-write prices, and every row of `long_context` that the call can reach
    counts as reached if it is dearer.
    """
    rates = _Dearest.of(price, input_tokens)
    total = _EXACT.add(
        _EXACT.multiply(Decimal(input_tokens), rates.input),
        _EXACT.multiply(Decimal(output_tokens), rates.output),
    )
    return total.scaleb(-6, context=_EXACT)


@dataclass(frozen=True, slots=True)
class Quote:
    """What a call may use, and what that costs at most."""

    input_bytes: int
    messages: int
    output_tokens: int
    """What the call asks for."""
    price: Price

    @property
    def usd(self) -> Decimal:
        """Worst case of the whole call."""
        return self.usd_with(self.output_tokens)

    @property
    def least_output(self) -> int:
        """Output below which the call is not worth its money.

        A quarter of what was asked for, and at least 256 tokens or all of it.
        """
        useful = max(_USEFUL_OUTPUT, self.output_tokens // 4)
        return min(self.output_tokens, useful)

    @property
    def least_usd(self) -> Decimal:
        """Worst case with the least output."""
        return self.usd_with(self.least_output)

    def usd_with(self, output_tokens: int) -> Decimal:
        """Return the worst case with another limit of output."""
        return worst_case_usd(self._input_tokens, output_tokens, self.price)

    def output_for(self, usd: Decimal) -> int:
        """Return the output tokens that an amount pays for, after the input.

        0 if that is less than `least_output`; never more than what is asked for.
        """
        if usd < self.least_usd:
            return 0
        rates = _Dearest.of(self.price, self._input_tokens)
        if not rates.output:
            return self.output_tokens
        left = _EXACT.subtract(usd, self.usd_with(0))
        tokens = _EXACT.divide(_EXACT.multiply(left, _MILLION), rates.output)
        whole = int(tokens.to_integral_value(ROUND_FLOOR, context=_EXACT))
        return min(self.output_tokens, whole)

    @property
    def _input_tokens(self) -> int:
        return input_tokens(self.input_bytes, self.messages)


@dataclass(frozen=True, slots=True)
class _Dearest:
    """The highest rates that a call may meet, in USD per million tokens."""

    input: Decimal
    output: Decimal

    @staticmethod
    def of(price: Price, input_tokens: int) -> _Dearest:
        rows: list[Price | LongContextPrice] = [
            price,
            *(p for p in price.long_context if input_tokens > p.above_input_tokens),
        ]
        return _Dearest(
            max(_input(row) for row in rows),
            max(row.output_usd_per_mtok for row in rows),
        )


def _input(row: Price | LongContextPrice) -> Decimal:
    rates = (
        row.input_usd_per_mtok,
        row.cached_input_usd_per_mtok,
        row.cache_write_usd_per_mtok,
    )
    return max(rate for rate in rates if rate is not None)
