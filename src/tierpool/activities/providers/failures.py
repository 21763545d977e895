"""What a failed call cost and what should come next, for every provider.

The table of statuses and of transport errors is here, with the scrubbing of
messages. How an SDK's error turns into a `Refusal` is each provider's own
matter. Both SDKs are built on httpx2 and let its errors through.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final

import httpx2

from tierpool.activities.providers.retry_hint import retry_hint
from tierpool.contracts import FailureDetail, NextStep, Outcome

__all__ = [
    "CutStream",
    "Refusal",
    "ReplyTooLong",
    "error_object",
    "explain_refusal",
    "explain_transport",
    "scrub",
]

MESSAGE_LIMIT = 200
"""Characters kept of a provider's own words."""

ECHO = 20
"""Characters in a row that count as an echo of the prompt."""


SHORTEST_KEY = 6


class CutStream(Exception):
    """The provider had begun to answer (status 200), but the reply has no end."""

    def __init__(self, cause: BaseException | None, *, tokens: bool) -> None:
        """Keep what cut it; None if the stream just ended.

        Args:
            cause: What was raised while the stream was read.
            tokens: Whether any token of the reply had arrived.
        """
        super().__init__("the stream was cut")
        self.cause, self.tokens = cause, tokens


class ReplyTooLong(Exception):
    """The reply is longer than any limit on output tokens allows."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error that a provider, or a gateway before it, answered."""

    status: int
    """HTTP status, or what the type of an error inside a stream stands for."""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: object = None
    """Decoded JSON of the whole answer, or text."""
    cut: CutStream | None = None
    """Set if the error came inside a stream."""

    def without(self, secret: str) -> Refusal:
        """Take a secret out of the body: nothing may be cut off within it later."""
        if len(secret) < SHORTEST_KEY:
            return self
        return replace(self, body=_without(self.body, secret))


_U, _A = Outcome.UNBILLED, Outcome.AMBIGUOUS
_STATUS: Final[Mapping[int, tuple[Outcome, NextStep]]] = {
    401: (_U, NextStep.FAILOVER),
    402: (_U, NextStep.FAILOVER),
    403: (_U, NextStep.FAILOVER),
    408: (_A, NextStep.RETRY),
    409: (_U, NextStep.RETRY),
    413: (_U, NextStep.FAILOVER),
    425: (_U, NextStep.RETRY),
    429: (_U, NextStep.RETRY),
    499: (_A, NextStep.RETRY),
    500: (_U, NextStep.RETRY),
    501: (_U, NextStep.FAIL),
    503: (_U, NextStep.RETRY),
    529: (_U, NextStep.RETRY),
}
"""Other statuses below 500 are unbilled and final; others from 500 on are a
gateway's and say nothing about what the provider did."""

_UNAVAILABLE = frozenset(
    [
        "insufficient_quota",
        "billing_hard_limit_reached",
        "billing_not_active",
        "billing_error",
        "account_deactivated",
        "model_not_found",
        "model_decommissioned",
    ]
)
"""Codes and types that no waiting mends, while another model may serve."""

_NO_CREDIT = re.compile(r"credit balance is too low|exceeded your current quota", re.I)
_TOO_LONG = frozenset(["context_length_exceeded", "exceed_context_size_error"])
"""Codes and types (OpenAI's, llama.cpp's) of more input than the model's window."""

_TOO_LONG_WORDS = re.compile(
    r"prompt is too long"  # Anthropic
    r"|exceeds?\b[^.]{0,60}\bcontext (?:limit|length|size|window)"  # Anthropic, vLLM
    r"|maximum context length"  # vLLM, Mistral, OpenAI
    r"|context length is only"  # vLLM from 0.16 on
    r"|input token count\b.{0,40}\bexceeds",  # Google
    re.I,
)

_NO_MODEL = re.compile(r"\bmodels?\b", re.I)

_SECRET = re.compile(
    r"bearer\s+\S+"
    r"|\b(?:sk|pk|rk|gsk|xai)[-_][\w*.-]{6,}"
    r"|\bAIza[\w-]{10,}"
    r"|[A-Za-z0-9_-]{40,}",
    re.I,
)


def explain_refusal(provider: str, refusal: Refusal) -> FailureDetail:
    """Judge an error that was answered."""
    error = error_object(refusal.body)
    outcome, step = _judge(refusal, error)
    limited = refusal.status == 429
    words = _describe(refusal, error)
    long = error is not None and _too_long(refusal.status, error)
    if long:
        words = f"the conversation with its reply exceeds the model's window: {words}"
    return FailureDetail(
        outcome=outcome,
        next=step,
        message=f"{provider}: {words}",
        provider=provider,
        status=refusal.status,
        about_input=long,
        retry_after=retry_hint(
            refusal.headers, refusal.body, datetime.now(UTC), limited=limited
        )
        if step is NextStep.RETRY
        else None,
    )


def explain_transport(provider: str, error: BaseException) -> FailureDetail:
    """Judge an error for which there was no answer, or only the start of one."""
    cut = error if isinstance(error, CutStream) else None
    cause = _root(cut.cause if cut else error)
    if cut is None:
        outcome, step, text = _unanswered(cause)
    elif isinstance(cause, ReplyTooLong):
        outcome, step, text = _A, NextStep.FAIL, str(cause)
    else:
        outcome, step, text = _A, NextStep.RETRY, _broken_stream(cause)
    return FailureDetail(
        outcome=outcome, next=step, message=f"{provider}: {text}", provider=provider
    )


def error_object(body: object) -> Mapping[str, object] | None:
    """Return the error in a provider's body; None if it is not a provider's body."""
    if isinstance(body, list) and body:  # Google wraps it in a list
        body = body[0]
    if not isinstance(body, Mapping):
        return None
    inner = body.get("error", body)
    return inner if isinstance(inner, Mapping) else {"message": inner}


def scrub(text: str, secrets: Iterable[str] = (), prompts: Iterable[str] = ()) -> str:
    """Shorten a foreign text and take out keys and echoes of the prompt."""
    for secret in secrets:
        if len(secret) >= SHORTEST_KEY:  # a shorter one would only garble words
            text = text.replace(secret, "[key]")
    text = _SECRET.sub("[key]", text)
    for prompt in prompts:
        text = _without_echo(text, prompt)
    return text


def _judge(
    refusal: Refusal, error: Mapping[str, object] | None
) -> tuple[Outcome, NextStep]:
    status = refusal.status
    default = (_A, NextStep.RETRY) if status >= 500 else (_U, NextStep.FAIL)
    outcome, step = _STATUS.get(status, default)
    if status == 500 and error is None:
        outcome = _A  # a gateway's page: the provider itself may be at work
    if error is not None and (_unavailable(status, error) or _too_long(status, error)):
        step = NextStep.FAILOVER
    if refusal.cut is not None and refusal.cut.tokens:
        outcome = _A
    return outcome, step


def _unavailable(status: int, error: Mapping[str, object]) -> bool:
    if {str(error.get("code")), str(error.get("type"))} & _UNAVAILABLE:
        return True
    message = str(error.get("message"))
    if status == 404 and (error.get("param") == "model" or _NO_MODEL.search(message)):
        return True
    return status in (400, 429) and bool(_NO_CREDIT.search(message))


def _too_long(status: int, error: Mapping[str, object]) -> bool:
    """Tell whether another model might take what is too long for this one."""
    if {str(error.get("code")), str(error.get("type"))} & _TOO_LONG:
        return True
    return status == 400 and bool(_TOO_LONG_WORDS.search(str(error.get("message"))))


def _describe(refusal: Refusal, error: Mapping[str, object] | None) -> str:
    where = " inside the stream" if refusal.cut else ""
    if error is None:
        return f"HTTP {refusal.status}{where}, without an error of the provider's own"
    words = [
        _word(error[name])
        for name in ("code", "type")
        if isinstance(error.get(name), str)
    ]
    names = " ".join(dict.fromkeys(words))
    message = error.get("message")
    text = f"HTTP {refusal.status}{where}" + (f" {names}" if names else "")
    if isinstance(error.get("param"), str):
        text += f" (field {_word(error['param'])})"
    return text + (f": {_words(message)}" if isinstance(message, str) else "")


def _without(value: object, secret: str) -> object:
    if isinstance(value, str):
        return value.replace(secret, "[key]")
    if isinstance(value, Mapping):
        return {name: _without(inner, secret) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without(inner, secret) for inner in value]
    return value


def _word(value: object) -> str:
    """Keep a name; anything that is not one could be an echo."""
    return scrub(re.sub(r"[^\w.\[\]-]", "", str(value))[:60])


def _words(message: str) -> str:
    """Put a provider's sentence on one line and cut it."""
    text = scrub(" ".join(message[: 20 * MESSAGE_LIMIT].split()))
    return text if len(text) <= MESSAGE_LIMIT else text[: MESSAGE_LIMIT - 1] + "…"


def _root(error: BaseException | None) -> BaseException | None:
    """Return what an SDK's connection error was raised from."""
    told = (httpx2.HTTPError, TimeoutError)  # a TimeoutError's cause is the cancel
    while error is not None and error.__cause__ and not isinstance(error, told):
        error = error.__cause__
    return error


def _unanswered(cause: BaseException | None) -> tuple[Outcome, NextStep, str]:
    match cause:
        case httpx2.ConnectError() | httpx2.ConnectTimeout() | httpx2.ProxyError():
            why = _words(str(cause))
            return _U, NextStep.RETRY, "cannot connect" + (f": {why}" if why else "")
        case httpx2.PoolTimeout():
            return _U, NextStep.RETRY, "no connection became free in time"
        case httpx2.UnsupportedProtocol() | httpx2.LocalProtocolError():
            # Its text may quote a header, so only its name is told.
            name = type(cause).__name__
            return _U, NextStep.FAIL, f"the request cannot be sent ({name})"
        case httpx2.TimeoutException() | TimeoutError():
            return _A, NextStep.RETRY, "no answer within the time limit"
        case httpx2.HTTPError() | OSError():
            name = type(cause).__name__
            return (
                _A,
                NextStep.RETRY,
                f"the connection was lost before an answer ({name})",
            )
        case httpx2.InvalidURL() | ValueError() | TypeError():
            name = type(cause).__name__
            return _U, NextStep.FAIL, f"the request cannot be built ({name})"
        case _:
            return _A, NextStep.FAIL, f"unexpected {type(cause).__name__}"


def _broken_stream(cause: BaseException | None) -> str:
    match cause:
        case None:
            return "the stream ended before the reply did"
        case httpx2.TimeoutException() | TimeoutError():
            return "the reply was not complete within the time limit"
        case httpx2.HTTPError() | OSError():
            return f"the connection was lost within the reply ({type(cause).__name__})"
        case _:
            name = type(cause).__name__
            return f"the stream is not in the provider's format ({name})"


def _without_echo(text: str, prompt: str) -> str:
    """Replace what stands in the prompt word for word, `ECHO` characters or more."""
    if len(prompt) < ECHO:
        return text
    echoed = [False] * len(text)
    for start in range(len(text) - ECHO + 1):
        if text[start : start + ECHO] in prompt:
            echoed[start : start + ECHO] = [True] * ECHO
    out: list[str] = []
    for char, hide in zip(text, echoed, strict=True):
        if not hide:
            out.append(char)
        elif not out or out[-1] != "[…]":
            out.append("[…]")
    return "".join(out)
