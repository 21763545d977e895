"""Turns pydantic's errors into problems with a place and plain words.

One problem for each place: the branches that pydantic tried for a union are
collapsed. What is checked across parts of the file is in `checks`.
"""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from tierpool.config.report import Key, Node, Report, known_names
from tierpool.fleet import Fleet

__all__ = ["known_keys", "report_errors"]

_PLAIN_WORDS: Mapping[str, str] = {
    "bool_type": "expected true or false",
    "bool_parsing": "expected true or false",
    "int_type": "expected a whole number",
    "int_parsing": "expected a whole number",
    "int_from_float": "expected a whole number",
    "float_type": "expected a number",
    "float_parsing": "expected a number",
    "string_type": "expected text",
    "dict_type": "expected a mapping",
    "model_type": "expected a mapping",
    "model_attributes_type": "expected a mapping",
    "tuple_type": "expected a list",
    "list_type": "expected a list",
    "finite_number": "expected a finite number",
}

_BOUNDS: Mapping[str, tuple[str, str]] = {
    "greater_than": ("must be more than {}", "gt"),
    "greater_than_equal": ("must be at least {}", "ge"),
    "less_than": ("must be less than {}", "lt"),
    "less_than_equal": ("must be at most {}", "le"),
    "too_short": ("must have at least {} element(s)", "min_length"),
    "too_long": ("must have at most {} elements", "max_length"),
    "string_too_short": ("must have at least {} character(s)", "min_length"),
    "string_too_long": ("must have at most {} characters", "max_length"),
}

_NAME_RULE = "a name is a letter, then letters, digits, `_` and `-`, at most 64 in all"
_KEY_RULES: Mapping[str, str] = {
    "model": "expected provider:model, where provider is openai, anthropic or local",
    "fallback": "expected provider:model, where provider is openai, anthropic or local",
    "call": "expected module:function",
    "api_key_env": "expected the name of an environment variable (capitals, digits, "
    "`_`); the key itself must not stand in the file",
    "pass_env": "expected the name of an environment variable (capitals, digits, `_`)",
    "fleet": "expected lower-case letters, digits and `-`, at most 63",
}


def report_errors(error: ValidationError, report: Report) -> None:
    """Add the problems that pydantic found in a whole file."""
    seen: set[tuple[Key, ...]] = set()
    groups: dict[tuple[Key, ...], list[ErrorDetails]] = {}
    for one in error.errors(include_url=False, include_input=False):
        path, _ = _split(one["loc"], report)
        groups.setdefault(path, []).append(one)
    for path, errors in groups.items():
        if path in seen or (report.has_error(path) and path):
            continue
        seen.add(path)
        _report_place(path, errors, report)


def _report_place(
    path: tuple[Key, ...], errors: Sequence[ErrorDetails], report: Report
) -> None:
    """Report the errors of one place; those of a union are one problem."""
    tried = [e for e in errors if len(_split(e["loc"], report)[1]) > 0]
    unions = [e for e in tried if e["type"] not in ("missing", "extra_forbidden")]
    unions = [e for e in unions if e["loc"][-1] != "[key]"]
    if unions:
        words = dict.fromkeys(_words(e, path) for e in unions)
        report.error(path, " or ".join(words).replace(" or expected", " or"))
    for one in errors:
        if one in unions:
            continue
        _report_one(path, one, report)


def _report_one(path: tuple[Key, ...], one: ErrorDetails, report: Report) -> None:
    if one["type"] == "extra_forbidden":
        key = str(path[-1]) if path else ""
        hint = known_names(key, known_keys(path[:-1]))
        report.error(path, f"unknown key {key!r}", hint=hint, at="key")
    elif one["type"] == "missing":
        key = str(one["loc"][-1])
        report.error((*path, key), f"missing key {key!r}", at="key")
    elif one["loc"][-1:] == ("[key]",):
        report.error(path, _NAME_RULE, at="key")
    elif one["type"] == "literal_error":
        _report_choice(path, report)
    elif one["type"] == "value_error":
        _report_rule(path, one, report)
    else:
        report.error(path, _words(one, path))


def _report_choice(path: tuple[Key, ...], report: Report) -> None:
    choices = [str(c) for c in get_args(_strip(_annotation(path)))]
    node = report.node(path)
    hint = known_names(str(node.scalar), choices) if node else None
    if len(choices) == 1:
        report.error(path, f"expected {choices[0]}")
    else:
        report.error(path, "not one of the known values", hint=hint)


def _report_rule(path: tuple[Key, ...], one: ErrorDetails, report: Report) -> None:
    """Report a rule of a model at the key that its message names first."""
    message = _words(one, path)
    node = report.node(path)
    entries = node.entries if node is not None else None
    for word in re.findall(r"[a-z_]+", message):
        if entries is not None and word in entries:
            report.error((*path, word), message)
            return
    report.error(path, message)


def _words(one: ErrorDetails, path: Sequence[Key]) -> str:
    kind, context = one["type"], one.get("ctx", {})
    if kind in _PLAIN_WORDS:
        return _PLAIN_WORDS[kind]
    if kind in _BOUNDS:
        text, key = _BOUNDS[kind]
        return text.format(context.get(key))
    if kind == "string_pattern_mismatch":
        names = [str(k) for k in path if isinstance(k, str)]
        last = names[-1] if names else ""
        return _KEY_RULES.get(last, _NAME_RULE)
    if kind == "value_error":
        return str(context.get("error", one["msg"]))
    return one["msg"][:1].lower() + one["msg"][1:]


def _split(
    loc: Sequence[Key], report: Report
) -> tuple[tuple[Key, ...], tuple[Key, ...]]:
    """Split pydantic's location into what the file has, and the rest."""
    node: Node | None = report.root
    for number, key in enumerate(loc):
        child = node.child(key) if node is not None else None
        if child is None:
            return tuple(loc[:number]), tuple(loc[number:])
        node = child
    return tuple(loc), ()


def known_keys(path: Sequence[Key]) -> list[str]:
    """Return the keys that agents.yaml knows at a place; empty if any name goes."""
    model = _strip(_annotation(path))
    if isinstance(model, type) and issubclass(model, BaseModel):
        return list(model.model_fields)
    return []


def _annotation(path: Sequence[Key]) -> Any:
    """Follow a path through the models' annotations."""
    at: Any = Fleet
    for key in path:
        at = _strip(at)
        if isinstance(at, type) and issubclass(at, BaseModel):
            field = at.model_fields.get(str(key))
            at = field.annotation if field is not None else None
        else:
            at = _element(at)
    return at


def _element(annotation: Any) -> Any:
    arguments = get_args(annotation)
    pick: Mapping[Any, Callable[[], Any]] = {
        dict: lambda: arguments[1],
        tuple: lambda: arguments[0],
    }
    origin = get_origin(annotation)
    return pick[origin]() if origin in pick and arguments else None


def _strip(annotation: Any) -> Any:
    """Take off Annotated and the `| None` of an optional key."""
    while True:
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        elif get_origin(annotation) in (Union, types.UnionType):
            inner = [a for a in get_args(annotation) if a is not type(None)]
            if len(inner) != 1:
                return annotation
            annotation = inner[0]
        else:
            return annotation
