"""How long a provider asks to wait, in every dialect that is met; pure.

Headers and an error's body go in, a duration comes out. What to do with it is
not decided here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import NamedTuple

__all__ = [
    "LONGEST_HINT",
    "RateLimit",
    "rate_limits",
    "read_duration",
    "retry_hint",
    "seconds_until",
]

LONGEST_HINT = timedelta(hours=1)
"""After so long a provider that asks for more is asked again."""

_ABSURD = timedelta(days=1)
"""A longer hint counts as unknown."""

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


_TOLD = ("reset", "remaining", "limit")


class RateLimit(NamedTuple):
    """One limit as the headers tell it; None where they do not."""

    what: str
    """`requests`, `tokens`, `input-tokens`, `output-tokens`."""
    timed: bool
    """Whether the reset is usually told as a time, not as a duration."""
    reset: str | None
    remaining: str | None
    limit: str | None


def retry_hint(
    headers: Mapping[str, str], body: object, now: datetime, *, limited: bool
) -> timedelta | None:
    """Return the provider's hint; None if there is no usable one.

    The first form that is present decides, even if it turns out unusable: a
    weaker one would only guess shorter.

    Args:
        headers: Of the response; names in lower case, or case-insensitive.
        body: Decoded JSON of the response, of any shape.
        now: Used where the response has no Date header of its own.
        limited: Whether the status is 429; only then the resets of the rate
            limits say something about this request.
    """
    now = _http_date(headers.get("date", "")) or now
    if "retry-after-ms" in headers:
        return _bounded(_number(headers["retry-after-ms"], 0.001))
    if "retry-after" in headers:
        return _bounded(_after(headers["retry-after"], now))
    from_body = _retry_info(body)
    if from_body is not None:
        return _bounded(from_body)
    return _bounded(_resets(headers, now)) if limited else None


def read_duration(text: str) -> float | None:
    """Read `6m0s`, `250ms` or `7s` as seconds; None for anything else."""
    text = text.strip()
    if not text or _DURATION.sub("", text):
        return None
    return sum(float(n) * _SECONDS[unit] for n, unit in _DURATION.findall(text))


def seconds_until(text: str, now: datetime) -> float | None:
    """Read the reset of a rate limit, a duration or an RFC 3339 time, as seconds."""
    wait = read_duration(text)
    return _until(text, now) if wait is None else wait


def _bounded(seconds: float | None) -> timedelta | None:
    if seconds is None or not math.isfinite(seconds):
        return None
    if seconds > _ABSURD.total_seconds():
        return None
    return min(timedelta(seconds=max(0.0, seconds)), LONGEST_HINT)


def _number(text: str, scale: float = 1.0) -> float | None:
    try:
        return float(text) * scale
    except ValueError:
        return None


def _after(text: str, now: datetime) -> float | None:
    seconds = _number(text)
    if seconds is not None:
        return seconds
    at = _http_date(text)
    return None if at is None else (at - now).total_seconds()


def _http_date(text: str) -> datetime | None:
    try:
        at = parsedate_to_datetime(text)
    except (TypeError, ValueError, OverflowError):
        return None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _retry_info(body: object) -> float | None:
    """Find google.rpc.RetryInfo among the details of an error."""
    if isinstance(body, Sequence) and not isinstance(body, str):
        body = body[0] if body else None
    if isinstance(body, Mapping) and isinstance(body.get("error"), Mapping):
        body = body["error"]
    details = body.get("details") if isinstance(body, Mapping) else None
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, Mapping) and "RetryInfo" in str(detail.get("@type")):
            return read_duration(str(detail.get("retryDelay", "")))
    return None


def rate_limits(headers: Mapping[str, str]) -> Iterator[RateLimit]:
    """Yield the limits whose reset is told, as OpenAI and Anthropic name them."""
    for name in map(str.lower, headers):
        if name.startswith("x-ratelimit-reset-"):
            what = name.removeprefix("x-ratelimit-reset-")
            timed, names = False, [f"x-ratelimit-{kind}-{what}" for kind in _TOLD]
        elif name.startswith("anthropic-ratelimit-") and name.endswith("-reset"):
            what = name.removeprefix("anthropic-ratelimit-").removesuffix("-reset")
            timed, names = True, [f"anthropic-ratelimit-{what}-{k}" for k in _TOLD]
        else:
            continue
        yield RateLimit(what, timed, *(headers.get(one) for one in names))


def _resets(headers: Mapping[str, str], now: datetime) -> float | None:
    """Return the latest reset of the limits that are used up, else of all."""
    used_up: list[float] = []
    others: list[float] = []
    for told in rate_limits(headers):
        text = told.reset or ""
        wait = _until(text, now) if told.timed else read_duration(text)
        if wait is not None:
            (used_up if told.remaining == "0" else others).append(wait)
    return max(used_up or others, default=None)


def _until(text: str, now: datetime) -> float | None:
    """Read an RFC 3339 time as seconds from now."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (at - now).total_seconds() if at.tzinfo else None
