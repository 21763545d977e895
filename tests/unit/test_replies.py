"""From a model's text to a reply, or to a problem that a model can mend."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierpool.contracts import AgentResult
from tierpool.errors import ConfigError
from tierpool.replies import (
    LONGEST_REPLY,
    ReadReply,
    check_schema,
    read_reply,
    reply_text,
    validate_reply,
)

SCHEMA = {
    "type": "object",
    "properties": {
        "verdict": {"enum": ["approve", "reject"]},
        "score": {"type": "number", "minimum": 0},
        "files": {"type": "array", "items": {"$ref": "#/$defs/file"}},
    },
    "required": ["verdict"],
    "additionalProperties": False,
    "$defs": {
        "file": {
            "type": "object",
            "properties": {"name": {"type": "string"}},
            "required": ["name"],
        }
    },
}
VALID = {"verdict": "approve"}
OBJECTS = st.dictionaries(
    st.text(),
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    ),
)


@pytest.mark.parametrize(
    "text",
    [
        '{"verdict": "approve"}',
        '  \n{"verdict":"approve"}\n\n',
        '```json\n{"verdict": "approve"}\n```',
        '\n```\n{"verdict": "approve"}```  ',
        '```JSON  \n\n{"verdict":\n"approve"}\n\n  ```',
        '\ufeff{"verdict": "approve"}',
    ],
)
def test_valid_json_is_a_reply(text):
    """Whitespace, a byte-order mark and a Markdown fence do no harm."""
    assert ReadReply(reply=VALID) == read_reply(text, "stop", SCHEMA)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "the answer is empty"),
        ("  \n ", "the answer is empty"),
        ("I approve.", "the answer is not JSON: Expecting value at line 1, column 1"),
        ('{"verdict": "approve"', "at line 1, column 22"),
        ('{"verdict": "approve"} or not', "Extra data at line 1, column 24"),
        ('Sure: ```json\n{"verdict": "approve"}\n```', "not JSON"),
        ('["approve"]', "must be a JSON object, not array"),
        ('"approve"', "must be a JSON object, not string"),
        ("null", "must be a JSON object, not null"),
        ('{"score": NaN}', "NaN is not a number"),
        ('{"score": -Infinity}', "-Infinity is not a number"),
        ('{"score": 1e999}', "a number is out of range"),
        ('{"score": %s}' % ("9" * 5000), "too many digits"),
        ('{"verdict": "a", "verdict": "b"}', 'the key "verdict" stands twice'),
        ('{"verdict": "\\ud800"}', "half a character"),
        (f'{{"files": {"[" * 70}1{"]" * 70}}}', "nested deeper than 64"),
        ("[" * 200_000, "nested deeper than 64"),
        ('{"verdict": "%s"}' % ("x" * LONGEST_REPLY), "the most is 1000000"),
    ],
)
def test_what_is_not_strict_json_is_a_problem(text, problem):
    """The problem says what is wrong and where."""
    found = read_reply(text, "stop", SCHEMA)

    assert found.reply is None
    assert problem in found.problem


@pytest.mark.parametrize(
    ("reply", "problems"),
    [
        ({}, ['$: missing "verdict"']),
        ({"verdict": "maybe"}, ['$.verdict: expected one of ["approve", "reject"]']),
        (VALID | {"score": "high"}, ["$.score: expected number, got string"]),
        (VALID | {"score": True}, ["$.score: expected number, got boolean"]),
        (VALID | {"score": -1}, ["$.score: does not satisfy minimum 0"]),
        (VALID | {"extra": 1, "more": 2}, ['$: unexpected "extra", "more"']),
        (VALID | {"files": [{"name": "a"}, {}]}, ['$.files[1]: missing "name"']),
        (
            {"score": "x", "files": 3},
            [
                '$: missing "verdict"',
                "$.files: expected array, got integer",
                "$.score: expected number, got string",
            ],
        ),
    ],
)
def test_violations_name_place_and_expectation(reply, problems):
    """Everything that breaks the schema is told at once, in order of place."""
    expected = "the answer breaks its schema: " + "; ".join(problems)

    assert ReadReply(problem=expected) == read_reply(json.dumps(reply), "stop", SCHEMA)
    assert "; ".join(problems) == validate_reply(reply, SCHEMA)


def test_many_violations_are_shortened():
    """Five are told, the others counted."""
    reply = VALID | {"files": [{} for _ in range(9)]}

    problem = read_reply(json.dumps(reply), "stop", SCHEMA).problem

    assert problem.count('missing "name"') == 5
    assert problem.endswith("; and 4 more")


def test_problem_does_not_quote_the_reply():
    """Values of the reply stay out of the history; long keys are shortened."""
    reply = {"verdict": "the secret plan", "score": "a secret", "k" * 500: 1}

    problem = read_reply(json.dumps(reply), "stop", SCHEMA).problem

    assert "secret" not in problem
    assert "k" * 50 not in problem


@pytest.mark.parametrize(
    ("reason", "schema", "problem"),
    [
        ("refusal", SCHEMA, "the model refused to answer"),
        ("content_filter", None, "stopped by the provider's content filter"),
    ],
)
def test_refused_answers_are_problems(reason, schema, problem):
    """A refusal is no reply, even if its text happens to be valid."""
    found = read_reply('{"verdict": "approve"}', reason, schema)

    assert found.reply is None
    assert problem in found.problem


def test_cut_off_json_says_so():
    """The repair is told the cause, not the place where the JSON broke."""
    found = read_reply('{"verdict": "app', "length", SCHEMA)

    assert "cut off at max_output_tokens" in found.problem


def test_complete_json_at_the_limit_is_a_reply():
    """A reply that ends exactly at the limit is whole."""
    assert read_reply('{"verdict": "approve"}', "length", SCHEMA).reply == VALID


def test_plain_text_is_a_reply():
    """Without a schema the text is the reply, as it came."""
    assert ReadReply(reply={"text": " Hello.\n"}) == read_reply(
        " Hello.\n", "stop", None
    )


def test_cut_off_text_is_a_reply():
    """Plain text that was cut off is accepted; the attempt says so."""
    found = read_reply("Hello, I", "length", None)

    assert found.reply == {"text": "Hello, I"}


@pytest.mark.parametrize(("reason", "more"), [("stop", ""), ("length", "used up")])
def test_empty_text_is_a_problem(reason, more):
    """An empty answer is no reply; reasoning that ate the limit is named."""
    found = read_reply(" \n", reason, None)

    assert found.reply is None
    assert "empty" in found.problem
    assert more in found.problem


def test_lone_surrogate_in_text_is_a_problem():
    """Text that cannot be encoded would fail on its way to the server."""
    assert "half a character" in read_reply("a\ud800", "stop", None).problem


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "objekt"}, "not a JSON Schema at $.type"),
        ({"$ref": "http://127.0.0.1:9/schema.json"}, "leads out of the schema"),
        ({"properties": {"a": {"$ref": "#/$defs/b"}}}, "leads nowhere"),
        ({"properties": {"a": {"$ref": "file:///etc/passwd"}}}, "leads out"),
    ],
)
def test_unusable_schema_is_a_config_error(schema, message):
    """A schema is checked before a call is paid, and never fetched from anywhere."""
    with pytest.raises(ConfigError) as caught:
        check_schema(schema)

    assert message in str(caught.value)


def test_compiled_schemas_are_cached():
    """Equal schemas are compiled once."""
    copy = json.loads(json.dumps(SCHEMA))

    assert check_schema(SCHEMA) is check_schema(copy)
    assert check_schema(SCHEMA) is not check_schema({"type": "object"})


@given(st.text(), st.sampled_from(["stop", "length", "refusal", "tool_use", ""]))
def test_any_text_gives_a_reply_or_a_problem(text, reason):
    """Whatever a model writes, there is either a reply or a problem."""
    for schema in (SCHEMA, None):
        found = read_reply(text, reason, schema)

        assert (found.reply is None) is bool(found.problem)


@given(OBJECTS)
def test_every_json_object_arrives_unchanged(value):
    """What is valid is not altered."""
    found = read_reply(json.dumps(value), "stop", {"type": "object"})

    assert found.reply == value


@pytest.mark.parametrize(
    ("reply", "schema_was_asked", "text"),
    [
        ({"text": "Größer \n"}, False, "Größer \n"),
        ({"text": "Größer \n"}, True, '{"text": "Größer \\n"}'),
        ({"b": 1, "a": [1.0, None]}, True, '{"b": 1, "a": [1.0, null]}'),
        ({"text": 3}, False, '{"text": 3}'),
        ({}, False, "{}"),
    ],
)
def test_reply_stands_in_its_conversation_as_one_text(reply, schema_was_asked, text):
    """Words stay words, what a schema asked for is JSON in the model's order."""
    assert text == reply_text(reply, schema_was_asked)


@given(OBJECTS)
def test_reply_has_the_same_text_on_both_sides_of_the_wire(value):
    """The workflow, which got the reply as a payload, makes the worker's text of it."""
    read = read_reply(json.dumps(value), "stop", {"type": "object"}).reply

    sent = AgentResult(reply=read).model_dump_json()

    arrived = AgentResult.model_validate_json(sent).reply
    assert reply_text(read, True) == reply_text(arrived, True)
