"""Reads `output:` of a role: the short form, a real schema, a file or a model.

The result is always a JSON Schema of an object. What a flow does with the
fields is in `conditions`.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from jsonschema.validators import validator_for
from pydantic import BaseModel, JsonValue

from tierpool.config.report import Key, known_names
from tierpool.config.source import PartProblem, read_part

__all__ = ["Note", "Schema", "canonical", "resolve_output", "verdict_schema"]

Schema: TypeAlias = dict[str, JsonValue]

Note: TypeAlias = Callable[[tuple[Key, ...], str, str | None], None]
"""Takes a problem: path below `output`, message, hint."""

_TYPES = ("string", "integer", "number", "boolean", "array", "object")
_SHORT_TYPES = (*_TYPES, *(f"{name}[]" for name in _TYPES))
_MODEL = re.compile(r"[\w.]+:[\w.]+")


def canonical(schema: Mapping[str, JsonValue]) -> str:
    """Write a schema so that equal schemas have equal text."""
    return json.dumps(schema, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def verdict_schema(*, reason_required: bool) -> Schema:
    """Return the schema of a verifier that declares none."""
    return _object(
        {"accept": {"type": "boolean"}, "reason": {"type": "string"}},
        ["accept", "reason"] if reason_required else ["accept"],
    )


def resolve_output(
    value: Mapping[str, JsonValue] | str, folder: Path, note: Note
) -> Schema | None:
    """Return the JSON Schema; None after problems, which `note` took.

    Args:
        value: The value of `output:`.
        folder: Folder of agents.yaml; files are relative to it.
        note: Takes every problem.
    """
    if isinstance(value, str):
        try:
            schema = (
                _from_model(value, folder)
                if _MODEL.fullmatch(value)
                else _from_file(value, folder)
            )
        except PartProblem as problem:
            note((), problem.message, problem.hint)
            return None
        return schema if _sound(schema, (), note) else None
    if _is_schema(value):
        real = dict(value)
        return real if _sound(real, (), note) else None
    failed = False

    def take(path: tuple[Key, ...], message: str, hint: str | None) -> None:
        nonlocal failed
        failed = True
        note(path, message, hint)

    short = _short_object(value, (), take)
    return None if failed else short


def _is_schema(value: Mapping[str, JsonValue]) -> bool:
    """Tell a real JSON Schema of a reply from the short form.

    A reply may well have a field named `type` or `properties`, so the names
    alone decide nothing: their values do.
    """
    if any(key in value for key in ("$schema", "$ref", "$defs")):
        return True
    if isinstance(value.get("properties"), dict) or value.get("type") == "object":
        return True
    lists = ("anyOf", "oneOf", "allOf", "required")
    if value.get("type") == "array" and isinstance(value.get("items"), dict):
        return True
    return any(isinstance(value.get(key), list) for key in lists) and "type" in value


def _is_nested_schema(value: Mapping[str, JsonValue]) -> bool:
    return value.get("type") in _TYPES or _is_schema(value)


def _object(properties: dict[str, JsonValue], required: Sequence[str]) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def _short_object(
    value: Mapping[str, JsonValue], path: tuple[Key, ...], note: Note
) -> Schema:
    if not value:
        note(path, "an object without fields", "name at least one field")
    properties: dict[str, JsonValue] = {}
    required = []
    for key, shape in value.items():
        name = key.removesuffix("?")
        if not name or name in properties:
            note((*path, key), f"the field {name!r} is empty or stands twice", None)
            continue
        properties[name] = _short(shape, (*path, key), note)
        if name == key:
            required.append(name)
    return _object(properties, required)


def _short(shape: JsonValue, path: tuple[Key, ...], note: Note) -> Schema:
    if isinstance(shape, str):
        return _type_name(shape, path, note)
    if isinstance(shape, list):
        return _enum(shape, path, note)
    if isinstance(shape, dict):
        if _is_nested_schema(shape):
            _checked(shape, path, note)
            return shape
        return _short_object(shape, path, note)
    hint = "write a type, a list of values, or a mapping of fields"
    note(path, "not the shape of a field", hint)
    return {}


def _type_name(name: str, path: tuple[Key, ...], note: Note) -> Schema:
    if name not in _SHORT_TYPES:
        note(path, f"unknown type {name!r}", known_names(name, _SHORT_TYPES))
        return {}
    if name.endswith("[]"):
        return {"type": "array", "items": {"type": name.removesuffix("[]")}}
    return {"type": name}


def _enum(values: list[JsonValue], path: tuple[Key, ...], note: Note) -> Schema:
    if not values:
        note(path, "a list of allowed values must not be empty", None)
    if any(isinstance(value, dict | list) for value in values):
        hint = "for a list of objects write {type: array, items: {…}}"
        note(path, "a list names allowed values: text, numbers, true, false", hint)
    elif len({json.dumps(value) for value in values}) != len(values):
        note(path, "an allowed value stands twice", None)
    elif len(values) == 1 and values[0] in _SHORT_TYPES:
        hint = f"for a list of them write {values[0]}[]"
        note(path, f"a list names allowed values; {values[0]!r} is a type", hint)
    schema: Schema = {"enum": values}
    if values and all(isinstance(value, str) for value in values):
        schema["type"] = "string"
    return schema


def _sound(schema: Schema, path: tuple[Key, ...], note: Note) -> bool:
    """Check a whole schema: it must describe an object and stand on its own."""
    if not _checked(schema, path, note):
        return False
    if schema.get("type", "object") != "object":
        note((*path, "type"), "a reply is an object", "write type: object")
        return False
    return True


def _checked(schema: Schema, path: tuple[Key, ...], note: Note) -> bool:
    validator: Any = validator_for(schema, default=Draft202012Validator)
    try:
        validator.check_schema(schema, format_checker=validator.FORMAT_CHECKER)
    except SchemaError as error:
        where = (*path, *(p for p in error.absolute_path))
        note(where, f"not a valid JSON Schema: {_shorten(error.message)}", None)
        return False
    for where, target in _references(schema, path):
        if not _resolves(schema, target):
            hint = "only references within the schema are followed"
            note(where, f"$ref {_shorten(target)!r} leads nowhere", hint)
            return False
    return True


def _references(
    value: JsonValue, path: tuple[Key, ...]
) -> list[tuple[tuple[Key, ...], str]]:
    found: list[tuple[tuple[Key, ...], str]] = []
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "$ref" and isinstance(inner, str):
                found.append(((*path, key), inner))
            elif key not in ("enum", "const", "default", "examples"):
                found += _references(inner, (*path, key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            found += _references(inner, (*path, number))
    return found


def _resolves(schema: JsonValue, target: str) -> bool:
    if target == "#":
        return True
    if not target.startswith("#/"):
        return False
    at: JsonValue = schema
    for part in target[2:].split("/"):
        name = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(at, dict) or name not in at:
            return False
        at = at[name]
    return isinstance(at, dict | bool)


def _from_file(name: str, folder: Path) -> Schema:
    """Read a schema file.

    Raises:
        PartProblem: if it cannot be read or holds no JSON object.
    """
    text = read_part(folder, name, "schema")
    try:
        schema = json.loads(text, parse_constant=_no_constant)
    except RecursionError:
        raise PartProblem("the schema file is nested too deep") from None
    except json.JSONDecodeError as error:
        raise PartProblem(
            f"the schema file is not JSON: {error.msg} at {error.lineno}:{error.colno}"
        ) from None
    except ValueError as error:
        raise PartProblem(f"the schema file is not JSON: {error}") from None
    if not isinstance(schema, dict):
        raise PartProblem("the schema file must hold a JSON object")
    return schema


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _from_model(reference: str, folder: Path) -> Schema:
    """Import a pydantic model; the folder of agents.yaml is searched last.

    Raises:
        PartProblem: if it cannot be imported or is not a model.
    """
    module_name, _, name = reference.partition(":")
    module = _import(module_name, folder)
    found: object = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if not (isinstance(found, type) and issubclass(found, BaseModel)):
        models = [
            key
            for key, value in vars(module).items()
            if isinstance(value, type) and issubclass(value, BaseModel)
        ]
        raise PartProblem(
            f"{module_name} has no pydantic model {name!r}", known_names(name, models)
        )
    try:
        return found.model_json_schema()
    except Exception as error:  # noqa: BLE001 - the model's own code runs here
        raise PartProblem(
            f"the model has no JSON Schema: {_shorten(str(error))}"
        ) from None


def _import(name: str, folder: Path) -> object:
    extra = str(folder.resolve())
    sys.path.append(extra)
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's code runs here
        reason = f"{type(error).__name__}: {_shorten(str(error))}"
        raise PartProblem(
            f"cannot import {name!r}: {reason}",
            "a path of a schema file ends in .json",
        ) from None
    finally:
        sys.path.remove(extra)


def _shorten(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 160 else line[:159] + "…"
