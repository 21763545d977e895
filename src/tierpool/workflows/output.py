"""What a caller asks a role for: its own model, plain text, or the role's output."""

from __future__ import annotations

import json
from typing import TypeAlias, cast

from pydantic import BaseModel, PydanticUserError, ValidationError

from tierpool.blueprint import Reply
from tierpool.errors import ConfigError, UsageError
from tierpool.replies import check_schema

__all__ = ["Output", "Typed", "misfit", "schema_of", "typed"]

Output: TypeAlias = type[BaseModel] | type[str] | None
Typed: TypeAlias = BaseModel | str | Reply


def schema_of(output: type[BaseModel] | type[str]) -> str:
    """Return the JSON Schema to ask for; empty for plain text.

    Raises:
        UsageError: if no reply could satisfy it, or nobody could check it.
    """
    if output is str:
        return ""
    model = cast(type[BaseModel], output)
    try:
        schema = model.model_json_schema()
        check_schema(schema)
    except (PydanticUserError, ConfigError) as error:
        raise UsageError(
            f"output={model.__name__} cannot be asked for: {error}"
        ) from None
    if schema.get("type", "object") != "object":
        raise UsageError(
            f"output={model.__name__} is no object but of type {schema['type']}; a "
            "reply is an object: give the value a field of a model"
        )
    return json.dumps(schema, sort_keys=True, separators=(",", ":"))


def typed(output: Output, reply: Reply) -> Typed:
    """Return a reply as the caller asked for it.

    Raises:
        ValidationError: if the caller's model does not take it.
    """
    if output is None:
        return reply
    if output is str:
        text = reply.get("text")
        return text if isinstance(text, str) else json.dumps(reply)
    return cast(type[BaseModel], output).model_validate(reply)


def misfit(output: Output, reply: Reply) -> str:
    """Say what the caller's own model has against a reply, or nothing."""
    try:
        typed(output, reply)
    except ValidationError as error:
        return "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'reply'}: {e['msg']}"
            for e in error.errors(include_url=False, include_input=False)[:5]
        )
    return ""
