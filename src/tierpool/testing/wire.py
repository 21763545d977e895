"""What the two wire formats have in common, as the scripted provider sees them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from pydantic import JsonValue

from tierpool.contracts import Usage
from tierpool.testing.records import SeenRequest
from tierpool.testing.steps import Fail, Reply

__all__ = [
    "BadRequest",
    "Parsed",
    "Produced",
    "WireFormat",
    "produce",
    "require",
    "texts",
]

T = TypeVar("T")

BYTES_PER_TOKEN = 4


class BadRequest(Exception):
    """A request that the real provider answers with 400."""

    def __init__(self, message: str, param: str | None = None) -> None:
        """Say what is wrong with which field."""
        super().__init__(message)
        self.param = param


@dataclass(frozen=True)
class Parsed:
    """A request's fields; see `SeenRequest`."""

    model: str
    system: str | None
    messages: tuple[tuple[str, str], ...]
    schema: Mapping[str, JsonValue] | None
    schema_name: str | None
    strict: bool | None
    max_tokens: int | None
    limit_name: str | None
    stream: bool
    stream_usage: bool
    """Whether the client asked for usage at the end of a stream."""


@dataclass(frozen=True)
class Produced:
    """A reply that the provider has made, before it is written down."""

    number: int
    model: str
    text: str
    pieces: tuple[str, ...]
    finish_reason: str
    usage: Usage
    report_usage: bool

    def partly(self, pieces: int) -> Usage:
        """Return the usage of a reply of which only some pieces were made."""
        share = -(-self.usage.output_tokens * pieces // max(1, len(self.pieces)))
        output = min(self.usage.output_tokens, share)
        return self.usage.model_copy(
            update={
                "output_tokens": output,
                "reasoning_tokens": min(output, self.usage.reasoning_tokens),
            }
        )


class WireFormat(Protocol):
    """How one provider's requests are read and its answers written."""

    def parse(self, body: Mapping[str, JsonValue]) -> Parsed:
        """Read a request; raises BadRequest for what the provider refuses."""
        ...

    def whole(self, made: Produced) -> Mapping[str, JsonValue]:
        """Return an answer that is not streamed."""
        ...

    def head(self, made: Produced) -> bytes:
        """Return what a stream begins with."""
        ...

    def piece(self, made: Produced, text: str) -> bytes:
        """Return one chunk of text."""
        ...

    def finish(self, made: Produced) -> bytes:
        """Return what tells that a streamed reply is complete."""
        ...

    def end(self, made: Produced, *, stream_usage: bool) -> bytes:
        """Return what follows the finish of a stream."""
        ...

    def error(self, fail: Fail) -> Mapping[str, JsonValue]:
        """Return the body of an error."""
        ...

    def error_event(self, fail: Fail) -> bytes:
        """Return an error inside a stream."""
        ...


def produce(reply: Reply, request: SeenRequest) -> Produced:
    """Make the reply to a request: its text, pieces and usage."""
    text, reason, usage = reply.content(), reply.finish_reason, reply.usage
    if usage is None:
        limit = request.max_tokens
        if limit is not None and _tokens(text) > limit:
            text = text.encode()[: limit * BYTES_PER_TOKEN].decode(errors="ignore")
            reason = "length"
        read = _tokens((request.system or "") + request.text)
        usage = Usage(
            input_tokens=read,
            cached_input_tokens=min(read, reply.cached_tokens),
            output_tokens=_tokens(text),
        )
    size = -(-len(text) // max(1, reply.chunks)) or 1
    pieces = tuple(text[at : at + size] for at in range(0, len(text), size))
    model = request.model if reply.model is None else reply.model
    return Produced(
        request.number, model, text, pieces, reason, usage, reply.report_usage
    )


def require(body: Mapping[str, JsonValue], name: str, kind: type[T]) -> T:
    """Return a field that must be there and not be empty.

    Raises:
        BadRequest: if it is missing or of another type.
    """
    value = body.get(name)
    if not isinstance(value, kind) or isinstance(value, bool) or value in ("", []):
        raise BadRequest(f"{name}: expected a {kind.__name__} that is not empty", name)
    return value


def texts(messages: list[JsonValue]) -> list[tuple[str, str]]:
    """Read messages whose content is a text or a list of text blocks.

    Raises:
        BadRequest: for anything else.
    """
    found: list[tuple[str, str]] = []
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, list):
            blocks = [b.get("text") for b in content if isinstance(b, dict)]
            content = "\n".join(b for b in blocks if isinstance(b, str))
        if not isinstance(message, dict) or not isinstance(content, str):
            raise BadRequest("expected messages with a content", "messages")
        found.append((str(message.get("role")), content))
    return found


def _tokens(text: str) -> int:
    return max(1, -(-len(text.encode()) // BYTES_PER_TOKEN))
