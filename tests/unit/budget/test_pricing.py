"""Prices come from the bundled data under the configured name, or not at all."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from genai_prices import Usage as PricedUsage
from genai_prices.data import providers
from genai_prices.types import ModelInfo, Provider
from hypothesis import given, settings
from hypothesis import strategies as st

from tierpool.budget.cost import cost_usd
from tierpool.budget.pricing import find_price
from tierpool.contracts import Usage

NOW = datetime(2026, 11, 20, tzinfo=UTC)


def _text_models() -> list[tuple[Provider, ModelInfo]]:
    """Models of both providers that are priced by input and output tokens."""
    found = []
    for provider in providers:
        if provider.id not in {"openai", "anthropic"}:
            continue
        for info in provider.models:
            prices = info.get_prices(NOW)
            if prices.input_mtok is not None and prices.output_mtok is not None:
                found.append((provider, info))
    return found


MODELS = _text_models()


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("openai:gpt-5-nano", ("0.05", "0.005", None, "0.4")),
        ("openai:gpt-5-mini", ("0.25", "0.025", None, "2")),
        ("openai:gpt-5", ("1.25", "0.125", None, "10")),
        ("openai:gpt-4o-2024-08-06", ("2.5", "1.25", None, "10")),
        ("openai:gpt-4o-2024-05-13", ("5", None, None, "15")),
        ("anthropic:claude-haiku-4-5", ("1", "0.1", "1.25", "5")),
        ("anthropic:claude-sonnet-4-5-20250929", ("3", "0.3", "3.75", "15")),
        ("anthropic:claude-3-5-haiku-20241022", ("0.8", "0.08", "1", "4")),
    ],
)
def test_a_known_model_has_the_prices_of_the_bundled_data(
    model: str, expected: tuple[str | None, ...]
) -> None:
    """A model id, or a dated form of one, gives its four prices."""
    price = find_price(model, now=NOW)

    found = (
        price.input_usd_per_mtok,
        price.cached_input_usd_per_mtok,
        price.cache_write_usd_per_mtok,
        price.output_usd_per_mtok,
    )
    assert tuple(None if e is None else Decimal(e) for e in expected) == found
    assert price.source.startswith("genai-prices 0.2.")


@pytest.mark.parametrize(
    "model",
    [
        "openai:gpt-5.1-mini",  # the library prices it as gpt-5.1-codex-mini
        "openai:gpt-5-chat-latest",  # the library prices it as gpt-5
        "openai:gpt-5-nano-foo",
        "openai:gpt-4o-2024-05-14",
        "openai:GPT-5",
        "openai:gpt-5-2025",
        "anthropic:claude-haiku-4-5-turbo",
        "anthropic:claude-sonnet",
        "anthropic:gpt-5",
    ],
)
def test_a_model_that_only_resembles_a_known_one_has_no_price(model: str) -> None:
    """The error names the model and the remedy."""
    with pytest.raises(LookupError) as caught:
        find_price(model, now=NOW)

    assert model in str(caught.value)
    assert "`price:`" in str(caught.value)
    assert "agents.yaml" in str(caught.value)


def test_the_error_names_near_models() -> None:
    """A typing error is shown the name that was meant."""
    with pytest.raises(LookupError, match="openai:gpt-5-nano"):
        find_price("openai:gpt-5-nanno", now=NOW)


def test_a_local_model_has_no_bundled_price() -> None:
    """Who serves a model has to say what it costs."""
    with pytest.raises(LookupError, match=r"'local:smollm2'.*`price:`"):
        find_price("local:smollm2")


def test_a_model_that_is_not_priced_by_tokens_is_refused() -> None:
    """An embedding model has no output price, and so none here."""
    with pytest.raises(LookupError, match="text-embedding-3-small"):
        find_price("openai:text-embedding-3-small")


def test_conditional_prices_are_those_of_the_day() -> None:
    """A price that begins on a date holds from then on, and says since when."""
    model = "anthropic:claude-sonnet-4-6"

    before = find_price(model, now=datetime(2026, 3, 12, 23, 59, tzinfo=UTC))
    after = find_price(model, now=datetime(2026, 3, 13, tzinfo=UTC))

    assert [200_000] == [step.above_input_tokens for step in before.long_context]
    assert Decimal("22.5") == before.long_context[0].output_usd_per_mtok
    assert not after.long_context
    assert ("", "2026-03-13") == (before.as_of, after.as_of)


@settings(max_examples=300, deadline=None)
@given(
    model=st.sampled_from(MODELS),
    plain=st.integers(0, 400_000),
    cached=st.integers(0, 400_000),
    written=st.integers(0, 400_000),
    output=st.integers(0, 200_000),
)
def test_costs_agree_with_the_library_for_every_text_model(
    model: tuple[Provider, ModelInfo],
    plain: int,
    cached: int,
    written: int,
    output: int,
) -> None:
    """Our price and our arithmetic give what genai-prices calculates itself."""
    provider, info = model
    total = plain + cached + written
    usage = Usage(
        input_tokens=total,
        cached_input_tokens=cached,
        cache_write_tokens=written,
        output_tokens=output,
    )

    ours = cost_usd(usage, find_price(f"{provider.id}:{info.id}", now=NOW))

    theirs = info.calc_price(
        PricedUsage(
            input_tokens=total,
            cache_read_tokens=cached,
            cache_write_tokens=written,
            output_tokens=output,
        ),
        provider,
        genai_request_timestamp=NOW,
    ).total_price
    assert theirs == ours


def test_importing_the_module_does_not_import_the_price_data() -> None:
    """A worker that needs no prices does not pay for loading them."""
    code = (
        "import sys, tierpool.budget.pricing, tierpool.budget.cost;"
        "sys.exit('genai_prices' in sys.modules)"
    )

    done = subprocess.run([sys.executable, "-c", code], check=False)

    assert 0 == done.returncode
