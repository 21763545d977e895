"""Texts by hash: prompts, schemas and messages that requests refer to.

A process keeps them up to a number of bytes; what it lacks it asks of the
work item itself, by query, before anything is paid for.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from datetime import timedelta
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from temporalio import activity
from temporalio.client import WorkflowQueryFailedError
from temporalio.service import RPCError

from tierpool.contracts import PartChunk, PartRef, PartRequest
from tierpool.errors import TierpoolError

__all__ = ["PartMissing", "PartStore", "ask", "ask_item"]

Answer = TypeVar("Answer", bound=BaseModel)
Fetch = Callable[[PartRef], Awaitable[str]]

_QUERY_TIMEOUT = timedelta(seconds=15)
"""Above the 10 s for which a query waits on a flows worker that was killed."""


class PartMissing(TierpoolError):
    """A text that neither this process nor the work item can give."""

    retryable = True


class PartStore:
    """A cache of texts by hash, bounded by bytes; the least recently used goes first."""

    def __init__(self, max_bytes: int = 64 * 1024 * 1024) -> None:
        """Start empty; `pinned` texts come on top of `max_bytes`."""
        self._max_bytes = max_bytes
        self._bytes = 0
        self._texts: OrderedDict[str, str] = OrderedDict()
        self._pinned: dict[str, str] = {}

    def pin(self, texts: Iterable[str]) -> None:
        """Keep texts for the life of the process: the fleet file's own."""
        for text in texts:
            self._pinned[PartRef.of(text).hash] = text

    def put(self, text: str) -> None:
        """Keep a text while there is room."""
        ref = PartRef.of(text)
        if ref.hash in self._pinned or ref.bytes > self._max_bytes:
            return
        if ref.hash not in self._texts:
            self._bytes += ref.bytes
        self._texts[ref.hash] = text
        self._texts.move_to_end(ref.hash)
        while self._bytes > self._max_bytes:
            _, gone = self._texts.popitem(last=False)
            self._bytes -= len(gone.encode())

    async def get(self, ref: PartRef, fetch: Fetch) -> str:
        """Return a text, asking for it once if it is not here.

        Raises:
            PartMissing: if what was fetched is not the text of this hash.
        """
        text = self._pinned.get(ref.hash)
        if text is not None:
            return text
        if ref.hash in self._texts:
            self._texts.move_to_end(ref.hash)
            return self._texts[ref.hash]
        text = await fetch(ref)
        if hashlib.sha256(text.encode()).hexdigest() != ref.hash:
            raise PartMissing(f"the item's text does not have the hash {ref.hash}")
        self.put(text)
        return text


async def ask_item(ref: PartRef) -> str:
    """Fetch a text from the workflow that runs this activity, piece by piece.

    Raises:
        PartMissing: if the item does not answer; nothing was paid yet.
    """
    text = ""
    while True:
        request = PartRequest(hash=ref.hash, offset=len(text))
        chunk = await ask("tierpool_part", request, PartChunk, "a text")
        text += chunk.text
        if not chunk.more:
            return text


async def ask(
    query: str, request: BaseModel, answer: type[Answer], what: str
) -> Answer:
    """Query the run of the workflow that this activity belongs to.

    Args:
        query: Name of the query.
        request: Its argument.
        answer: Type of its answer.
        what: What is asked for, as it stands in an error.

    Raises:
        PartMissing: if the item gives no answer of this type.
    """
    info = activity.info()
    if info.workflow_id is None:
        raise PartMissing(f"only a workflow's activity can ask for {what}")
    handle = activity.client().get_workflow_handle(
        info.workflow_id, run_id=info.workflow_run_id
    )
    try:
        found: Answer = await handle.query(
            query, request, result_type=answer, rpc_timeout=_QUERY_TIMEOUT
        )
    except Exception as error:  # whatever it is, nothing was sent yet: it is unbilled
        raise PartMissing(
            f"the item {info.workflow_id} did not answer for {what}: {_reason(error)}"
        ) from error
    return found


def _reason(error: Exception) -> str:
    if isinstance(error, RPCError | WorkflowQueryFailedError):
        return str(error)
    if isinstance(error, ValidationError):
        return f"the answer is not {error.title}"
    return f"{type(error).__name__} while reading the answer"  # its words may quote it
