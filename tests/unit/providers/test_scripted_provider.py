"""The scripted provider itself: scripts, both wires unstreamed, and its books."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from datetime import timedelta
from decimal import Decimal

import aiohttp
import pytest

from tierpool.blueprint import LongContextPrice, Price
from tierpool.contracts import Usage
from tierpool.testing import (
    CutConnection,
    Fail,
    Garbage,
    NoUsage,
    Overloaded,
    Reply,
    ScriptedProvider,
    ScriptExhausted,
    Stall,
    fitting_reply,
)

OPENAI = "/v1/chat/completions"
ANTHROPIC = "/v1/messages"
BODY = {
    "model": "m",
    "max_tokens": 50,
    "messages": [{"role": "user", "content": "Say hello."}],
}


async def post(server, path, body=None, **headers):
    """Send a request without an SDK; return status and JSON."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(server.base_url + path, json=body or BODY, headers=headers) as got,
    ):
        return got.status, await got.json()


async def test_openai_reply_in_one_piece(server):
    """Without `stream` the answer is one JSON object."""
    server.script(Reply("hello", usage=Usage(input_tokens=9, output_tokens=2)))

    status, body = await post(server, OPENAI)

    assert status == 200
    assert body["choices"][0]["message"] == {"role": "assistant", "content": "hello"}
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"]["total_tokens"] == 11


async def test_anthropic_reply_in_one_piece(server):
    """Input tokens leave out the cache on this wire."""
    usage = Usage(input_tokens=9, cached_input_tokens=8, output_tokens=2)
    server.script(Reply("hello", usage=usage))

    status, body = await post(server, ANTHROPIC)

    assert status == 200
    assert body["content"] == [{"type": "text", "text": "hello"}]
    assert body["stop_reason"] == "end_turn"
    assert body["usage"]["input_tokens"] == 1
    assert body["usage"]["cache_read_input_tokens"] == 8


@pytest.mark.parametrize("path", [OPENAI, ANTHROPIC])
async def test_usage_can_be_left_out(server, path):
    """A reply without usage has none on either wire."""
    server.script(NoUsage("hello"))

    _, body = await post(server, path)

    assert "usage" not in body


@pytest.mark.parametrize("path", [OPENAI, ANTHROPIC])
@pytest.mark.parametrize(
    "step", [CutConnection("abc"), CutConnection(after_chunks=None)]
)
async def test_connection_can_be_cut_unstreamed(server, path, step):
    """The client sees a broken connection, not an answer."""
    server.script(step)

    with pytest.raises(aiohttp.ClientError):
        await post(server, path)


async def test_stall_holds_an_unstreamed_answer(server):
    """Half of the answer comes, then nothing, until the client leaves."""
    server.script(Stall("abc"))
    request = asyncio.create_task(post(server, OPENAI))
    await server.until(lambda books: books.in_flight == 1)

    request.cancel()
    await server.until(lambda books: len(books.aborted) == 1)

    assert server.accounting.in_flight == 0


async def test_tokens_are_a_quarter_of_the_bytes(server):
    """Counting is the same on every run, and on both wires."""
    server.default(Reply("x" * 40, cached_tokens=2))

    await post(server, OPENAI)
    await post(server, ANTHROPIC)

    assert server.accounting.usage == Usage(
        input_tokens=6, cached_input_tokens=4, output_tokens=20
    )


async def test_max_tokens_is_kept(server):
    """As the real ones do, it stops at the limit and says so."""
    server.script(Reply("x" * 4000))

    _, body = await post(server, OPENAI)

    assert body["usage"]["completion_tokens"] == 50
    assert body["choices"][0]["finish_reason"] == "length"
    assert len(body["choices"][0]["message"]["content"]) == 200


@pytest.mark.parametrize(
    ("path", "change", "words"),
    [
        (OPENAI, {"model": ""}, "model"),
        (OPENAI, {"messages": []}, "messages"),
        (OPENAI, {"messages": ["hi"]}, "messages"),
        (OPENAI, {"max_completion_tokens": 5}, "exclude each other"),
        (OPENAI, {"max_tokens": -1}, "an integer from 1"),
        (OPENAI, {"stream_options": {"include_usage": True}}, "stream is set"),
        (ANTHROPIC, {"max_tokens": None}, "max_tokens"),
        (
            ANTHROPIC,
            {"output_config": {"format": {"schema": {"type": "object"}}}},
            "additionalProperties",
        ),
        (
            ANTHROPIC,
            {"messages": [{"role": "assistant", "content": "hi"}]},
            "first message",
        ),
    ],
)
async def test_bad_requests_are_refused(server, path, change, words):
    """What the real provider answers with 400 gets 400, and uses up no step."""
    server.script(Reply("ok"))

    status, body = await post(server, path, BODY | change)

    assert status == 400
    assert words in body["error"]["message"]
    assert server.steps_left == 1
    assert server.accounting.calls == 0
    await post(server, OPENAI)


async def test_rules_go_before_script_and_default():
    """A rule answers what it matches, as often as it says."""
    async with ScriptedProvider() as server:
        server.on(lambda r: "hello" in r.text, Reply("rule"), times=1)
        server.script(Reply("script"))
        server.default(lambda r: Reply(f"default {r.number}"))

        texts = [
            (await post(server, OPENAI))[1]["choices"][0]["message"]["content"]
            for _ in range(3)
        ]

    assert texts == ["rule", "script", "default 3"]


async def test_exhausted_script_fails_the_test():
    """One request too many gets a 500 that says so, and the context raises."""
    server = await ScriptedProvider().__aenter__()
    server.script(Reply("only one"))
    await post(server, OPENAI)

    status, body = await post(server, OPENAI)

    assert status == 500
    assert "used up" in body["error"]["message"]
    with pytest.raises(ScriptExhausted, match="request 2"):
        await server.__aexit__(None, None, None)


async def test_an_error_in_a_rule_is_not_hidden():
    """What a test's own function raises comes out at the end."""
    server = await ScriptedProvider().__aenter__()
    server.default(lambda r: Reply(str(1 // 0)))

    status, _ = await post(server, OPENAI)

    assert status == 500
    with pytest.raises(ZeroDivisionError):
        await server.__aexit__(None, None, None)


async def test_books_hold_what_is_owed():
    """Replies are charged whole, broken ones in part, refusals not at all."""
    price = Price(
        input_usd_per_mtok=Decimal(10),
        cached_input_usd_per_mtok=Decimal(1),
        output_usd_per_mtok=Decimal(100),
        long_context=(
            LongContextPrice(
                above_input_tokens=1000,
                input_usd_per_mtok=Decimal(20),
                output_usd_per_mtok=Decimal(200),
            ),
        ),
    )
    short = Usage(input_tokens=1000, cached_input_tokens=400, output_tokens=10)
    long = Usage(input_tokens=1001, output_tokens=10)
    stream = BODY | {"stream": True}
    async with ScriptedProvider(prices={"m": price}) as server:
        server.script(
            Reply(usage=short),
            NoUsage(usage=long),
            Overloaded(),
            Fail(400),
            Garbage(),
            CutConnection("x" * 80, chunks=4, after_chunks=1),
        )
        for body in [BODY] * 4:
            await post(server, OPENAI, body)
        for _ in range(2):
            with pytest.raises(aiohttp.ClientError):
                await post(server, OPENAI, stream)

        books = server.accounting
        assert books.calls == 6
        assert books.billed_calls == 3
        assert books.usage.output_tokens == 10 + 10 + 5
        micro = (
            (600 * 10 + 400 * 1 + 10 * 100) + (1001 * 20 + 10 * 200) + (3 * 10 + 500)
        )
        assert books.usd == Decimal(micro) / 1_000_000


async def test_two_equal_requests_are_two_bills(server):
    """Nothing is deduplicated: a request that is sent twice is paid twice."""
    server.default(Reply("ok"))

    await post(server, OPENAI)
    await post(server, OPENAI)

    assert server.accounting.billed_calls == 2


async def test_no_key_is_kept(server):
    """Neither header nor body of a recorded request holds the key."""
    server.default(Reply("ok"))

    await post(server, ANTHROPIC, **{"x-api-key": "sk-secret", "cookie": "sk-secret"})
    await post(server, OPENAI, authorization="Bearer sk-secret")

    assert "sk-secret" not in repr(server.requests)
    assert server.requests[0].key_sha256 == server.requests[1].key_sha256 != ""


async def test_schema_gets_a_fitting_answer(server):
    """`fitting_reply` answers a schema with JSON that satisfies it."""
    schema = {
        "type": "object",
        "properties": {
            "a": {"enum": ["yes", "no"]},
            "b": {"type": "integer", "minimum": 3},
            "c": {"type": "array", "items": {"$ref": "#/$defs/t"}, "minItems": 2},
            "d": {"anyOf": [{"type": "null"}, {"type": "string"}]},
        },
        "required": ["a", "b", "c", "d"],
        "$defs": {"t": {"type": "string", "minLength": 2}},
    }
    server.default(fitting_reply())
    form = {"type": "json_schema", "json_schema": {"name": "r", "schema": schema}}

    _, body = await post(server, OPENAI, BODY | {"response_format": form})

    content = json.loads(body["choices"][0]["message"]["content"])
    assert content == {"a": "yes", "b": 3, "c": ["xx", "xx"], "d": None}


async def test_until_says_what_was_not_reached(server):
    """A wait that fails shows the accounting."""
    with pytest.raises(TimeoutError, match="calls=0"):
        await server.until(lambda books: books.calls == 1, timedelta(seconds=0.1))


async def test_process_form_serves_and_stops():
    """`python -m tierpool.testing.provider` prints its address and ends on SIGTERM."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-m", "tierpool.testing.provider"),
        *("--port", "0", "--delay", "0.01"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        line = json.loads(await process.stdout.readline())
        async with aiohttp.ClientSession(line["base_url"]) as session:
            async with session.post(OPENAI, json=BODY) as got:
                assert got.status == 200
            async with session.get("/_stats") as got:
                stats = await got.json()
    finally:
        process.send_signal(signal.SIGTERM)
        _, errors = await process.communicate()

    assert line["pid"] == process.pid
    assert stats["calls"] == 1
    assert stats["usd"] == "0"
    assert process.returncode == 0
    assert errors == b""
