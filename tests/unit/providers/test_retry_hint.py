"""Retry-After in all its dialects, without a server."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierpool.activities.providers.retry_hint import (
    LONGEST_HINT,
    read_duration,
    retry_hint,
)

NOW = datetime(2026, 10, 21, 7, 28, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "0"}, 0),
        ({"retry-after": "-3"}, 0),
        ({"retry-after": "3600"}, 3600),
        ({"retry-after": "3601"}, 3600),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:30 GMT"}, 30),
        ({"retry-after": "Wed, 21 Oct 2026 07:27:00 GMT"}, 0),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:30"}, 30),
        ({"retry-after": "Wed, 99 Oct 2026 07:28:30 GMT"}, None),
        ({"retry-after": "Thu, 21 Oct 2027 07:28:30 GMT"}, None),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after-ms": "x", "retry-after": "9"}, None),
        ({"x-ratelimit-reset-requests": "6m0s"}, 360),
        ({"x-ratelimit-reset-requests": "250ms", "x-ratelimit-reset-tokens": "1s"}, 1),
        (
            {
                "x-ratelimit-reset-requests": "2s",
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-tokens": "40s",
                "x-ratelimit-remaining-tokens": "100",
            },
            2,
        ),
        ({"x-ratelimit-reset-requests": "later"}, None),
        ({"anthropic-ratelimit-requests-reset": "2026-10-21T07:29:00Z"}, 60),
        ({"anthropic-ratelimit-tokens-reset": "2026-10-21T07:29:00"}, None),
        ({"anthropic-ratelimit-tokens-reset": "whenever"}, None),
        ({"retry-after": "5", "x-ratelimit-reset-requests": "9s"}, 5),
        ({"retry-after": "86401", "x-ratelimit-reset-requests": "9s"}, None),
    ],
)
def test_headers(headers, seconds):
    """Each form is read, absurd and unreadable ones are unknown."""
    expected = None if seconds is None else timedelta(seconds=seconds)

    assert expected == retry_hint(headers, None, NOW, limited=True)


def test_the_servers_own_clock_counts():
    """A date is compared with the Date of the same response, not with our clock."""
    headers = {
        "date": "Wed, 21 Oct 2026 09:00:00 GMT",
        "retry-after": "Wed, 21 Oct 2026 09:00:20 GMT",
    }

    assert timedelta(seconds=20) == retry_hint(headers, None, NOW, limited=True)


def test_resets_say_nothing_about_other_errors():
    """The reset of a rate limit is no hint when the error is another one."""
    headers = {"x-ratelimit-reset-requests": "6m0s"}

    assert retry_hint(headers, None, NOW, limited=False) is None


@pytest.mark.parametrize("wrap", [lambda b: b, lambda b: [b], lambda b: b["error"]])
def test_retry_info_in_the_body(wrap):
    """Google's RetryInfo is found however the error is wrapped."""
    info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "7s"}
    body = {"error": {"code": 429, "details": [{"@type": "other"}, info]}}

    assert timedelta(seconds=7) == retry_hint({}, wrap(body), NOW, limited=True)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1h2m3.5s", 3723.5), ("20ms", 0.02), ("1d", 86400), ("", None), ("5", None)],
)
def test_durations(text, seconds):
    """Milliseconds are not minutes, and a bare number is no duration."""
    assert seconds == read_duration(text)


@given(
    st.dictionaries(
        st.sampled_from(
            [
                "date",
                "retry-after",
                "retry-after-ms",
                "x-ratelimit-reset-tokens",
                "anthropic-ratelimit-tokens-reset",
            ]
        ),
        st.text(max_size=40) | st.floats().map(str) | st.integers().map(str),
    ),
    st.recursive(
        st.none() | st.text() | st.integers(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=5,
    ),
)
def test_any_header_gives_a_usable_hint_or_none(headers, body):
    """Whatever a server sends, the hint is None or from 0 to an hour."""
    hint = retry_hint(headers, body, NOW, limited=True)

    assert hint is None or timedelta(0) <= hint <= LONGEST_HINT
