"""Conversations as a run keeps them: messages, their hash, pieces of them.

Pure: who calls, and when, is in `conversation` and `call`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tierpool.contracts import (
    NO_MESSAGES,
    ConversationChunk,
    ConversationRef,
    ConversationRequest,
    Speaker,
    Turn,
    next_hash,
)
from tierpool.errors import UnknownName, UsageError

__all__ = ["Thread", "chunk_of", "size_of", "take_up"]

_CHUNK = 300_000
"""Characters of one answer: control characters take six bytes each as JSON, so at
most 1.8 MB, below the server's limit of 2 MiB."""
_TURN = 40
"""What an empty message takes of that."""


@dataclass
class Thread:
    """The messages of one conversation."""

    name: str
    messages: list[tuple[Speaker, str]] = field(default_factory=list)
    hash: str = NO_MESSAGES
    bytes: int = 0
    answered: ConversationRef | None = None
    """What a worker has seen: everything up to the last reply."""

    def add(self, role: Speaker, text: str) -> None:
        """Append a message.

        Raises:
            UsageError: for text that cannot be sent.
        """
        size = size_of(text, f"a message of the conversation {self.name!r}")
        self.messages.append((role, text))
        self.hash = next_hash(self.hash, role, text)
        self.bytes += size

    def reply(self, text: str) -> None:
        """Append the model's reply."""
        self.add("assistant", text)
        self.answered = self.ref()

    def ref(self) -> ConversationRef:
        """Refer to all messages."""
        return ConversationRef(
            name=self.name,
            length=len(self.messages),
            hash=self.hash,
            bytes=self.bytes,
        )

    def unanswered(self) -> list[tuple[Speaker, str]]:
        """Return the messages since the last reply."""
        return self.messages[self.seen().length :]

    def seen(self) -> ConversationRef:
        """Refer to the messages up to the last reply."""
        return self.answered or ConversationRef(name=self.name)


def chunk_of(
    threads: Mapping[str, Thread], request: ConversationRequest
) -> ConversationChunk:
    """Answer a request for a piece of a conversation.

    Raises:
        UnknownName: if there is no such conversation.
    """
    names = tuple(threads)
    name = request.name or next(iter(names), "")
    if name not in threads:
        if not request.name:
            return ConversationChunk()
        raise UnknownName("conversation", name, names)
    messages = threads[name].messages
    end = len(messages) if request.end is None else min(request.end, len(messages))
    room, at, offset = _CHUNK, max(0, request.start), max(0, request.offset)
    pieces: list[Turn] = []
    while at < end and room > 0:
        role, text = messages[at]
        piece = text[offset : offset + room]
        pieces.append(Turn(role=role, text=piece))
        room -= max(_TURN, len(piece))
        offset += len(piece)
        if offset >= len(text):
            at, offset = at + 1, 0
    return ConversationChunk(
        name=name,
        names=names,
        messages=tuple(pieces),
        more=at < end,
        start=at,
        offset=offset,
    )


def take_up(name: str, messages: Iterable[tuple[Speaker, str]]) -> Thread:
    """Make a conversation of messages that an earlier run handed over."""
    thread = Thread(name)
    for role, text in messages:
        thread.add(role, text)
        if role == "assistant":
            thread.answered = thread.ref()
    return thread


def size_of(text: str, what: str) -> int:
    """Return the UTF-8 bytes of a text.

    Raises:
        UsageError: for text that no encoding has: it could not be sent, and the
            workflow task would fail for ever.
    """
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:
        raise UsageError(
            f"{what} has half a character (a lone surrogate) at position "
            f"{error.start}; decode the text anew, or replace it"
        ) from None
