"""What a provider's rate-limit headers leave room for."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tierpool.activities.providers.headroom import headroom
from tierpool.budget.rates import Headroom
from tierpool.contracts import Usage

THOUSAND = Usage(input_tokens=900, output_tokens=100)
CACHED = Usage(input_tokens=20_000, cached_input_tokens=18_000, output_tokens=100)
NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)


def openai(what: str, limit: str, remaining: str, reset: str) -> dict[str, str]:
    kinds = {"limit": limit, "remaining": remaining, "reset": reset}
    return {f"x-ratelimit-{kind}-{what}": value for kind, value in kinds.items()}


def test_requests_left_and_how_fast_they_come_back() -> None:
    headers = openai("requests", "500", "200", "60s")
    assert Headroom(200, 5, 60) == headroom(headers, None, NOW)


def test_tokens_count_by_the_size_of_a_call() -> None:
    headers = openai("tokens", "60000", "30000", "1m0s")
    assert Headroom(30, 0.5, 60) == headroom(headers, THOUSAND, NOW)
    assert None is headroom(headers, None, NOW)


def test_tightest_limit_counts() -> None:
    headers = openai("requests", "500", "200", "60s") | openai(
        "tokens", "60000", "3000", "57s"
    )
    assert Headroom(3, 1, 57) == headroom(headers, THOUSAND, NOW)


def test_anthropic_tells_times() -> None:
    name = "anthropic-ratelimit-output-tokens"
    headers = {
        f"{name}-limit": "8000",
        f"{name}-remaining": "2000",
        f"{name}-reset": "2026-11-21T09:00:30Z",
    }
    assert Headroom(20, 2, 30) == headroom(headers, CACHED, NOW)


def test_cached_input_takes_nothing_from_the_input_bucket() -> None:
    name = "anthropic-ratelimit-input-tokens"
    headers = {
        f"{name}-limit": "9000",
        f"{name}-remaining": "3000",
        f"{name}-reset": "2026-11-21T09:01:00Z",
    }
    assert Headroom(1.5, 0.05, 60) == headroom(headers, CACHED, NOW)


@pytest.mark.parametrize(
    ("limit", "remaining", "reset"),
    [
        ("500", "500", "0s"),  # full
        ("500", "-1", "60s"),
        ("500", "nan", "60s"),
        ("500", "some", "60s"),
        ("500", "10", "tomorrow"),
        ("500", "10", ""),
        ("500", "10", "90d"),
    ],
)
def test_nonsense_is_no_headroom(limit: str, remaining: str, reset: str) -> None:
    assert None is headroom(openai("requests", limit, remaining, reset), THOUSAND, NOW)


def test_without_a_limit_the_speed_is_unknown() -> None:
    headers = openai("requests", "", "3", "60s")
    assert Headroom(3, 0, 60) == headroom(headers, None, NOW)


def test_no_headers_say_nothing() -> None:
    assert None is headroom({"content-type": "text/event-stream"}, THOUSAND, NOW)
