"""What every payload has in common, usage, and texts that travel by hash."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from decimal import Decimal
from functools import cache
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    model_serializer,
)

__all__ = ["PartChunk", "PartRef", "PartRequest", "Seconds", "Usage", "Usd", "Wire"]

Seconds = Annotated[
    timedelta, PlainSerializer(timedelta.total_seconds, return_type=float)
]
Usd = Annotated[Decimal, PlainSerializer(str, return_type=str)]


class Wire(BaseModel):
    """Base of every payload: immutable, tolerant of fields it does not know."""

    model_config = ConfigDict(
        frozen=True, extra="ignore", use_attribute_docstrings=True
    )

    @model_serializer(mode="wrap")
    def _leave_out_defaults(
        self, handler: SerializerFunctionWrapHandler
    ) -> dict[str, Any]:
        defaults = _defaults(type(self))
        return {
            name: value
            for name, value in handler(self).items()
            if getattr(self, name) != defaults[name]
        }

    def whole(self) -> dict[str, Any]:
        """Return the fields as plain values, defaults too, which the wire leaves out."""
        return {name: _whole(value) for name, value in self}


def _whole(value: object) -> object:
    if isinstance(value, Wire):
        return value.whole()
    return [_whole(one) for one in value] if isinstance(value, tuple) else value


@cache
def _defaults(model: type[Wire]) -> dict[str, Any]:
    """Return a model's defaults; asking each field each time took half of the time."""
    return {
        name: field.get_default(call_default_factory=True)
        for name, field in model.model_fields.items()
    }


class Usage(Wire):
    """Tokens of one attempt, in one meaning for every provider."""

    input_tokens: Annotated[int, Field(ge=0)] = 0
    """All input, cached tokens included."""
    cached_input_tokens: Annotated[int, Field(ge=0)] = 0
    """Input read from the provider's cache; part of `input_tokens`."""
    cache_write_tokens: Annotated[int, Field(ge=0)] = 0
    """Input written to the provider's cache; part of `input_tokens`."""
    output_tokens: Annotated[int, Field(ge=0)] = 0
    """All output, reasoning included."""
    reasoning_tokens: Annotated[int, Field(ge=0)] = 0
    """Reasoning; part of `output_tokens`."""

    def __add__(self, other: Usage) -> Usage:
        """Add field by field."""
        return Usage(
            **{
                name: getattr(self, name) + getattr(other, name)
                for name in Usage.model_fields
            }
        )


class PartRef(Wire):
    """A text by its hash: the worker has it in its cache or asks the item."""

    hash: str
    """SHA-256 of the UTF-8 text, hexadecimal."""
    bytes: int
    """Length of the UTF-8 text."""

    @staticmethod
    def of(text: str) -> PartRef:
        """Refer to a text."""
        raw = text.encode()
        return PartRef(hash=hashlib.sha256(raw).hexdigest(), bytes=len(raw))


class PartRequest(Wire):
    """Asks an item for a piece of one of its texts."""

    hash: str
    offset: int = 0
    """In characters."""


class PartChunk(Wire):
    """A piece of a text; `more` tells whether to ask again."""

    text: str
    more: bool = False
