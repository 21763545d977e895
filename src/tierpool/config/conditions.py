"""Checks `when`: its own shape, and whether the last reply can ever match it.

The second only where it is certain whose reply is the last one and what that
role's schema allows; in doubt nothing is said.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias

from pydantic import JsonValue

from tierpool.config.graph import Edge
from tierpool.config.output import Schema
from tierpool.config.report import Key, known_names
from tierpool.errors import nearest
from tierpool.flow import CONDITION_KEYS, matches

__all__ = ["Finding", "against_schema", "repliers", "shape_problems"]

Path: TypeAlias = tuple[Key, ...]


class Finding(NamedTuple):
    """What is wrong with one place below `when`."""

    message: str
    hint: str | None = None
    at: Literal["key", "value"] = "value"
    severity: Literal["error", "warning"] = "error"


_ORDER = (">", ">=", "<", "<=")
_ANNOTATIONS = frozenset(
    {"$ref", "title", "description", "default", "examples", "$comment"}
)
_COMPOSED = frozenset(
    {
        "$dynamicRef",
        "$recursiveRef",
        "allOf",
        "anyOf",
        "dependencies",
        "dependentSchemas",
        "else",
        "if",
        "not",
        "oneOf",
        "patternProperties",
        "then",
        "unevaluatedProperties",
    }
)
"""Keywords whose effect is not followed: then nothing is said."""


def shape_problems(when: Mapping[str, JsonValue]) -> dict[Path, Finding]:
    """Return what can never be meant, by path below `when`."""
    found: dict[Path, Finding] = {}
    for name, expected in when.items():
        if all(name.split(".")):
            found.update(_shape(expected, (name,)))
        else:
            found[(name,)] = Finding("a field's name must not be empty", at="key")
    return found


def _shape(expected: JsonValue, path: Path) -> Iterator[tuple[Path, Finding]]:
    if isinstance(expected, list):
        if not expected:
            yield path, Finding("an empty list of values never matches")
        for number, one in enumerate(expected):
            yield from _shape(one, (*path, number))
    elif isinstance(expected, dict):
        if not expected:
            yield path, Finding("an empty condition says nothing", "name a value")
        for key, bound in expected.items():
            yield from _operator(key, bound, (*path, key))


def _operator(key: str, bound: JsonValue, path: Path) -> Iterator[tuple[Path, Finding]]:
    if key not in CONDITION_KEYS:
        hint = known_names(key, CONDITION_KEYS)
        yield path, Finding(f"unknown operator {key!r}", hint, at="key")
    elif key == "not":
        yield from _shape(bound, path)
    elif key in _ORDER and (
        isinstance(bound, bool) or not isinstance(bound, int | float | str)
    ):
        yield path, Finding(f"`{key}` compares with a number or text")


def repliers(leaving: Sequence[Edge], index: int, *, timeout: bool) -> list[str] | None:
    """Return the roles of which one gave the last reply when `when` is matched.

    None if the reply may be older than the visit. `timeout` tells whether the
    state has one: then a role may not have run.
    """
    own = leaving[index].transition
    if own is None:
        return None
    if own.agent is not None:
        return [own.agent]
    roles: list[str] = []
    for edge in reversed(leaving[:index]):
        if edge.transition is None:
            return None
        if edge.transition.agent is None:
            continue
        roles.append(edge.transition.agent)
        if edge.transition.max_visits is None and not timeout:
            return roles
    return None


def against_schema(
    when: Mapping[str, JsonValue], schema: Schema
) -> dict[Path, Finding]:
    """Return what a reply of this schema can never match, by path below `when`."""
    found: dict[Path, Finding] = {}
    for name, expected in when.items():
        field, problem = _field(schema, name)
        if problem is not None:
            found[(name,)] = problem
        elif field is not None:
            for path, leaf in _leaves(expected, (name,)):
                finding = _impossible(leaf, field, name)
                if finding is not None:
                    found[path] = finding
    return found


def _field(schema: Schema, name: str) -> tuple[Schema | None, Finding | None]:
    """Find a field's schema; neither is set if nothing certain can be said."""
    at: Schema | None = schema
    for part in name.split("."):
        at = _resolve(at, schema)
        if at is None or "properties" not in at:
            return None, None
        fields = at["properties"]
        if not isinstance(fields, dict):
            return None, None
        if part not in fields:
            closed = at.get("additionalProperties") is False
            message = f"the reply has no declared field {part!r}"
            hint = known_names(part, fields)
            return None, Finding(
                message, hint, at="key", severity="error" if closed else "warning"
            )
        inner = fields[part]
        at = inner if isinstance(inner, dict) else None
    return _resolve(at, schema), None


def _resolve(schema: Schema | None, root: Schema) -> Schema | None:
    """Follow `$ref`; None where the schema is put together from others."""
    for _ in range(20):
        if schema is None or _COMPOSED.intersection(schema):
            return None
        target = schema.get("$ref")
        if target is None:
            return schema
        if not isinstance(target, str) or not _ANNOTATIONS.issuperset(schema):
            return None
        at: JsonValue = root
        for part in target.removeprefix("#/").split("/"):
            at = at.get(part) if isinstance(at, dict) else None
        schema = at if isinstance(at, dict) else None
    return None


def _leaves(expected: JsonValue, path: Path) -> Iterator[tuple[Path, JsonValue]]:
    """Yield each single comparison; `not` and `!=` by what they compare with."""
    if isinstance(expected, list):
        for number, one in enumerate(expected):
            yield from _leaves(one, (*path, number))
    elif isinstance(expected, dict):
        for key, bound in expected.items():
            if key == "not":
                yield from _leaves(bound, (*path, key))
            elif key == "!=":
                yield (*path, key), {"==": bound}
            elif key in CONDITION_KEYS:
                yield (*path, key), {key: bound}
    else:
        yield path, expected


def _impossible(leaf: JsonValue, field: Schema, name: str) -> Finding | None:
    values = field.get("enum", [field["const"]] if "const" in field else None)
    if isinstance(values, list):
        if any(matches({"value": leaf}, {"value": one}) for one in values):
            return None
        bound = next(iter(leaf.values())) if isinstance(leaf, dict) else leaf
        texts = [str(one) for one in values]
        hint = nearest(str(bound), texts)
        return Finding(
            f"{name} is never that; it is one of {', '.join(texts)}",
            f"did you mean {hint!r}?" if hint else None,
        )
    declared = field.get("type")
    kinds = declared if isinstance(declared, list) else [declared]
    if declared is None or _fits(leaf, {str(kind) for kind in kinds}):
        return None
    return Finding(f"{name} is never that: its type is {' or '.join(map(str, kinds))}")


def _fits(leaf: JsonValue, kinds: set[str]) -> bool:
    """Tell whether a value of these types can satisfy the comparison."""
    order = isinstance(leaf, dict) and next(iter(leaf)) in _ORDER
    bound = next(iter(leaf.values())) if isinstance(leaf, dict) else leaf
    if isinstance(bound, bool):
        return "boolean" in kinds and not order
    if isinstance(bound, int | float):
        return bool(kinds & {"integer", "number"})
    if isinstance(bound, str):
        return "string" in kinds
    if bound is None:
        return "null" in kinds
    return ("array" if isinstance(bound, list) else "object") in kinds
