"""Conversations that calls go on with: kept by the process, else asked of the item.

A request names the messages before its own by number and hash. A process keeps
conversations up to a number of bytes; what it lacks it asks of the workflow, by
query and piece by piece, and nothing is paid for before the hash is right. The
workflow's side of the query is in `workflows`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, NamedTuple, TypeAlias

from tierpool.activities.parts import PartMissing, ask
from tierpool.contracts import (
    NO_MESSAGES,
    ConversationChunk,
    ConversationRef,
    ConversationRequest,
    Speaker,
    Turn,
    next_hash,
)

__all__ = ["ConversationMissing", "ConversationStore", "Said", "ask_messages"]

Said: TypeAlias = tuple[Speaker, str]
"""One message: who, and what."""

Fetch: TypeAlias = Callable[[int, int], Awaitable[Sequence[Said]]]
"""Asks for the messages from the first number up to before the second, from 0."""

_MAX_BYTES: Final = 128 * 1024 * 1024


class ConversationMissing(PartMissing):
    """A conversation that neither this process nor the item has as referred to."""


class _Kept(NamedTuple):
    """A message, with the hash and the bytes of the conversation up to and with it."""

    role: Speaker
    text: str
    hash: str
    bytes: int


_Messages: TypeAlias = tuple[_Kept, ...]
"""A conversation from its start; immutable, so that calls at once can share it."""

_Key: TypeAlias = tuple[str, str]


class ConversationStore:
    """A cache of conversations, bounded by bytes; the least recently used goes first.

    One conversation is kept for each name in a workflow. Each message is hashed
    once, when it comes in; later its hash is only compared.
    """

    def __init__(self, max_bytes: int = _MAX_BYTES) -> None:
        """Start empty; `max_bytes` bounds the UTF-8 bytes of all texts."""
        self._max_bytes = max_bytes
        self._bytes = 0
        self._kept: OrderedDict[_Key, _Messages] = OrderedDict()

    @property
    def bytes(self) -> int:
        """UTF-8 bytes of the texts that are kept."""
        return self._bytes

    async def get(
        self, workflow_id: str, ref: ConversationRef, fetch: Fetch
    ) -> list[Said]:
        """Return the messages that a reference stands for.

        Only the end is fetched if the start is here. Messages of another hash
        (the workflow was reset, say) are dropped, and all of them are fetched
        once more.

        Raises:
            ConversationMissing: if what was fetched has another hash, too.
        """
        key = workflow_id, ref.name
        known = self._kept.get(key, ())
        if len(known) < ref.length:
            known = _and(known, await fetch(len(known), ref.length))
        if not _begins(known, ref):
            self._drop(key)
            known = _and((), await fetch(0, ref.length))
        if not _begins(known, ref):
            raise ConversationMissing(
                f"the conversation {ref.name!r} of {workflow_id} does not start with "
                f"the {ref.length} messages of the hash {ref.hash[:12]}…; nothing was sent"
            )
        self._keep(key, known)
        return [(message.role, message.text) for message in known[: ref.length]]

    def extend(
        self, workflow_id: str, ref: ConversationRef, more: Iterable[Said]
    ) -> ConversationRef | None:
        """Add what was said after the messages of `ref`, for later calls to refer to.

        Whatever was kept after them goes.

        Returns:
            The reference to all of it; None if the messages of `ref` are not here
            any more, which adds nothing.
        """
        key = workflow_id, ref.name
        known = self._kept.get(key, ())
        if not _begins(known, ref):
            return None
        known = _and(known[: ref.length], more)
        self._put(key, known)
        return ConversationRef(
            name=ref.name, length=len(known), hash=_hash(known), bytes=_bytes(known)
        )

    def _keep(self, key: _Key, known: _Messages) -> None:
        """Keep a conversation, unless a call beside this one has kept more of it."""
        kept = self._kept.get(key, ())
        longer = len(kept) > len(known) and _hash(kept[: len(known)]) == _hash(known)
        self._put(key, kept if longer else known)

    def _put(self, key: _Key, known: _Messages) -> None:
        self._drop(key)
        size = _bytes(known)
        if not known or size > self._max_bytes:
            return
        self._kept[key] = known
        self._bytes += size
        while self._bytes > self._max_bytes:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: _Key) -> None:
        self._bytes -= _bytes(self._kept.pop(key, ()))


async def ask_messages(name: str, start: int, end: int) -> list[Said]:
    """Fetch messages from the workflow that runs this activity, piece by piece.

    Raises:
        PartMissing: if the item does not answer, or its answers lead nowhere;
            nothing was paid yet.
    """
    found: list[tuple[Speaker, list[str]]] = []
    request = ConversationRequest(name=name, start=start, end=end)
    what = f"the conversation {name!r}"
    while True:
        chunk = await ask("tierpool_conversation", request, ConversationChunk, what)
        _glue(found, chunk.messages, request.start - start, request.offset)
        if not chunk.more:
            return [(role, "".join(pieces)) for role, pieces in found]
        if (chunk.start, chunk.offset) <= (request.start, request.offset):
            raise ConversationMissing(
                f"{what} does not go on after message {request.start}, "
                f"character {request.offset}"
            )
        following = {"start": chunk.start, "offset": chunk.offset}
        request = request.model_copy(update=following)


def _glue(
    found: list[tuple[Speaker, list[str]]], turns: Iterable[Turn], at: int, offset: int
) -> None:
    """Put in a piece's messages from number `at` on.

    With an offset the first one goes on from what is there; without, it takes
    the place of what is there: the piece before may have cut it at its start.
    """
    for number, turn in enumerate(turns, at):
        if offset and number == at < len(found):
            found[at][1].append(turn.text)
        else:
            found[number:] = [(turn.role, [turn.text])]


def _and(known: _Messages, more: Iterable[Said]) -> _Messages:
    found, hash_, size = list(known), _hash(known), _bytes(known)
    for role, text in more:
        hash_ = next_hash(hash_, role, text)
        size += len(text.encode(errors="surrogatepass"))
        found.append(_Kept(role, text, hash_, size))
    return tuple(found)


def _begins(known: _Messages, ref: ConversationRef) -> bool:
    """Tell whether these are the messages of a reference, and perhaps more."""
    start = known[: max(0, ref.length)]
    return len(start) == ref.length and _hash(start) == ref.hash


def _hash(known: _Messages) -> str:
    return known[-1].hash if known else NO_MESSAGES


def _bytes(known: _Messages) -> int:
    return known[-1].bytes if known else 0
