"""`output:` of a role: the short form, real schemas, files and models."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from tierpool.config.output import canonical, resolve_output, verdict_schema
from tierpool.config.report import path_text


def resolve(value: Any, folder: Path = Path()) -> tuple[Any, list[str]]:
    """Resolve a value; problems as `path: message; hint`."""
    found: list[str] = []

    def note(path: tuple[str | int, ...], message: str, hint: str | None) -> None:
        found.append(f"{path_text(path)}: {message}; {hint or ''}")

    return resolve_output(value, folder, note), found


def test_the_short_form_is_a_closed_object() -> None:
    """A list is an enum, `?` makes a field optional, a mapping is an object."""
    schema, problems = resolve(
        {
            "verdict": ["approve", "reject"],
            "notes?": "string",
            "tags": "string[]",
            "where": {"line": "integer"},
            "level": [1, 2, "high"],
        }
    )

    assert [] == problems
    assert {
        "type": "object",
        "properties": {
            "verdict": {"type": "string", "enum": ["approve", "reject"]},
            "notes": {"type": "string"},
            "tags": {"type": "array", "items": {"type": "string"}},
            "where": {
                "type": "object",
                "properties": {"line": {"type": "integer"}},
                "required": ["line"],
                "additionalProperties": False,
            },
            "level": {"enum": [1, 2, "high"]},
        },
        "required": ["verdict", "tags", "where", "level"],
        "additionalProperties": False,
    } == schema


@pytest.mark.parametrize(
    "value",
    [
        {"type": "object", "properties": {"a": {"type": "string"}}},
        {"properties": {"a": {"type": "string"}}},
        {"$schema": "https://json-schema.org/draft/2020-12/schema"},
        {"$ref": "#/$defs/a", "$defs": {"a": {"type": "object"}}},
    ],
)
def test_a_real_schema_is_taken_as_it_is(value: dict[str, Any]) -> None:
    """Nothing is added to a schema that somebody wrote."""
    assert (value, []) == resolve(value)


@pytest.mark.parametrize(
    "value",
    [
        {"type": ["bug", "feature"]},
        {"type": "string", "title": "string"},
        {"properties": "string[]", "required": "boolean"},
    ],
)
def test_fields_may_be_called_like_keywords(value: dict[str, Any]) -> None:
    """A reply with a field `type` is no JSON Schema."""
    schema, problems = resolve(value)

    assert [] == problems
    assert list(value) == list(schema["properties"])


def test_a_field_may_be_a_real_schema() -> None:
    """What the short form cannot say is said inside of it."""
    items = {"type": "array", "items": {"type": "object"}, "maxItems": 3}

    schema, problems = resolve({"findings": items, "ok": "boolean"})

    assert [] == problems
    assert items == schema["properties"]["findings"]


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({}, ": an object without fields"),
        ({"a": "sting"}, "a: unknown type 'sting'; did you mean 'string'?"),
        ({"a": "string[][]"}, "a: unknown type 'string[][]'"),
        ({"a": []}, "a: a list of allowed values must not be empty"),
        ({"a": ["x", "x"]}, "a: an allowed value stands twice"),
        ({"a": [["x"]]}, "a: a list names allowed values: text"),
        ({"a": ["string"]}, "a: a list names allowed values; 'string' is a type; "),
        ({"a": {"b": 5}}, "a.b: not the shape of a field"),
        ({"a": None}, "a: not the shape of a field"),
        ({"a": {}}, "a: an object without fields"),
        ({"a": "string", "a?": "string"}, "[\"a?\"]: the field 'a' is empty or"),
        ({"?": "string"}, "[\"?\"]: the field '' is empty or"),
        ({"a": {"type": "string", "minLength": "x"}}, "a.minLength: not a valid JSON"),
        ({"type": "object", "properties": 5}, "properties: not a valid JSON Schema"),
        (
            {"type": "object", "properties": {"a": {"type": "sting"}}},
            "properties.a.type: not a valid JSON Schema",
        ),
        (
            {"type": "object", "properties": {"a": {"pattern": "("}}},
            "properties.a.pattern: not a valid JSON Schema",
        ),
        (
            {"type": "object", "properties": {"a": {"$ref": "#/$defs/b"}}},
            "properties.a[\"$ref\"]: $ref '#/$defs/b' leads nowhere",
        ),
        (
            {"type": "object", "properties": {"a": {"$ref": "http://x/y"}}},
            "properties.a[\"$ref\"]: $ref 'http://x/y' leads nowhere",
        ),
        ({"type": "array", "items": {"type": "string"}}, "type: a reply is an object"),
    ],
)
def test_a_wrong_shape_is_reported_at_its_place(
    value: dict[str, Any], problem: str
) -> None:
    """Path, reason and the nearest type are named, and there is no schema."""
    schema, problems = resolve(value)

    assert schema is None
    assert 1 == len(problems)
    assert problems[0].startswith(problem)


def test_all_wrong_fields_are_reported() -> None:
    """The first one hides no other."""
    _, problems = resolve({"a": "sting", "b": [], "c": {"d": "bool"}})

    assert ["a", "b", "c.d"] == [p.split(":")[0] for p in problems]


def test_a_schema_file_is_read(tmp_path: Path) -> None:
    """Its path is relative to agents.yaml."""
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    (tmp_path / "review.json").write_text(json.dumps(schema))

    assert (schema, []) == resolve("review.json", tmp_path)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "the schema file is not JSON: Expecting property name"),
        ('{"a": NaN}', "the schema file is not JSON: NaN is not JSON"),
        ("[]", "the schema file must hold a JSON object"),
        ("", "the schema file is empty"),
        ("[" * 60_000, "the schema file is nested too deep"),
        ('{"type": "array"}', "a reply is an object"),
    ],
)
def test_a_schema_file_that_cannot_be_used(
    tmp_path: Path, content: str, problem: str
) -> None:
    """The reason is named."""
    (tmp_path / "review.json").write_text(content)

    schema, problems = resolve("review.json", tmp_path)

    assert schema is None
    assert problem in problems[0]


@pytest.fixture
def models(tmp_path: Path) -> Iterator[Path]:
    """Make a module beside agents.yaml, and forget it afterwards."""
    (tmp_path / "house_models.py").write_text(
        "from pydantic import BaseModel\n"
        "class Review(BaseModel):\n    verdict: str\n"
        "class Odd(BaseModel, arbitrary_types_allowed=True):\n    x: type(print)\n"
        "number = 5\n"
    )
    (tmp_path / "house_broken.py").write_text("raise RuntimeError('no database')\n")
    (tmp_path / "house_exit.py").write_text("raise SystemExit(3)\n")
    yield tmp_path
    for name in ("house_models", "house_broken", "house_exit"):
        sys.modules.pop(name, None)


def test_a_pydantic_model_gives_its_schema(models: Path) -> None:
    """`module:Model` is imported, from beside agents.yaml too."""
    path = list(sys.path)

    schema, problems = resolve("house_models:Review", models)

    assert [] == problems
    assert ["verdict"] == schema["required"]
    assert path == sys.path


@pytest.mark.parametrize(
    ("reference", "problem"),
    [
        ("house_models:Reviw", "has no pydantic model 'Reviw'; did you mean 'Review'?"),
        ("house_models:number", "has no pydantic model 'number'"),
        ("house_models:Odd", "the model has no JSON Schema"),
        ("house_broken:X", "cannot import 'house_broken': RuntimeError: no database"),
        ("house_exit:X", "cannot import 'house_exit': SystemExit: 3"),
        ("house_absent:X", "cannot import 'house_absent': ModuleNotFoundError"),
    ],
)
def test_a_model_that_cannot_be_used(
    models: Path, reference: str, problem: str
) -> None:
    """The reason of a failed import is named, and nothing else fails."""
    schema, problems = resolve(reference, models)

    assert schema is None
    assert problem in problems[0]


def test_equal_schemas_have_equal_text() -> None:
    """The order of keys does not make another part."""
    assert canonical({"a": 1, "b": [2]}) == canonical({"b": [2], "a": 1})
    assert '{"a":"é"}' == canonical({"a": "é"})


def test_the_default_verdict_asks_an_llm_for_a_reason() -> None:
    """A human may leave it out."""
    assert ["accept", "reason"] == verdict_schema(reason_required=True)["required"]
    assert ["accept"] == verdict_schema(reason_required=False)["required"]


TYPES = ["string", "integer", "number", "boolean", "array", "object", "string[]"]
SHAPES = st.recursive(
    st.sampled_from(TYPES)
    | st.lists(st.integers() | st.text(), min_size=2, max_size=3, unique=True),
    lambda inner: st.dictionaries(
        st.text(min_size=1, max_size=5).filter(lambda name: "?" not in name),
        inner,
        min_size=1,
        max_size=3,
    ),
    max_leaves=8,
)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.from_regex(r"[a-z]{1,6}\??", fullmatch=True), SHAPES))
def test_every_short_form_makes_a_valid_schema(value: dict[str, Any]) -> None:
    """Either there are problems, or the schema is a valid one of an object."""
    schema, problems = resolve(value)

    assert (schema is None) is bool(problems)
    if schema is not None:
        Draft202012Validator.check_schema(schema)
        assert not Draft202012Validator(schema).is_valid([])
