"""From a model's text to a valid reply, or to what is wrong with it; pure.

The problem is written for the model, which gets it in the repair attempt, and
it stands in the history: it names places and expectations, and of the reply
only keys. JSON is read strictly, since what Python tolerates (NaN, a key that
stands twice) would be another value for the next reader.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from threading import Lock
from typing import Any, Final, NoReturn, cast

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for
from pydantic import JsonValue
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from tierpool.errors import ConfigError, Problem

__all__ = [
    "LONGEST_REPLY",
    "ReadReply",
    "check_schema",
    "read_reply",
    "reply_text",
    "validate_reply",
]

LONGEST_REPLY: Final = 1_000_000
"""Characters; a larger reply would not fit through Temporal (2 MiB)."""

_DEEPEST = 64
_VIOLATIONS = 5
_CACHED = 256

_FENCE = re.compile(r"\A```[\w-]*[ \t]*\n(.*?)\n?[ \t]*```\Z", re.DOTALL)
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_TYPES: Final = {
    dict: "object",
    list: "array",
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    type(None): "null",
}


@dataclass(frozen=True, slots=True)
class ReadReply:
    """What a model's text is good for: a reply or a problem, never both."""

    reply: dict[str, JsonValue] | None = None
    """The valid reply; `{"text": …}` where no schema was asked for."""
    problem: str = ""
    """What is wrong, written for the repair; empty if there is a reply."""


class _NotStrict(ValueError):
    """Text that Python's json module would read, but JSON does not allow."""


_validators: OrderedDict[str, Validator] = OrderedDict()
_compiling = Lock()


def read_reply(
    text: str, finish_reason: str, schema: Mapping[str, JsonValue] | None
) -> ReadReply:
    """Read a model's text as the reply that was asked for.

    Args:
        text: As it came; a Markdown fence around JSON is tolerated.
        finish_reason: Normalised: stop, length, content_filter, refusal, ….
        schema: What the reply must satisfy; None for plain text.

    Raises:
        ConfigError: if the schema itself cannot be used.
    """
    refused = {
        "refusal": "the model refused to answer",
        "content_filter": "the answer was stopped by the provider's content filter",
    }.get(finish_reason)
    if refused:
        return ReadReply(problem=refused)
    if not text.strip():
        cut = " before the first visible word: max_output_tokens is used up"
        return ReadReply(
            problem="the answer is empty" + (cut if finish_reason == "length" else "")
        )
    if len(text) > LONGEST_REPLY:
        return ReadReply(
            problem=f"the answer has {len(text)} characters; the most is {LONGEST_REPLY}"
        )
    if schema is None:
        return _plain(text)
    return _structured(text, finish_reason, check_schema(schema))


def check_schema(schema: Mapping[str, JsonValue]) -> Validator:
    """Return the compiled schema; to be called before a call is paid for.

    Raises:
        ConfigError: if it is no JSON Schema, or refers to another document.
    """
    raw = json.dumps(schema, sort_keys=True, separators=(",", ":"))
    key = hashlib.sha256(raw.encode()).hexdigest()
    with _compiling:
        validator = _validators.get(key)
        if validator is None:
            validator = _validators[key] = _compile(schema)
            if len(_validators) > _CACHED:
                _validators.popitem(last=False)
        else:
            _validators.move_to_end(key)
        return validator


def validate_reply(
    reply: Mapping[str, JsonValue], schema: Mapping[str, JsonValue]
) -> str:
    """Return how a reply that no model wrote breaks a schema; empty if it does not.

    Raises:
        ConfigError: if the schema itself cannot be used.
    """
    return "; ".join(_violations(check_schema(schema), dict(reply)))


def reply_text(reply: Mapping[str, JsonValue], schema_was_asked: bool) -> str:
    """Return a reply as it stands in its conversation.

    The workflow and the worker both call this: their hashes of the conversation
    agree only as long as it gives the same text on both sides. The text of a
    role without a schema is what the model wrote; other replies are JSON with
    their keys in the model's order.
    """
    text = reply.get("text")
    if isinstance(text, str) and not schema_was_asked:
        return text
    return json.dumps(reply, ensure_ascii=False)


def _plain(text: str) -> ReadReply:
    try:
        text.encode()
    except UnicodeEncodeError:
        return ReadReply(problem="the answer has half a character (a lone surrogate)")
    return ReadReply(reply={"text": text})


def _structured(text: str, finish_reason: str, validator: Validator) -> ReadReply:
    value, problem = _parse(text)
    if problem:
        if finish_reason == "length":
            problem = (
                "the answer was cut off at max_output_tokens before its JSON ended; "
                "answer more briefly"
            )
        return ReadReply(problem=problem)
    if not isinstance(value, dict):
        return ReadReply(
            problem=f"the answer must be a JSON object, not {_type_of(value)}"
        )
    violations = _violations(validator, value)
    if violations:
        return ReadReply(
            problem="the answer breaks its schema: " + "; ".join(violations)
        )
    return ReadReply(reply=cast(dict[str, JsonValue], value))


def _parse(text: str) -> tuple[object, str]:
    """Return the value and "", or None and what is wrong."""
    text = text.strip().removeprefix("\ufeff").strip()
    fenced = _FENCE.match(text)
    if fenced:
        text = fenced[1]
    try:
        value = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
            parse_float=_finite,
        )
        if _too_deep(value):
            return None, f"the answer is nested deeper than {_DEEPEST} levels"
        json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        return None, f"the answer is not JSON: {error.msg} at {where}"
    except RecursionError:
        return None, f"the answer is nested deeper than {_DEEPEST} levels"
    except UnicodeEncodeError:
        return None, "the answer has half a character (a lone surrogate escape)"
    except _NotStrict as error:
        return None, f"the answer is not JSON: {error}"
    except ValueError:  # more digits than Python reads
        return None, "the answer is not JSON: a number has too many digits"
    return value, ""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _NotStrict(f"the key {_shown(key)} stands twice in one object")
            seen.add(key)
    return found


def _no_constant(name: str) -> NoReturn:
    raise _NotStrict(f"{name} is not a number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _NotStrict("a number is out of range")
    return value


def _too_deep(value: object) -> bool:
    level = [value]
    for _ in range(_DEEPEST):
        level = [child for parent in level for child in _children(parent)]
        if not level:
            return False
    return True


def _children(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _compile(schema: Mapping[str, JsonValue]) -> Validator:
    outside = next((r for r in _references(schema) if not r.startswith("#")), None)
    if outside is not None:
        _unusable(f"$ref {outside!r} leads out of the schema; put it into $defs")
    kind = validator_for(schema, default=Draft202012Validator)
    try:
        kind.check_schema(dict(schema))
    except SchemaError as error:
        _unusable(f"not a JSON Schema at {_path(error.absolute_path)}: {error.message}")
    # An empty registry: a reference never makes a network request.
    registry: Registry[Any] = Registry()
    resource = DRAFT202012.create_resource(dict(schema))
    resolver = registry.resolver_with_root(resource)
    for reference in _references(schema):
        try:
            resolver.lookup(reference)
        except Unresolvable:
            _unusable(f"$ref {reference!r} leads nowhere in the schema")
    return kind(dict(schema), registry=registry)


def _unusable(message: str) -> NoReturn:
    raise ConfigError([Problem(message, path="output")])


def _references(value: object) -> Iterator[str]:
    ahead = [value]
    while ahead:
        part = ahead.pop()
        if isinstance(part, Mapping):
            reference = part.get("$ref")
            if isinstance(reference, str):
                yield reference
            ahead.extend(part.values())
        elif isinstance(part, list):
            ahead.extend(part)


def _violations(validator: Validator, value: dict[str, Any]) -> list[str]:
    """Return what is wrong, by place in the reply, with a count of the rest."""
    errors = list(islice(validator.iter_errors(value), 100))
    errors.sort(key=lambda e: [str(part) for part in e.absolute_path])
    lines = [f"{_path(e.absolute_path)}: {_expected(e)}" for e in errors]
    lines = list(dict.fromkeys(lines))
    if len(lines) > _VIOLATIONS:
        lines[_VIOLATIONS:] = [f"and {len(lines) - _VIOLATIONS} more"]
    return lines


def _expected(error: ValidationError) -> str:
    """Say what a keyword wants; the message of jsonschema would quote the reply."""
    keyword, wanted, got = error.validator, error.validator_value, error.instance
    match keyword:
        case "required":
            missing = [
                k
                for k in cast(list[str], wanted)
                if k not in cast(dict[str, object], got)
            ]
            return f"missing {', '.join(map(_shown, missing))}"
        case "additionalProperties" if wanted is False:
            known = cast(Mapping[str, Any], error.schema).get("properties", {})
            extra = [k for k in cast(dict[str, object], got) if k not in known]
            return f"unexpected {', '.join(map(_shown, extra[:_VIOLATIONS]))}"
        case "type":
            names = wanted if isinstance(wanted, list) else [wanted]
            return f"expected {' or '.join(map(str, names))}, got {_type_of(got)}"
        case "enum":
            return f"expected one of {_short(wanted)}"
        case "const":
            return f"expected {_short(wanted)}"
        case "anyOf" | "oneOf":
            return f"must match {'one' if keyword == 'oneOf' else 'any'} of the allowed forms"
        case _:
            return f"does not satisfy {keyword} {_short(wanted)}"


def _type_of(value: object) -> str:
    return _TYPES.get(type(value), "an unknown type")


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else text[:199] + "…"


def _shown(key: str) -> str:
    return json.dumps(key if len(key) <= 40 else key[:39] + "…")


def _path(parts: Iterable[str | int]) -> str:
    """Write a place as JSONPath: `$.items[0].name`."""
    text = "$"
    for part in parts:
        if isinstance(part, int):
            text += f"[{part}]"
        elif _PLAIN_KEY.match(part) and len(part) <= 40:
            text += f".{part}"
        else:
            text += f"[{_shown(part)}]"
    return text
