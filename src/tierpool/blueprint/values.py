"""The scalar values of agents.yaml: money, budgets, durations, names, addresses.

Each is a type that pydantic validates and that says in its errors what would
be right. What is built of them is in `models`.
"""

from __future__ import annotations

import math
import re
from datetime import timedelta
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    WithJsonSchema,
)

__all__ = [
    "PROVIDERS",
    "BaseUrl",
    "Budget",
    "Duration",
    "EnvName",
    "ModelRef",
    "Money",
    "Name",
    "read_budget",
    "split_model",
]

PROVIDERS = ("openai", "anthropic", "local")
"""Prefixes of `model:`. `local` is any OpenAI-compatible server without a key."""

MAX_BUDGET_USD = Decimal(1_000_000)
"""Largest budget; anything above it is taken for a slip."""

_BUDGET_DIGITS = 9

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}


def _duration(value: Any) -> Any:
    """Read seconds or text such as `90s`, `30m`, `2h`, `1d`."""
    if isinstance(value, timedelta):
        return value
    if isinstance(value, bool):
        raise ValueError("expected seconds or text such as 90s, 30m, 2h, 1d")  # noqa: TRY004 - pydantic wants ValueError
    if isinstance(value, int | float | Decimal):
        seconds = float(value)
    else:
        match = _DURATION.fullmatch(str(value).strip())
        if not match:
            raise ValueError("expected seconds or text such as 90s, 30m, 2h, 1d")
        seconds = float(match[1]) * _SECONDS[match[2]]
    if not math.isfinite(seconds) or not 0 < seconds <= 366 * 86400:
        raise ValueError("expected more than 0 seconds and at most 366 days")
    return timedelta(seconds=seconds)


def _money(value: Any) -> Any:
    """Read USD exactly: a YAML float is taken by its written digits."""
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        raise ValueError("expected an amount in USD, such as 1.50")  # noqa: TRY004
    try:
        amount = Decimal(str(value))
    except InvalidOperation:
        raise ValueError("expected an amount in USD, such as 1.50") from None
    if not amount.is_finite():
        raise ValueError("expected a finite amount in USD")
    return amount


def read_budget(value: object) -> Decimal:
    """Read a budget in USD: a number, or text such as `1.50`, taken by its digits.

    Returns:
        More than 0, at most `MAX_BUDGET_USD`, with no more than 9 digits after
        the point.

    Raises:
        ValueError: for everything else, also NaN and infinity; the text says
            what would be right, not what the value was.
    """
    try:
        amount: Decimal = _money(value)
    except ValueError:
        raise ValueError("expected a budget in USD, such as 1.50") from None
    if amount <= 0:
        raise ValueError(
            "a budget must be more than 0 USD; leave it out for no limit, and to stop "
            "the calls of a tier or a role set its max_instances to 0"
        )
    if amount > MAX_BUDGET_USD:
        raise ValueError(f"a budget must be at most {MAX_BUDGET_USD:,} USD")
    if amount != round(amount, _BUDGET_DIGITS):
        raise ValueError(
            f"a budget must have at most {_BUDGET_DIGITS} digits after the point"
        )
    return amount


def _usd_schema(**bounds: int) -> WithJsonSchema:
    """Describe an amount for editors: bounds hold for numbers, text is a number too."""
    number = {"type": "number", **bounds}
    return WithJsonSchema({"anyOf": [number, {"type": "string"}]})


Duration = Annotated[
    timedelta,
    BeforeValidator(_duration, json_schema_input_type=float | str),
    PlainSerializer(timedelta.total_seconds, return_type=float),
]
"""Seconds as a number, or text such as `90s`, `30m`, `2h`, `1d`."""

Money = Annotated[
    Decimal,
    BeforeValidator(_money),
    Field(ge=0, le=Decimal(1_000_000_000)),
    _usd_schema(minimum=0, maximum=1_000_000_000),
]
"""An exact amount in USD."""

Budget = Annotated[
    Decimal,
    BeforeValidator(read_budget),
    _usd_schema(exclusiveMinimum=0, maximum=int(MAX_BUDGET_USD)),
]
"""An exact amount in USD that calls may cost; see `read_budget`."""

Name = Annotated[
    str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}$", examples=["implementer"])
]
"""A letter, then letters, digits, `_` and `-`; at most 64 characters."""

ModelRef = Annotated[
    str,
    Field(
        pattern=rf"^({'|'.join(PROVIDERS)}):\S+$",
        max_length=200,
        examples=["openai:gpt-5-nano", "anthropic:claude-sonnet-4-6"],
    ),
]
"""`provider:model`, where provider is openai, anthropic or local."""


def _base_url(value: str) -> str:
    if not re.match(r"^https?://[^\s/]+", value):
        raise ValueError("expected an address such as http://127.0.0.1:8099")
    if "@" in value.split("//", 1)[1].split("/", 1)[0]:
        raise ValueError(
            "an address must not carry a password: it would reach the history; "
            "name the variable that holds the key with api_key_env"
        )
    if "?" in value:
        raise ValueError(
            "an address must not carry a query: it would reach the history"
        )
    return value.rstrip("/")


BaseUrl = Annotated[str, Field(max_length=500), AfterValidator(_base_url)]
EnvName = Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]{0,99}$")]


def split_model(model: str) -> tuple[str, str]:
    """Split `provider:model` into its two parts."""
    provider, _, name = model.partition(":")
    return provider, name
