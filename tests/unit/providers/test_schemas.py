"""Which schemas a provider is asked to enforce."""

from __future__ import annotations

import pytest

from tierpool.activities.providers.schemas import (
    fits_anthropic,
    fits_openai_strict,
    safe_name,
)


def closed(properties, **more):
    """Make an object schema as strict mode wants it."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
        **more,
    }


TEXT = {"type": "string"}
NODE = closed({"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}})
DEEP = TEXT
for _ in range(12):
    DEEP = closed({"in": DEEP})


@pytest.mark.parametrize(
    ("schema", "strict", "anthropic"),
    [
        pytest.param(closed({"a": TEXT}), True, True, id="closed"),
        pytest.param(closed({"a": {"enum": ["x", "y"]}}), True, True, id="enum"),
        pytest.param(closed({"a": closed({"b": TEXT})}), True, True, id="nested"),
        pytest.param(
            closed({"a": {"type": "array", "items": TEXT}}), True, True, id="array"
        ),
        pytest.param(
            closed({"a": {"$ref": "#/$defs/t"}}, **{"$defs": {"t": TEXT}}),
            True,
            True,
            id="definition",
        ),
        pytest.param(
            closed({"a": {"anyOf": [TEXT, {"type": "null"}]}}), True, True, id="anyOf"
        ),
        pytest.param(
            closed({"a": {"type": ["string", "null"]}}), True, False, id="two types"
        ),
        pytest.param(
            closed({"a": {"type": "integer", "minimum": 1}}), True, True, id="bounds"
        ),
        pytest.param(
            closed({"n": NODE}, **{"$defs": {"node": NODE}}),
            True,
            False,
            id="recursive",
        ),
        pytest.param(closed({"a": TEXT}, required=[]), False, True, id="optional"),
        pytest.param(
            {"type": "object", "properties": {"a": TEXT}, "required": ["a"]},
            False,
            True,
            id="open",
        ),
        pytest.param(
            closed({"a": TEXT}, additionalProperties=True), False, False, id="extra"
        ),
        pytest.param(closed({"a": {"type": "object"}}), False, False, id="free form"),
        pytest.param(
            closed({"a": {"type": "object", "additionalProperties": TEXT}}),
            False,
            False,
            id="map",
        ),
        pytest.param(closed({"a": {}}), False, False, id="anything"),
        pytest.param(closed({"a": True}), False, False, id="true"),
        pytest.param(closed({"a": {"allOf": [TEXT]}}), False, False, id="combination"),
        pytest.param(
            closed({"a": {"type": "string", "maxLength": 5}}),
            False,
            True,
            id="a bound strict mode does not know",
        ),
        pytest.param({"type": "array", "items": TEXT}, False, False, id="no object"),
        pytest.param({}, False, False, id="empty"),
        pytest.param(DEEP, False, True, id="12 levels"),
    ],
)
def test_what_each_provider_enforces(schema, strict, anthropic):
    """A schema is only handed over where the provider takes it as it is meant."""
    assert strict is fits_openai_strict(schema)
    assert anthropic is fits_anthropic(schema)


def test_what_fits_anthropic_passes_its_sdk():
    """The SDK's own transformation takes every schema that fits."""
    from anthropic import transform_schema

    schema = closed(
        {
            "a": {"enum": [1, "x", None]},
            "b": {"oneOf": [TEXT, {"type": "integer", "maximum": 3}]},
            "c": {"type": "array", "items": {"const": 1}, "minItems": 4},
            "d": {"$ref": "#/$defs/t"},
        },
        **{"$defs": {"t": {"type": "string", "format": "email"}}},
    )

    assert fits_anthropic(schema)
    assert transform_schema(schema)["required"] == ["a", "b", "c", "d"]


def test_endless_nesting_ends():
    """A schema that contains itself as an object does not hang the check."""
    schema = closed({"a": TEXT})
    schema["properties"]["a"] = schema

    assert not fits_openai_strict(schema)
    assert not fits_anthropic(schema)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("reviewer", "reviewer"),
        ("my role!", "my_role_"),
        ("", "reply"),
        ("é" * 80, "_" * 64),
    ],
)
def test_schema_names_are_made_to_fit(name, expected):
    """OpenAI takes letters, digits, `_` and `-`, at most 64."""
    assert expected == safe_name(name)
