"""The smallest value that satisfies a JSON Schema, for replies nobody scripted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from pydantic import JsonValue

__all__ = ["sample"]


def sample(schema: Mapping[str, JsonValue]) -> JsonValue:
    """Return a value of the schema.

    Knows const, enum, $ref, anyOf, oneOf, allOf, required properties, and the
    lower bounds of numbers, strings and arrays; no patterns and formats.
    """
    return _sample(schema, schema)


def _sample(
    schema: JsonValue | Mapping[str, JsonValue], root: Mapping[str, JsonValue]
) -> JsonValue:
    if not isinstance(schema, Mapping):
        return "x"
    if "const" in schema:
        return schema["const"]
    for key in ("enum", "examples"):
        values = schema.get(key)
        if isinstance(values, list) and values:
            return values[0]
    for key in ("anyOf", "oneOf", "allOf"):
        variants = schema.get(key)
        if isinstance(variants, list) and variants:
            return _sample(variants[0], root)
    reference = schema.get("$ref")
    if isinstance(reference, str):
        return _sample(_resolve(reference, root), root)
    kind = schema.get("type")
    return _of_type(kind[0] if isinstance(kind, list) else kind, schema, root)


def _of_type(
    kind: JsonValue, schema: Mapping[str, JsonValue], root: Mapping[str, JsonValue]
) -> JsonValue:
    match kind:
        case "string":
            return "x" * max(1, _number(schema, "minLength"))
        case "integer" | "number":
            return max(
                _number(schema, "minimum"), _number(schema, "exclusiveMinimum", -1) + 1
            )
        case "boolean":
            return True
        case "null":
            return None
        case "array":
            item = _sample(schema.get("items"), root)
            return [item] * _number(schema, "minItems")
        case _:
            properties = schema.get("properties")
            required = schema.get("required")
            if not isinstance(properties, Mapping):
                properties = {}
            names = required if isinstance(required, list) else []
            return {
                str(name): _sample(properties.get(str(name)), root) for name in names
            }


def _number(schema: Mapping[str, JsonValue], key: str, missing: int = 0) -> int:
    value = schema.get(key, missing)
    return int(value) if isinstance(value, int | float) else missing


def _resolve(reference: str, root: Mapping[str, JsonValue]) -> JsonValue:
    value = cast(JsonValue, root)
    for part in reference.removeprefix("#").strip("/").split("/"):
        value = value.get(part) if isinstance(value, dict) else None
    return value
