"""What the scripted provider can be told to do with a request.

Only data: how a step looks in each wire format is in `openai_wire` and
`anthropic_wire`, and `provider` plays it.
"""

from __future__ import annotations

import asyncio
import json as json_module
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Literal, TypeAlias

from pydantic import JsonValue

from tierpool.contracts import Usage

__all__ = [
    "CutConnection",
    "Fail",
    "Garbage",
    "NoUsage",
    "Overloaded",
    "QuotaExceeded",
    "RateLimited",
    "Reply",
    "ServerError",
    "SlowFirstByte",
    "Stall",
    "Step",
    "Wire",
]

Wire: TypeAlias = Literal["openai", "anthropic"]

_NOTHING = timedelta(0)


@dataclass(frozen=True)
class Reply:
    """Answer with a text or with JSON."""

    text: str = "ok"
    json: JsonValue = None
    """Written out instead of `text`, unless it is None."""
    usage: Usage | None = None
    """None counts a token for four bytes, and cuts the text off at max tokens."""
    report_usage: bool = True
    cached_tokens: int = 0
    """Part of the counted input that came from the cache."""
    first_byte_delay: timedelta = _NOTHING
    """Time before the status line."""
    delay: timedelta = _NOTHING
    """Time from the status line to the end, spread over the chunks."""
    chunks: int = 3
    """Pieces of a streamed text; at most one for each character."""
    model: str | None = None
    """What the answer says about the model; None repeats the request's."""
    finish_reason: str = "stop"
    """stop, length, content_filter or refusal; translated for each wire."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Sent with the answer, such as those of rate limits."""
    gate: asyncio.Event | None = field(default=None, compare=False)
    """The answer waits for this event after `first_byte_delay`."""

    def content(self) -> str:
        """Return the text as it is sent."""
        if self.json is None:
            return self.text
        return json_module.dumps(self.json, ensure_ascii=False)


@dataclass(frozen=True)
class NoUsage(Reply):
    """Answer completely, but report no usage."""

    report_usage: bool = False


@dataclass(frozen=True)
class SlowFirstByte(Reply):
    """Take long before the first byte."""

    first_byte_delay: timedelta = timedelta(seconds=30)


@dataclass(frozen=True)
class Stall(Reply):
    """Send some chunks, then nothing more, with the connection open."""

    after_chunks: int = 1


@dataclass(frozen=True)
class CutConnection(Reply):
    """Send some chunks, then close the connection."""

    after_chunks: int | None = 1
    """None closes it instead of answering at all."""
    after_finish: bool = False
    """Close it only after all chunks and the finish reason; OpenAI's usage is lost."""


@dataclass(frozen=True)
class Garbage:
    """Answer with status 200 and something that is not the wire format."""

    kind: Literal["html", "bad_json", "wrong_shape", "empty"] = "bad_json"


@dataclass(frozen=True)
class Fail:
    """Answer with an error in the provider's own form."""

    status: int = 400
    message: str = "the request is not valid"
    kind: str = ""
    """The error's type; empty means what the wire uses for this status."""
    code: str | None = None
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str | None = None
    """Sent instead of the provider's form, as a gateway's page would be."""
    after_chunks: int | None = None
    """None answers with the status; n streams n chunks and then the error."""
    text: str = "some words before the error"

    def on(self, wire: Wire, now: datetime) -> Fail:
        """Return the error as this wire would send it."""
        return self


@dataclass(frozen=True)
class RateLimited(Fail):
    """Answer 429, with the wait in one of the dialects that are met."""

    status: int = 429
    message: str = "Rate limit reached for requests"
    wait: timedelta = timedelta(seconds=1)
    dialect: Literal["seconds", "float", "ms", "date", "reset", "google", "none"] = (
        "seconds"
    )

    def on(self, wire: Wire, now: datetime) -> Fail:
        """Write the wait as headers; `google` goes into the body."""
        headers, body = {**self.headers}, self.body
        seconds = self.wait.total_seconds()
        match self.dialect:
            case "seconds":
                headers["retry-after"] = str(round(seconds))
            case "float":
                headers["retry-after"] = str(seconds)
            case "ms":
                headers["retry-after-ms"] = str(round(seconds * 1000))
            case "date":
                headers["date"] = _http_date(now)
                headers["retry-after"] = _http_date(now + self.wait)
            case "reset":
                headers |= _reset_headers(wire, now, self.wait)
            case "google":
                body = _google_body(self.message, seconds)
            case "none":
                pass
        code = "rate_limit_exceeded" if wire == "openai" else None
        return Fail(
            429, self.message, self.kind, self.code or code, None, headers, body
        )


@dataclass(frozen=True)
class QuotaExceeded(Fail):
    """Refuse because the account has no money left; waiting does not help."""

    def on(self, wire: Wire, now: datetime) -> Fail:
        """Return OpenAI's 429 or Anthropic's 400."""
        if wire == "openai":
            text = "You exceeded your current quota, please check your plan"
            return Fail(429, text, "insufficient_quota", "insufficient_quota")
        text = "Your credit balance is too low to access the Anthropic API"
        return Fail(400, text, "invalid_request_error")


@dataclass(frozen=True)
class Overloaded(Fail):
    """Refuse because the provider is overloaded."""

    status: int = 529
    message: str = "Overloaded"
    kind: str = "overloaded_error"


@dataclass(frozen=True)
class ServerError(Fail):
    """Fail inside the provider, before or (`after_chunks`) within the reply."""

    status: int = 500
    message: str = "The server had an error while processing your request"


Step: TypeAlias = Reply | Fail | Garbage


def _http_date(at: datetime) -> str:
    return format_datetime(at.astimezone(UTC), usegmt=True)


def _reset_headers(wire: Wire, now: datetime, wait: timedelta) -> dict[str, str]:
    if wire == "anthropic":
        at = (now + wait).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {
            "date": _http_date(now),
            "anthropic-ratelimit-requests-remaining": "0",
            "anthropic-ratelimit-requests-reset": at,
            "anthropic-ratelimit-tokens-remaining": "9000",
            "anthropic-ratelimit-tokens-reset": "2099-01-01T00:00:00Z",
        }
    minutes, seconds = divmod(wait.total_seconds(), 60)
    return {
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": f"{int(minutes)}m{seconds:g}s",
        "x-ratelimit-remaining-tokens": "9000",
        "x-ratelimit-reset-tokens": "250ms",
    }


def _google_body(message: str, seconds: float) -> str:
    info = {
        "@type": "type.googleapis.com/google.rpc.RetryInfo",
        "retryDelay": f"{seconds:g}s",
    }
    error = {
        "code": 429,
        "message": message,
        "status": "RESOURCE_EXHAUSTED",
        "details": [info],
    }
    return json_module.dumps([{"error": error}])
