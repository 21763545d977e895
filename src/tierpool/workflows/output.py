"""What a caller asks a role for: its own model, plain text, or the role's output."""

from __future__ import annotations

import json
from typing import TypeAlias, cast

from pydantic import BaseModel, ValidationError

from tierpool.blueprint import Reply

__all__ = ["Output", "Typed", "misfit", "schema_of", "typed"]

Output: TypeAlias = type[BaseModel] | type[str] | None
Typed: TypeAlias = BaseModel | str | Reply


def schema_of(output: type[BaseModel] | type[str]) -> str:
    """Return the JSON Schema to ask for; empty for plain text."""
    if output is str:
        return ""
    schema = cast(type[BaseModel], output).model_json_schema()
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
