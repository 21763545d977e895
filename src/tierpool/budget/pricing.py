"""Prices of known models, from the data bundled with genai-prices.

Only the lookup lives here; what a call costs is in `cost`. genai-prices is
imported on first use, because importing it takes most of a second. Its lookup
is generous (`gpt-5.1-mini` finds the price of another model), so a match
counts only if it is the configured model or a dated form of it. Its opt-in
updates over the network are never used.
"""

from __future__ import annotations

import difflib
import re
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, NamedTuple

from tierpool.blueprint import LongContextPrice, Price, split_model

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, Provider, TieredPrices

__all__ = ["find_price"]

_DATE = re.compile(r"[-@](?:\d{8}|\d{4}-\d{2}-\d{2}|\d{4}|latest)$")
"""Endings that fix a version of the same model, such as `-20250929`."""

_KEYS = {
    "input_usd_per_mtok": "input_mtok",
    "cached_input_usd_per_mtok": "cache_read_mtok",
    "cache_write_usd_per_mtok": "cache_write_mtok",
    "output_usd_per_mtok": "output_mtok",
}
"""Our price fields and genai-prices' names for them.

Cache writes are those kept for five minutes, the providers' default.
"""


class _Found(NamedTuple):
    prices: ModelPrice
    since: str
    """Day from which these prices hold, where the data say so; else empty."""


def find_price(model: str, *, now: datetime | None = None) -> Price:
    """Return the bundled price of `provider:model`.

    Prices that begin on a date or hold for hours of the day are those that
    hold at `now` (aware; default: the present). `as_of` is the day from which
    they hold, where the data say so.

    Raises:
        LookupError: if the model is not known under this very name or a dated
            form of it, or if tokens alone do not determine its price.
    """
    provider_id, name = split_model(model)
    provider = _providers().get(provider_id)
    if provider is None:
        raise LookupError(_unknown(model, ()))
    info = _find(provider, name)
    if info is None:
        raise LookupError(_unknown(model, _nearest(provider, name)))
    found = _at(info, now or datetime.now(UTC))
    if found.prices.input_mtok is None or found.prices.output_mtok is None:
        raise LookupError(
            f"the bundled price of {model!r} is not one of input and output tokens; "
            "use a model that answers in text, or set `price:` beside it in agents.yaml"
        )
    return _price(found)


@cache
def _providers() -> dict[str, Provider]:
    """Return the bundled data of the providers that we can call."""
    # The bundled list itself: the library's default snapshot may have been
    # replaced by somebody else in this process.
    from genai_prices.data import providers

    return {p.id: p for p in providers if p.id in {"openai", "anthropic"}}


def _find(provider: Provider, name: str) -> ModelInfo | None:
    for known in provider.models:
        if known.id == name:
            return known
    match = provider.find_model(name)
    return match if match is not None and _same(match.id, name) else None


def _same(known: str, name: str) -> bool:
    """Tell whether one is the other, up to a date that only one of them has."""
    bare_known, bare_name = _DATE.sub("", known), _DATE.sub("", name)
    undated = known in {bare_known, f"{bare_known}-latest"} or name == bare_name
    return bare_known == bare_name and undated


def _at(info: ModelInfo, now: datetime) -> _Found:
    prices = info.get_prices(now)
    since = ""
    if isinstance(info.prices, list):
        for conditional in info.prices:
            day = getattr(conditional.constraint, "start_date", None)
            if conditional.prices is prices and day is not None:
                since = day.isoformat()
    return _Found(prices, since)


def _price(found: _Found) -> Price:
    values = {field: getattr(found.prices, key) for field, key in _KEYS.items()}
    starts = {
        step.start
        for value in values.values()
        for step in getattr(value, "tiers", ())
        if step.start > 0
    }
    return Price(
        **{field: _above(value, 0) for field, value in values.items()},
        long_context=tuple(
            LongContextPrice(
                above_input_tokens=start,
                **{field: _above(value, start) for field, value in values.items()},
            )
            for start in sorted(starts)
        ),
        source=f"genai-prices {version('genai-prices')}",
        as_of=found.since,
    )


def _above(value: Decimal | TieredPrices | None, start: int) -> Decimal | None:
    """Return the price that holds just above `start` input tokens."""
    if value is None or isinstance(value, Decimal):
        return value
    passed = [step for step in value.tiers if step.start <= start]
    return max(passed, key=lambda step: step.start).price if passed else value.base


def _nearest(provider: Provider, name: str) -> tuple[str, ...]:
    known = [info.id for info in provider.models]
    return tuple(difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5))


def _unknown(model: str, nearest: tuple[str, ...]) -> str:
    provider_id, _ = split_model(model)
    hint = ", ".join(f"{provider_id}:{name}" for name in nearest)
    return (
        f"no price is known for {model!r}"
        + (f"; nearest known: {hint}" if hint else "")
        + "; correct the name, or set `price:` beside the model in agents.yaml"
    )
