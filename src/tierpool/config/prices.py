"""Finds the price of every model of a file; one of 0 only for what is `free`.

Where bundled prices come from is in `budget.pricing`. A price of 0 that nobody
meant would switch off every budget, so it has to be said twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import TypeAlias

from tierpool.blueprint import Fallback, LongContextPrice, Price, Tier, split_model
from tierpool.config.credentials import model_path, models_of
from tierpool.config.parts import Parts
from tierpool.config.report import Key, Report

__all__ = ["PriceFinder", "Prices", "find_prices"]

PriceFinder: TypeAlias = Callable[[str], Price]
"""Finds the bundled price of `provider:model`; raises LookupError if unknown."""

Prices: TypeAlias = dict[tuple[str, int], Price]
"""Price of each model, by tier and number of the fallback (0 is the tier's own)."""

FREE = Price(
    input_usd_per_mtok=Decimal(0), output_usd_per_mtok=Decimal(0), source="free: true"
)
"""Price of a model that costs nothing and has no `price:`."""

_NEVER_ZERO = ("input_usd_per_mtok", "output_usd_per_mtok")
_RATES = (*_NEVER_ZERO, "cached_input_usd_per_mtok", "cache_write_usd_per_mtok")


def find_prices(parts: Parts, find_price: PriceFinder, report: Report) -> Prices:
    """Find the price of every model; a missing or doubtful one is an error."""
    prices: Prices = {}
    for name, tier in parts.tiers.items():
        for number, model in models_of(tier) if tier is not None else ():
            path = model_path(name, number)
            if model.free:
                price = _free(model, find_price, path, report)
            elif model.price is not None:
                price = _written(model.price, path, report)
            else:
                price = _bundled(model, find_price, path, report)
            if price is not None:
                prices[name, number] = price
    return prices


def _free(
    model: Tier | Fallback,
    find_price: PriceFinder,
    path: tuple[Key, ...],
    report: Report,
) -> Price | None:
    """Return a price of 0; a written one must agree, a bundled one should."""
    if model.price is None:
        _doubt(model, find_price, path, report)
        return FREE
    above = [
        (place, rate)
        for place, rate in _rates(model.price, _RATES)
        if rate and rate > 0
    ]
    for place, _ in above:
        report.error(
            (*path, "price", *place),
            "a price above 0 for a model that is `free: true`",
            hint="leave out `price:` if the model costs nothing, or `free:` if it does",
        )
    if above:
        return None
    said = (
        {"source": FREE.source} if "source" not in model.price.model_fields_set else {}
    )
    return model.price.model_copy(update=said)


def _doubt(
    model: Tier | Fallback,
    find_price: PriceFinder,
    path: tuple[Key, ...],
    report: Report,
) -> None:
    """Warn where the provider itself asks money for what is said to be free."""
    if model.base_url is not None or split_model(model.model)[0] == "local":
        return
    try:
        listed = find_price(model.model)
    except LookupError:
        return
    if listed.output_usd_per_mtok:
        report.warning(
            (*path, "free"),
            f"{model.model} counts as free, but its bundled price is "
            f"{listed.input_usd_per_mtok:f} USD per million tokens of input and "
            f"{listed.output_usd_per_mtok:f} of output",
            hint="no budget holds its calls; leave out `free:` unless it is true",
        )


def _written(price: Price, path: tuple[Key, ...], report: Report) -> Price | None:
    zeros = [place for place, rate in _rates(price, _NEVER_ZERO) if rate == 0]
    for place in zeros:
        report.error(
            (*path, "price", *place),
            "a price of 0 without `free: true`: no budget would hold these calls",
            hint="add `free: true` beside `price:` if the model costs nothing; "
            "else write what it costs",
        )
    return None if zeros else price


def _bundled(
    model: Tier | Fallback,
    find_price: PriceFinder,
    path: tuple[Key, ...],
    report: Report,
) -> Price | None:
    at = (*path, "model")
    if split_model(model.model)[0] == "local":
        report.error(
            at,
            "a local model has no bundled price",
            hint="add `free: true` if it costs nothing, or price: "
            "{input_usd_per_mtok: …, output_usd_per_mtok: …}",
        )
        return None
    try:
        price = find_price(model.model)
    except LookupError as error:
        text = str(error.args[0]) if error.args else "no bundled price"
        report.error(at, text, hint="add `price:` beside the model")
        return None
    if any(rate == 0 for _, rate in _rates(price, _NEVER_ZERO)):
        report.error(
            at,
            f"the bundled price of {model.model} has a 0: no budget would hold its calls",
            hint="add `free: true` if the model costs nothing, or `price:` with what "
            "it costs",
        )
        return None
    return price


def _rates(
    price: Price, names: tuple[str, ...]
) -> Iterator[tuple[tuple[Key, ...], Decimal | None]]:
    """Return the rates of a price, long contexts included, each with its place."""
    rows: Mapping[tuple[Key, ...], Price | LongContextPrice] = {
        (): price,
        **{("long_context", n): row for n, row in enumerate(price.long_context)},
    }
    for place, row in rows.items():
        for name in names:
            yield (*place, name), getattr(row, name)
