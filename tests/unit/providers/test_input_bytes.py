"""The size of a request: counted from the body that the provider receives."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tierpool.activities.providers import close_providers
from tierpool.config.output import resolve_output
from tierpool.testing import Reply, ScriptedProvider

from .conftest import Wire

TEXTS = [
    pytest.param("Say hello.", id="plain"),
    pytest.param("", id="empty"),
    pytest.param("Grüße, 世界, Ω", id="letters of two and three bytes"),
    pytest.param("🌍👩‍👩‍👧🏳️‍🌈", id="emoji"),
    pytest.param('"quoted" \\ and \\n', id="quotes and backslashes"),
    pytest.param("one\n\ttwo\r\n\x00\x1f\u2028", id="control characters"),
    pytest.param("word " * 200_000, id="a megabyte"),
    pytest.param("漢" * 100_000, id="three bytes a character"),
]
CLOSED = {
    "type": "object",
    "properties": {"verdict": {"enum": ["approve", "reject", "zurückgeben"]}},
    "required": ["verdict"],
    "additionalProperties": False,
}
BOUNDED = {
    "type": "object",
    "properties": {
        "score": {"type": "integer", "minimum": 0, "maximum": 10},
        "name": {"type": "string", "minLength": 1, "pattern": "^\\d+\"é'$"},
        "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 3},
    },
    "required": ["score"],
}
FREE = {"type": "object", "properties": {"data": {"type": "object"}}}
SCHEMAS = [
    pytest.param(None, id="text"),
    pytest.param(CLOSED, id="closed"),
    pytest.param(BOUNDED, id="bounds"),
    pytest.param(FREE, id="free form"),
]


def recounted(body: Any) -> int:
    """Count a received body anew: texts raw, the rest as compact JSON."""
    texts = [body["system"]] if "system" in body else []
    texts += [message["content"] for message in body["messages"]]
    for message in body["messages"]:
        message["content"] = ""
    if "system" in body:
        body["system"] = ""
    rest = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return sum(len(text.encode()) for text in (*texts, rest))


def least(call: Any) -> int:
    """Return the bytes of the call's texts alone."""
    texts = [call.system or "", *(text for _, text in call.messages)]
    return sum(len(text.encode()) for text in texts)


async def received(wire: Wire, call: Any) -> Any:
    """Make a call and return a copy of the body that arrived."""
    wire.server.script(Reply("ok"))
    await wire.provider.complete(call)
    return json.loads(json.dumps(dict(wire.server.requests[-1].body)))


@pytest.mark.parametrize("schema", SCHEMAS)
@pytest.mark.parametrize("text", TEXTS)
async def test_size_is_that_of_the_body_that_arrives(wire, text, schema):
    """Prompt, messages, schema and options count as the provider gets them."""
    messages = (("user", text), ("assistant", text[:1000]), ("user", "And now?"))
    call = wire.call(messages=messages, system=text[:5000], schema=schema)

    counted = wire.provider.input_bytes(call)

    assert recounted(await received(wire, call)) == counted
    assert counted >= least(call)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"system": "Be brief."},
        {"temperature": 0.25},
        {"schema": CLOSED, "schema_name": "eine Rolle mit Ü"},
        {"max_output_tokens": 1_000_000},
    ],
)
@pytest.mark.parametrize("name", ["openai", "anthropic", "local"])
async def test_every_option_counts(make_wire, name, changes):
    """What is sent besides texts is in the number, and what is not sent is not."""
    wire = make_wire(name)
    call = wire.call(**changes)

    counted = wire.provider.input_bytes(call)

    assert recounted(await received(wire, call)) == counted


async def test_the_official_address_has_the_longer_limit(make_wire):
    """OpenAI itself gets `max_completion_tokens`, and that is counted."""
    wire = make_wire("openai")

    there = wire.provider.input_bytes(wire.call(base_url=None))

    here = wire.provider.input_bytes(wire.call())
    assert len("max_completion_tokens") - len("max_tokens") == there - here


def test_counting_needs_no_address_and_no_key(make_wire, monkeypatch):
    """A worker that is set up wrong learns that from the call, not from the count."""
    monkeypatch.delenv("OPENAI_API_KEY")

    for name in ("openai", "local"):
        wire = make_wire(name)
        assert 0 < wire.provider.input_bytes(wire.call(base_url=None))


def test_half_a_surrogate_is_counted_not_raised(wire):
    """Text that cannot be sent has a size; sending it is what fails."""
    whole = wire.provider.input_bytes(wire.call("abc"))

    assert whole == wire.provider.input_bytes(wire.call("\ud800"))


async def test_half_a_surrogate_is_refused_unbilled(wire, server):
    """Nothing is sent of a text that is not Unicode."""
    detail = await wire.fail("\ud800")

    assert ("unbilled", "fail") == (detail.outcome, detail.next)
    assert server.accounting.calls == 0


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
FIELDS = st.dictionaries(
    st.from_regex(r"[a-z]{1,8}\??", fullmatch=True),
    st.sampled_from(
        [
            "string",
            "integer",
            "string[]",
            "object",
            ["a", "b"],
            {"type": "string", "minLength": 2, "pattern": "^ä+$"},
            {"type": "array", "items": {"type": "integer", "minimum": 1}},
        ]
    ),
    min_size=1,
    max_size=6,
)


@pytest.mark.parametrize("name", ["openai", "anthropic"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    texts=st.lists(TEXT, min_size=1, max_size=5),
    system=st.none() | TEXT,
    fields=st.none() | FIELDS,
)
def test_any_call_has_the_size_that_arrives(
    tmp_path_factory, name, texts, system, fields
):
    """Whatever is said and asked for, the count is the body's, and above the texts'."""
    schema = None
    if fields:
        schema = resolve_output(fields, tmp_path_factory.getbasetemp(), print)

    async def check() -> None:
        async with ScriptedProvider() as server:
            wire = Wire(name, server)
            roles = [("user", "assistant")[n % 2] for n in range(len(texts))]
            call = wire.call(
                messages=tuple(zip(roles, texts, strict=True)),
                system=system,
                schema=schema,
            )
            counted = wire.provider.input_bytes(call)
            assert recounted(await received(wire, call)) == counted
            assert counted >= least(call)
            await close_providers()

    asyncio.run(check())
