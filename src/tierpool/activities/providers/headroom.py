"""What a provider's headers say that it still takes; pure.

Each limit (requests, tokens, input and output tokens) is a bucket that fills
again: `reset` is the time until it is full.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from tierpool.activities.providers.retry_hint import (
    LONGEST_HINT,
    rate_limits,
    seconds_until,
)
from tierpool.budget.rates import Headroom
from tierpool.contracts import Usage

__all__ = ["headroom"]


@dataclass(frozen=True, slots=True)
class _Bucket:
    what: str
    """`requests`, `tokens`, `input-tokens`, `output-tokens`."""
    remaining: float
    limit: float | None
    reset: float
    """Seconds until it is full."""


def headroom(
    headers: Mapping[str, str], usage: Usage | None, now: datetime
) -> Headroom | None:
    """Return the tightest of the limits that the headers tell of.

    Args:
        headers: Of a response with status 200; names in lower case, or
            case-insensitive.
        usage: Of the call that was answered; if unknown, limits of tokens are left
            out.
        now: For resets that are times.

    Returns:
        None if nothing is told, or nothing that could be believed.
    """
    found = [_calls(bucket, usage) for bucket in _buckets(headers, now)]
    told = [one for one in found if one is not None]
    return min(told, key=lambda one: one.calls, default=None)


def _size(what: str, usage: Usage | None) -> int:
    """Return what a call takes from a bucket; 0 if nobody knows."""
    if what == "requests":
        return 1
    if usage is None:
        return 0
    new = usage.input_tokens - usage.cached_input_tokens
    sizes = {"input-tokens": new, "output-tokens": usage.output_tokens}
    return sizes.get(what, usage.input_tokens + usage.output_tokens)


def _calls(bucket: _Bucket, usage: Usage | None) -> Headroom | None:
    size = _size(bucket.what, usage)
    longest = LONGEST_HINT.total_seconds()
    if size <= 0 or bucket.remaining < 0 or not 0 < bucket.reset <= longest:
        return None
    missing = (bucket.limit or 0) - bucket.remaining
    speed = missing / bucket.reset if missing > 0 else 0.0
    return Headroom(bucket.remaining / size, speed / size, bucket.reset)


def _buckets(headers: Mapping[str, str], now: datetime) -> Iterator[_Bucket]:
    for told in rate_limits(headers):
        remaining = _number(told.remaining)
        wait = seconds_until(told.reset or "", now)
        if remaining is not None and wait is not None:
            yield _Bucket(told.what, remaining, _number(told.limit), wait)


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None
