"""Payloads of a conversation: what is new travels, the rest is referred to.

A reference says how many messages there are and what their hash is; a worker
that lacks them asks the work item for them, piece by piece.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Literal, TypeAlias

from tierpool.contracts.wire import Wire

__all__ = [
    "NO_MESSAGES",
    "ConversationChunk",
    "ConversationRef",
    "ConversationRequest",
    "Speaker",
    "Turn",
    "hash_of",
    "next_hash",
]

Speaker: TypeAlias = Literal["user", "assistant"]

NO_MESSAGES = ""
"""Hash of a conversation without messages."""


class Turn(Wire):
    """One message, or a piece of one."""

    role: Speaker
    text: str = ""


class ConversationRef(Wire):
    """The first messages of a conversation, by their number and hash."""

    name: str
    """Name of the conversation within its workflow."""
    length: int = 0
    """Messages."""
    hash: str = NO_MESSAGES
    """Hash over these messages; see `next_hash`."""
    bytes: int = 0
    """UTF-8 bytes of their texts."""


class ConversationRequest(Wire):
    """Asks a workflow for a piece of a conversation."""

    name: str = ""
    """Empty: the only one, or the first."""
    start: int = 0
    """First message, from 0."""
    offset: int = 0
    """Characters of the first message to leave out."""
    end: int | None = None
    """Message before which to stop; None: the end."""


class ConversationChunk(Wire):
    """A piece of a conversation: whole messages, the last one perhaps cut."""

    name: str = ""
    names: tuple[str, ...] = ()
    """All conversations of the workflow."""
    messages: tuple[Turn, ...] = ()
    more: bool = False
    """Whether to ask again, from `start` and `offset`."""
    start: int = 0
    """Where the next piece starts; see `ConversationRequest`."""
    offset: int = 0


def next_hash(before: str, role: Speaker, text: str) -> str:
    """Return the hash of a conversation with one more message.

    SHA-256 over the hash before, the speaker and the text, so that a longer
    conversation never has to be hashed from its start again.
    """
    raw = f"{before}\n{role}\n{text}".encode(errors="surrogatepass")
    return hashlib.sha256(raw).hexdigest()


def hash_of(messages: Iterable[tuple[Speaker, str]]) -> str:
    """Return the hash of a whole conversation."""
    found = NO_MESSAGES
    for role, text in messages:
        found = next_hash(found, role, text)
    return found
