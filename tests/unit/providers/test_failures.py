"""Every way in which a call fails, over real HTTP: what it cost, what comes next."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from datetime import timedelta

import pytest

from tierpool.activities.providers import ProviderError
from tierpool.contracts import FailureDetail, NextStep, Outcome, Usage
from tierpool.testing import (
    CutConnection,
    Fail,
    Garbage,
    Overloaded,
    QuotaExceeded,
    RateLimited,
    Reply,
    ServerError,
    SlowFirstByte,
    Stall,
)
from tierpool.workflows.attempts import GiveUp, Progress, decide

UNBILLED, AMBIGUOUS = Outcome.UNBILLED, Outcome.AMBIGUOUS
RETRY, FAIL, FAILOVER = NextStep.RETRY, NextStep.FAIL, NextStep.FAILOVER
PAGE = "<html><body>Bad gateway</body></html>"
SHORT = timedelta(seconds=1)


@pytest.mark.parametrize(
    ("step", "status", "outcome", "following"),
    [
        pytest.param(Fail(400), 400, UNBILLED, FAIL, id="bad request"),
        pytest.param(Fail(401), 401, UNBILLED, FAILOVER, id="wrong key"),
        pytest.param(Fail(402), 402, UNBILLED, FAILOVER, id="payment required"),
        pytest.param(Fail(403), 403, UNBILLED, FAILOVER, id="forbidden"),
        pytest.param(Fail(404, "no such path"), 404, UNBILLED, FAIL, id="wrong path"),
        pytest.param(
            Fail(404, "model: nope", code="model_not_found"),
            404,
            UNBILLED,
            FAILOVER,
            id="no such model",
        ),
        pytest.param(
            Fail(404, "The model `nope` does not exist"),
            404,
            UNBILLED,
            FAILOVER,
            id="no such model, in words only",
        ),
        pytest.param(Fail(408), 408, AMBIGUOUS, RETRY, id="request timeout"),
        pytest.param(Fail(409), 409, UNBILLED, RETRY, id="conflict"),
        pytest.param(Fail(413), 413, UNBILLED, FAILOVER, id="too large"),
        pytest.param(Fail(418), 418, UNBILLED, FAIL, id="another 4xx"),
        pytest.param(Fail(422), 422, UNBILLED, FAIL, id="unprocessable"),
        pytest.param(RateLimited(), 429, UNBILLED, RETRY, id="rate limited"),
        pytest.param(Overloaded(), 529, UNBILLED, RETRY, id="overloaded"),
        pytest.param(ServerError(), 500, UNBILLED, RETRY, id="server error"),
        pytest.param(ServerError(503), 503, UNBILLED, RETRY, id="unavailable"),
        pytest.param(Fail(501), 501, UNBILLED, FAIL, id="not implemented"),
        pytest.param(
            Fail(500, body=PAGE), 500, AMBIGUOUS, RETRY, id="500 of a gateway"
        ),
        pytest.param(Fail(502, body=PAGE), 502, AMBIGUOUS, RETRY, id="bad gateway"),
        pytest.param(Fail(503, body=PAGE), 503, UNBILLED, RETRY, id="503 of a gateway"),
        pytest.param(Fail(504), 504, AMBIGUOUS, RETRY, id="gateway timeout"),
        pytest.param(Fail(524, body=PAGE), 524, AMBIGUOUS, RETRY, id="another 5xx"),
        pytest.param(
            ServerError(after_chunks=2), 500, AMBIGUOUS, RETRY, id="500 after tokens"
        ),
        pytest.param(
            Overloaded(after_chunks=0),
            {"openai": 503, "anthropic": 529},
            UNBILLED,
            RETRY,
            id="overloaded inside the stream, before tokens",
        ),
        pytest.param(
            Overloaded(after_chunks=1),
            {"openai": 503, "anthropic": 529},
            AMBIGUOUS,
            RETRY,
            id="overloaded after tokens",
        ),
    ],
)
async def test_answered_errors(wire, server, step, status, outcome, following):
    """An error that is answered has the outcome of its status; one request is made."""
    server.script(step)

    detail = await wire.fail()

    expected = status if isinstance(status, int) else status[wire.name]
    assert (expected, outcome, following) == (
        detail.status,
        detail.outcome,
        detail.next,
    )
    assert detail.provider == wire.name
    assert detail.usage is None
    assert server.accounting.calls == 1


async def test_an_empty_account_fails_over(wire, server):
    """A quota that waiting does not refill is left for another model at once."""
    server.script(QuotaExceeded())

    detail = await wire.fail()

    assert (detail.outcome, detail.next) == (UNBILLED, FAILOVER)
    assert detail.retry_after is None


def in_words(message: str, **more: object) -> Fail:
    """Make the error of a compatible server, whose code is a number."""
    error = {"code": 400, "message": message, "type": "invalid_request_error"}
    return Fail(400, body=json.dumps({"error": error | more}))


LLAMA = in_words(
    "request (9000 tokens) exceeds the available context size (2048 tokens)",
    type="exceed_context_size_error",
    n_prompt_tokens=9000,
    n_ctx=2048,
)
TOO_LONG = [
    pytest.param(
        in_words("Please reduce the length.", code="context_length_exceeded"),
        id="OpenAI's code",
    ),
    pytest.param(
        Fail(400, "prompt is too long: 208310 tokens > 200000 maximum"),
        id="Anthropic's prompt",
    ),
    pytest.param(
        Fail(
            400,
            "input length and `max_tokens` exceed context limit: 178959 + 64000 > "
            "200000, decrease input length or `max_tokens` and try again",
        ),
        id="Anthropic's prompt and reply",
    ),
    pytest.param(LLAMA, id="llama.cpp"),
    pytest.param(replace(LLAMA, status=500), id="llama.cpp before its status was 400"),
    pytest.param(
        in_words(
            "This model's maximum context length is 8192 tokens. However, you "
            "requested 8334 tokens (338 in the messages, 7996 in the completion)."
        ),
        id="vLLM",
    ),
    pytest.param(
        in_words(
            "You passed 1015 input tokens and requested 10 output tokens. However, "
            "the model's context length is only 1024 tokens."
        ),
        id="vLLM from 0.16 on",
    ),
    pytest.param(
        in_words(
            "The input token count (1200000) exceeds the maximum number of tokens "
            "allowed (1048576)."
        ),
        id="Google",
    ),
]
"""Ways to say that a conversation is longer than the model's window."""


@pytest.mark.parametrize("step", TOO_LONG)
async def test_a_conversation_beyond_the_window_is_left_to_another_model(
    wire, server, step
):
    """It costs nothing, waiting does not mend it, and the message says what it is."""
    server.script(step)

    detail = await wire.fail()

    assert (detail.outcome, detail.next) == (UNBILLED, FAILOVER)
    assert detail.retry_after is None
    assert "with its reply exceeds the model's window" in detail.message
    assert server.accounting.calls == 1


@pytest.mark.parametrize("step", TOO_LONG)
async def test_without_a_fallback_the_window_ends_the_call(wire, server, step):
    """No attempt is made twice: the call fails and says what was too long."""
    server.script(step)
    progress = Progress(max_paid=5, fallbacks_left=0)

    step_after = decide(progress, await wire.fail(), 0.0)

    assert isinstance(step_after, GiveUp)
    assert "exceeds the model's window" in step_after.reason
    assert "no fallback is left" in step_after.reason


async def test_the_window_may_be_told_inside_the_stream(make_wire, server):
    """A server that answers 200 before it counts is understood all the same."""
    server.script(
        Fail(400, "too long", kind="exceed_context_size_error", after_chunks=0)
    )

    detail = await make_wire("openai").fail()

    assert (detail.outcome, detail.next) == (UNBILLED, FAILOVER)
    assert "exceeds the model's window" in detail.message


@pytest.mark.parametrize(
    "words",
    [
        "max_tokens: 100000 > 64000, which is the maximum allowed for this model",
        "messages: text content blocks must be non-empty",
        "Invalid schema for response_format: context is not a type",
    ],
)
async def test_other_bad_requests_are_final(wire, server, words):
    """A request that no model would take is not tried on another one."""
    server.script(Fail(400, words))

    detail = await wire.fail()

    assert (detail.outcome, detail.next) == (UNBILLED, FAIL)
    assert "window" not in detail.message


@pytest.mark.parametrize(
    ("step", "text"),
    [
        pytest.param(
            CutConnection(after_chunks=None), "before an answer", id="at once"
        ),
        pytest.param(CutConnection("a b c d"), "within the reply", id="mid-stream"),
        pytest.param(CutConnection("a", after_chunks=0), "within", id="before tokens"),
        pytest.param(Garbage("bad_json"), "format", id="broken JSON"),
        pytest.param(Garbage("wrong_shape"), "format", id="JSON of another shape"),
        pytest.param(Garbage("html"), "ended before", id="a login page"),
        pytest.param(Garbage("empty"), "ended before", id="an empty stream"),
    ],
)
async def test_broken_answers_are_ambiguous(wire, server, step, text):
    """Where work may have been done, the worst case stays owed."""
    server.script(step)

    detail = await wire.fail()

    assert (detail.outcome, detail.next) == (AMBIGUOUS, RETRY)
    assert text in detail.message
    assert server.accounting.calls == 1


@pytest.mark.parametrize(
    ("step", "text"),
    [
        pytest.param(Stall("a b c d"), "not complete within", id="stalled stream"),
        pytest.param(SlowFirstByte(), "no answer within", id="no first byte"),
        pytest.param(
            Reply("a b c d", delay=timedelta(minutes=5), chunks=1000),
            "not complete within",
            id="drip of chunks",
        ),
    ],
)
async def test_time_limit_ends_the_call(wire, server, step, text):
    """The limit is for the whole call; the provider sees the connection closed."""
    server.script(step)

    detail = await wire.fail(timeout=SHORT)
    await server.until(lambda books: len(books.aborted) == 1)

    assert (detail.outcome, detail.next) == (AMBIGUOUS, RETRY)
    assert text in detail.message


async def test_complete_reply_survives_a_late_break(wire, server):
    """A reply that is complete counts although the connection breaks after it."""
    usage = Usage(input_tokens=8, output_tokens=4)
    server.script(CutConnection("all of it", usage=usage, after_finish=True))

    reply = await wire.complete()

    assert reply.text == "all of it"
    assert reply.finish_reason == "stop"
    assert reply.usage == {"openai": None, "anthropic": usage}[wire.name]


@pytest.mark.parametrize("name", ["openai", "anthropic", "local"])
async def test_refused_connection_is_unbilled(make_wire, name):
    """Nobody listens: nothing is owed, and the message says where."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"

        detail = await make_wire(name).fail(base_url=address)

    assert (detail.outcome, detail.next) == (UNBILLED, RETRY)
    assert detail.status == 0
    assert "cannot connect" in detail.message
    assert address in detail.message


async def test_unknown_host_is_unbilled(wire):
    """A name that does not resolve costs nothing."""
    detail = await wire.fail(base_url="http://no-such-host.invalid")

    assert (detail.outcome, detail.next) == (UNBILLED, RETRY)


async def test_address_that_is_none_is_final(wire):
    """An address that cannot be used is a mistake, not an outage."""
    detail = await wire.fail(base_url="ftp://127.0.0.1")

    assert (detail.outcome, detail.next) == (UNBILLED, FAIL)


@pytest.mark.parametrize(
    ("dialect", "wait", "expected"),
    [
        ("seconds", 7, 7),
        ("float", 1.5, 1.5),
        ("ms", 0.25, 0.25),
        ("date", 90, 90),
        ("reset", 75, 75),
        ("google", 12.5, 12.5),
        ("none", 5, None),
        ("seconds", 4000, 3600),
        ("date", 86400, 3600),
    ],
)
async def test_retry_hint_in_every_dialect(wire, server, dialect, wait, expected):
    """The wait arrives however it is written; above an hour it counts as unknown."""
    server.script(RateLimited(wait=timedelta(seconds=wait), dialect=dialect))

    detail = await wire.fail()

    seconds = detail.retry_after and detail.retry_after.total_seconds()
    assert seconds == expected if expected is None else abs(seconds - expected) < 1.01
    assert (detail.outcome, detail.next) == (UNBILLED, RETRY)


async def test_hint_comes_with_overload_too(wire, server):
    """A Retry-After of a 503 or 529 is passed on as that of a 429."""
    server.script(Overloaded(headers={"retry-after": "3"}))

    detail = await wire.fail()

    assert detail.retry_after == timedelta(seconds=3)


@pytest.mark.parametrize(
    "message",
    [
        "Incorrect API key provided: {key}.",
        "Incorrect API key provided: sk-proj-abc***********wxyz.",
        "header Authorization: Bearer {key}",
        "cannot parse {prompt!r}",
        "you said: {prompt}",
        "{prompt}" * 50,
    ],
)
@pytest.mark.parametrize("after_chunks", [None, 1])
async def test_no_secret_and_no_prompt_in_a_message(
    wire, server, message, after_chunks
):
    """Keys and echoes of the prompt are taken out of what a provider says."""
    prompt = "The merger with Initech will be announced on Monday."
    text = message.format(key=wire.key, prompt=prompt)
    server.script(Fail(401, text, after_chunks=after_chunks))

    detail = await wire.fail(prompt, system="Never tell anyone about Monday's plan.")

    assert wire.key not in detail.message
    assert "wxyz" not in detail.message
    assert "Initech" not in detail.message
    assert len(detail.message) < 300
    assert wire.key not in repr(detail)


async def test_useful_words_stay(wire, server):
    """Code, type, field and the sentence itself help whoever has to mend it."""
    words = "Unsupported value: 'temperature' does not support 0.3 with this model."
    server.script(Fail(400, words, code="unsupported_value", param="temperature"))

    detail = await wire.fail()

    assert words in detail.message
    assert "HTTP 400" in detail.message
    if wire.name == "openai":
        assert "unsupported_value" in detail.message
        assert "(field temperature)" in detail.message


async def test_page_of_a_gateway_is_not_quoted(wire, server):
    """Text that is not the provider's form may hold anything, so it is left out."""
    server.script(Fail(502, body="<html>you sent: Say hello.</html>"))

    detail = await wire.fail()

    assert "html" not in detail.message
    assert "502" in detail.message


def test_explain_keeps_what_was_judged_already(wire):
    """A failure explained once stays as it is."""
    detail = FailureDetail(outcome=UNBILLED, next=FAILOVER, message="judged")

    assert wire.provider.explain(ProviderError(detail)) == detail


def test_unknown_errors_count_as_ambiguous(wire):
    """What nobody foresaw is owed in full and not repeated; its text is not told."""
    detail = wire.provider.explain(RuntimeError("secret inside"))

    assert (detail.outcome, detail.next) == (AMBIGUOUS, FAIL)
    assert "secret" not in detail.message
