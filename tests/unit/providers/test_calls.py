"""Calls that are answered: what is sent and what comes back, over real HTTP."""

from __future__ import annotations

import asyncio
import hashlib
from datetime import timedelta

import pytest
from anthropic.types.output_tokens_details import OutputTokensDetails
from openai.types.completion_usage import CompletionUsage

from tierpool.activities.providers import (
    ProviderError,
    anthropic,
    openai,
    provider_for,
)
from tierpool.activities.providers.openai import takes_completion_limit
from tierpool.activities.providers.sdk import Answer
from tierpool.contracts import NextStep, Outcome, Usage
from tierpool.errors import UnknownName
from tierpool.testing import NoUsage, Reply

CLOSED = {
    "type": "object",
    "properties": {"verdict": {"enum": ["approve", "reject"]}},
    "required": ["verdict"],
    "additionalProperties": False,
}
BOUNDED = {
    "type": "object",
    "properties": {"score": {"type": "integer", "minimum": 0, "maximum": 10}},
    "required": ["score"],
}
FREE = {"type": "object", "properties": {"data": {"type": "object"}}}


async def test_plain_text_arrives_whole(wire, server):
    """A streamed answer is put together, with the provider's model name and usage."""
    usage = Usage(input_tokens=30, output_tokens=9)
    server.script(Reply("Grüße, 世界 🌍!", chunks=7, usage=usage, model="test-model-1"))

    reply = await wire.complete(system="Be brief.")

    assert reply.text == "Grüße, 世界 🌍!"
    assert reply.usage == usage
    assert reply.finish_reason == "stop"
    assert reply.model == "test-model-1"


async def test_request_says_what_the_call_says(wire, server):
    """Prompt, conversation, limit and temperature are sent; the reply is streamed."""
    server.script(Reply("ok"))
    messages = (("user", "one"), ("assistant", "two"), ("user", "three"))

    await wire.complete(
        system="Be brief.", messages=messages, max_output_tokens=77, temperature=0.5
    )

    (seen,) = server.requests
    assert seen.wire == wire.name
    assert seen.model == "test-model"
    assert seen.system == "Be brief."
    assert seen.messages == messages
    assert seen.max_tokens == 77
    assert seen.limit_name == "max_tokens"
    assert seen.temperature == 0.5
    assert seen.stream is True
    assert seen.key_sha256 == hashlib.sha256(wire.key.encode()).hexdigest()


async def test_what_is_not_given_is_not_sent(wire, server):
    """Without temperature, prompt and schema the fields are absent, not null."""
    server.script(Reply("ok"))

    await wire.complete()

    absent = {"temperature", "system", "response_format", "output_config"}
    assert not absent & set(server.requests[0].body)


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("refusal", "refusal"),
        ("content_filter", {"openai": "content_filter", "anthropic": "refusal"}),
        ("tool_use", "tool_use"),
    ],
)
async def test_finish_reason_is_normalised(wire, server, sent, read):
    """Both wires' words for the end of a reply become one vocabulary."""
    server.script(Reply("text", finish_reason=sent))

    reply = await wire.complete()

    assert reply.finish_reason == (read if isinstance(read, str) else read[wire.name])
    assert reply.text == "text"


async def test_usage_has_one_meaning(wire, server):
    """Cached input and reasoning are parts of the totals on both wires."""
    usage = Usage(
        input_tokens=1000,
        cached_input_tokens=800,
        cache_write_tokens=150,
        output_tokens=60,
        reasoning_tokens=40,
    )
    server.script(Reply("ok", usage=usage))

    reply = await wire.complete()

    assert reply.usage == usage


async def test_missing_usage_is_none(wire, server):
    """A reply without usage is a reply; its cost is unknown, not zero."""
    server.script(NoUsage("ok"))

    reply = await wire.complete()

    assert reply.text == "ok"
    assert reply.usage is None


GOOD = {"input": 50, "output": 30, "cached": 20, "written": 10, "reasoning": 5}


@pytest.mark.parametrize(
    "change",
    [
        {"input": -1},
        {"output": -3},
        {"cached": -6},
        {"output": None},
        {"input": None},
        {"output": "many"},
        {"output": 2.5},
        {"input": True},
        {"reasoning": 31},
        {"reasoning": -1},
        {"cached": "all"},
    ],
)
def test_nonsense_usage_is_none(change):
    """Negative, missing, textual or contradictory counts are no usage."""
    assert openai_reports(**GOOD) == Usage(
        input_tokens=80,
        cached_input_tokens=20,
        cache_write_tokens=10,
        output_tokens=30,
        reasoning_tokens=5,
    )
    assert openai_reports(**GOOD) == anthropic_reports(**GOOD)

    assert openai_reports(**(GOOD | change)) is None
    assert anthropic_reports(**(GOOD | change)) is None


def test_more_cached_than_input_is_none():
    """A part that is larger than its whole makes the report worthless."""
    assert openai.usage_of(completion_usage(10, 5, 15, cached=11)) is None


def test_reasoning_outside_the_output_is_added():
    """Where a server's total is more than input and output, the total counts."""
    reported = completion_usage(10, 5, 100)

    assert openai.usage_of(reported) == Usage(input_tokens=10, output_tokens=90)


def completion_usage(prompt, output, total, cached=0, written=0, reasoning=0):
    """Build usage as the SDK builds it from a chunk: without validation."""
    return CompletionUsage.construct(
        prompt_tokens=prompt,
        completion_tokens=output,
        total_tokens=total,
        prompt_tokens_details={"cached_tokens": cached, "cache_write_tokens": written},
        completion_tokens_details={"reasoning_tokens": reasoning},
    )


def openai_reports(*, input, output, cached, written, reasoning):
    """Report usage in OpenAI's form, where input includes the cache."""
    parts = [input, cached, written]
    if all(isinstance(n, int) and n >= 0 for n in parts) and input is not True:
        input = sum(parts)
    return openai.usage_of(
        completion_usage(input, output, None, cached, written, reasoning)
    )


def anthropic_reports(*, input, output, cached, written, reasoning):
    """Report usage in Anthropic's form, where input leaves out the cache."""
    details = OutputTokensDetails.construct(thinking_tokens=reasoning)
    return anthropic.usage_of(
        {
            "input_tokens": input,
            "output_tokens": output,
            "cache_read_input_tokens": cached,
            "cache_creation_input_tokens": written,
            "output_tokens_details": details,
        }
    )


async def test_schema_that_fits_is_enforced(wire, server):
    """A closed schema is handed to the provider to enforce."""
    server.script(Reply(json={"verdict": "approve"}))

    reply = await wire.complete(schema=CLOSED, schema_name="my role!")

    (seen,) = server.requests
    assert reply.text == '{"verdict": "approve"}'
    assert seen.schema == CLOSED
    if wire.name == "openai":
        assert seen.schema_name == "my_role_"
        assert seen.strict is True


async def test_openai_gets_an_open_schema_without_strict(make_wire, server):
    """What strict mode would refuse is sent with strict off."""
    server.script(Reply(json={"score": 3}))

    await make_wire("openai").complete(schema=BOUNDED)

    assert server.requests[0].schema == BOUNDED
    assert server.requests[0].strict is False


async def test_anthropic_gets_bounds_as_words(make_wire, server):
    """Bounds that Anthropic cannot enforce do not make the request fail."""
    server.script(Reply(json={"score": 3}))

    await make_wire("anthropic").complete(schema=BOUNDED)

    score = server.requests[0].schema["properties"]["score"]
    assert score["type"] == "integer"
    assert "minimum: 0" in score["description"]


async def test_anthropic_is_asked_in_words_for_a_free_form(make_wire, server):
    """A schema that it cannot express goes into the prompt, not into an empty object."""
    server.script(Reply(json={"data": {}}))

    await make_wire("anthropic").complete(schema=FREE, system="Be brief.")

    (seen,) = server.requests
    assert seen.schema is None
    assert seen.system.startswith("Be brief.\n\n")
    assert '"data"' in seen.system


@pytest.mark.parametrize(
    ("base_url", "expected"),
    [
        ("https://api.openai.com/v1/", True),
        ("https://eu.api.openai.com/v1", True),
        ("https://acme.openai.azure.com/openai/v1", True),
        ("http://127.0.0.1:8099", False),
        ("https://openai.com.example.org/v1", False),
        ("https://api.mistral.ai/v1", False),
    ],
)
def test_only_openai_gets_the_new_limit(base_url, expected):
    """Other servers get max_tokens: they may ignore or refuse the newer name."""
    assert expected is takes_completion_limit(base_url)


async def test_clients_are_shared(wire, server):
    """Calls one after the other use one connection."""
    server.default(Reply("ok"))

    for _ in range(5):
        await wire.complete()

    assert server.accounting.calls == 5
    assert server.accounting.connections == 1


async def test_calls_at_once_share_one_pool(wire, server):
    """Parallel calls open a connection each, and the next round reuses them."""
    gate = asyncio.Event()
    server.default(Reply("ok", gate=gate))

    calls = [asyncio.create_task(wire.complete()) for _ in range(4)]
    await server.until(lambda books: books.in_flight == 4)
    gate.set()
    await asyncio.gather(*calls)
    await asyncio.gather(*(wire.complete() for _ in range(4)))

    assert server.accounting.peak_in_flight == 4
    assert server.accounting.calls == 8
    assert server.accounting.connections == 4


async def test_a_key_does_not_travel_to_another_address(wire, server):
    """An address of its own gets the provider's key only if api_key_env names it."""
    server.default(Reply("ok"))

    await wire.complete(api_key_env=None)

    sent = server.requests[-1].key_sha256
    assert hashlib.sha256(b"none").hexdigest() == sent


async def test_a_rotated_key_is_used_at_once(wire, server, monkeypatch):
    """The key is read at each call, although the client is shared."""
    server.default(Reply("ok"))
    await wire.complete()
    variable = f"{wire.name.upper()}_API_KEY"
    monkeypatch.setenv(variable, "new-key\n")

    await wire.complete()

    sent = server.requests[-1].key_sha256
    assert sent == hashlib.sha256(b"new-key").hexdigest()
    assert server.accounting.connections == 1


async def test_key_comes_from_the_named_variable(wire, server, monkeypatch):
    """`api_key_env` names another variable than the provider's own."""
    monkeypatch.setenv("ACME_KEY", "acme")
    server.script(Reply("ok"))

    await wire.complete(api_key_env="ACME_KEY")

    assert server.requests[0].key_sha256 == hashlib.sha256(b"acme").hexdigest()


@pytest.mark.parametrize("value", [None, "", "  ", "two words", "kéy", "line\nbreak"])
async def test_missing_key_names_the_variable(wire, server, monkeypatch, value):
    """Without a usable key nothing is sent, and the message names the variable only."""
    monkeypatch.delenv("ACME_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("ACME_KEY", value)

    detail = await wire.fail(api_key_env="ACME_KEY")

    assert detail.outcome is Outcome.UNBILLED
    assert detail.next is NextStep.FAIL
    assert "ACME_KEY" in detail.message
    assert not (value and value.strip()) or value not in detail.message
    assert server.accounting.calls == 0


async def test_local_takes_its_address_from_the_environment(
    make_wire, server, monkeypatch
):
    """A local model needs no key, and `tierpool dev` tells where it is."""
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-secret")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("TIERPOOL_LOCAL_BASE_URL", server.base_url)
    server.script(Reply("ok"))

    reply = await make_wire("local").complete(base_url=None)

    assert reply.text == "ok"
    assert server.requests[0].headers.get("openai-organization", "") == ""


async def test_local_without_an_address_says_what_to_do(make_wire):
    """The error names the command and the variable."""
    detail = await make_wire("local").fail(base_url=None)

    assert detail.outcome is Outcome.UNBILLED
    assert detail.next is NextStep.FAIL
    assert "tierpool dev" in detail.message
    assert "TIERPOOL_LOCAL_BASE_URL" in detail.message


@pytest.mark.parametrize("model", ["mistral:large", "gpt-5", "openai:", ":x", ""])
def test_unknown_provider_is_refused(model):
    """A model without a known prefix is an error that lists the prefixes."""
    with pytest.raises(UnknownName, match="anthropic:…"):
        provider_for(model)


def test_character_split_over_chunks_is_whole():
    """A pair of surrogates that arrives in two chunks becomes one character."""
    answer = Answer(finish_reason="stop")
    answer.add("a\ud83c")
    answer.add("\udf0db")

    assert answer.reply().text == "a🌍b"


async def test_huge_reply_is_cut_short(make_wire, server):
    """A server that never stops writing cannot fill the worker's memory."""
    server.script(
        Reply("x" * 5_000_000, chunks=50, usage=Usage(input_tokens=1, output_tokens=1))
    )
    wire = make_wire("openai")

    detail = await wire.fail(timeout=timedelta(seconds=60))

    assert detail.outcome is Outcome.AMBIGUOUS
    assert detail.next is NextStep.FAIL
    assert "longer than" in detail.message


async def test_nothing_but_provider_errors_is_raised(wire):
    """A request that cannot even be built is a failure like any other."""
    with pytest.raises(ProviderError) as caught:
        await wire.complete(text="half a character: \ud800")

    assert caught.value.detail.outcome is Outcome.UNBILLED
    assert caught.value.detail.next is NextStep.FAIL
