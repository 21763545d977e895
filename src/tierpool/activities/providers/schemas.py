"""Which JSON Schemas a provider can enforce while it writes; pure.

The reply is validated in any case (`tierpool.replies`); these functions only
say whether the provider may be asked to guarantee it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from pydantic import JsonValue

__all__ = ["fits_anthropic", "fits_openai_strict", "safe_name"]

Schema = Mapping[str, JsonValue]

_OPENAI_KEYS = frozenset(
    [
        "$defs",
        "$ref",
        "additionalProperties",
        "anyOf",
        "const",
        "default",
        "description",
        "enum",
        "exclusiveMaximum",
        "exclusiveMinimum",
        "format",
        "items",
        "maxItems",
        "maximum",
        "minItems",
        "minimum",
        "multipleOf",
        "pattern",
        "properties",
        "required",
        "title",
        "type",
    ]
)
_COMBINED = frozenset({"allOf", "if", "then", "else", "not", "patternProperties"})
_OPENAI_DEPTH = 10
_OPENAI_PROPERTIES = 5000
_DEPTH = 64


def fits_openai_strict(schema: Schema) -> bool:
    """Tell whether OpenAI accepts the schema with `strict: true`.

    Strict needs an object at the root, every object closed and every property
    required, and knows only part of JSON Schema.
    Source: OpenAI's guide to structured outputs, as of November 2026.
    """
    if schema.get("type") != "object" or "anyOf" in schema or "$ref" in schema:
        return False
    properties = 0
    for part, depth in _walk(schema):
        if depth > _OPENAI_DEPTH or not _OPENAI_KEYS.issuperset(part):
            return False
        if _is_object(part):
            names = _names(part)
            properties += len(names)
            if part.get("additionalProperties") is not False:
                return False
            if set(names) != set(_strings(part.get("required"))):
                return False
        elif not {"type", "enum", "const", "anyOf", "$ref"} & set(part):
            return False
    return properties <= _OPENAI_PROPERTIES


def fits_anthropic(schema: Schema) -> bool:
    """Tell whether Anthropic can enforce the schema.

    Its SDK turns bounds and formats into descriptions, which the validation of
    the reply makes good; free-form objects, lists of types, combinations and
    recursion it cannot express at all.
    Source: Anthropic's guide to structured outputs, as of November 2026.
    """
    if schema.get("type") != "object":
        return False
    for part, depth in _walk(schema):
        if depth > _DEPTH or _COMBINED & set(part):
            return False
        if isinstance(part.get("type"), list):
            return False
        if _is_object(part) and not (
            _names(part) and part.get("additionalProperties", False) is False
        ):
            return False
        ref = part.get("$ref")
        if ref is None and not {"type", "enum", "const", "anyOf", "oneOf"} & set(part):
            return False
        if isinstance(ref, str) and not ref.startswith("#/$defs/"):
            return False
    return not _recursive(schema)


def safe_name(name: str) -> str:
    """Make a name that fits `^[a-zA-Z0-9_-]{1,64}$`."""
    return re.sub(r"[^a-zA-Z0-9_-]", "_", name)[:64] or "reply"


def _walk(schema: JsonValue | Schema, depth: int = 1) -> Iterator[tuple[Schema, int]]:
    """Yield every subschema with its depth; stops just past the deepest allowed."""
    if not isinstance(schema, Mapping):
        if isinstance(schema, bool):  # `true` allows anything: no keyword fits it
            yield {"": schema}, depth
        return
    yield schema, depth
    if depth > _DEPTH:
        return
    for key in ("properties", "$defs", "definitions"):
        group = schema.get(key)
        for part in group.values() if isinstance(group, Mapping) else ():
            yield from _walk(part, depth + 1)
    for key in ("anyOf", "oneOf", "prefixItems"):
        variants = schema.get(key)
        for part in variants if isinstance(variants, list) else ():
            yield from _walk(part, depth + 1)
    if "items" in schema:
        yield from _walk(schema["items"], depth + 1)


def _is_object(schema: Schema) -> bool:
    kind = schema.get("type")
    return kind == "object" or (isinstance(kind, list) and "object" in kind)


def _names(schema: Schema) -> list[str]:
    properties = schema.get("properties")
    return list(properties) if isinstance(properties, Mapping) else []


def _strings(value: JsonValue) -> list[str]:
    return [v for v in value if isinstance(v, str)] if isinstance(value, list) else []


def _recursive(schema: Schema) -> bool:
    """Tell whether a definition leads back to itself."""
    definitions = schema.get("$defs")
    if not isinstance(definitions, Mapping):
        return False
    leads = {
        name: {
            ref.removeprefix("#/$defs/")
            for part, _ in _walk(body)
            if isinstance(ref := part.get("$ref"), str)
        }
        for name, body in definitions.items()
    }
    for name in leads:
        seen: set[str] = set()
        ahead = set(leads[name])
        while ahead:
            if name in ahead:
                return True
            seen |= ahead
            ahead = set().union(*(leads.get(n, set()) for n in ahead)) - seen
    return False
