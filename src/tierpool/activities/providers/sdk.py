"""The part of a provider that does not depend on its SDK.

Keys, clients, time limits and the gathering of a streamed reply are here;
building the request and reading the chunks is what each provider adds.
"""

from __future__ import annotations

import asyncio
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import ClassVar, Final, Generic, Protocol, Self, TypeVar
from weakref import WeakKeyDictionary

import httpx2

from tierpool.activities.providers.base import (
    WRONG_KEY,
    ProviderCall,
    ProviderError,
    ProviderReply,
)
from tierpool.activities.providers.failures import (
    CutStream,
    Refusal,
    ReplyTooLong,
    explain_refusal,
    explain_transport,
    scrub,
)
from tierpool.activities.providers.headroom import headroom
from tierpool.activities.providers.http import place_of
from tierpool.activities.providers.sizes import body_bytes
from tierpool.budget.rates import Headroom
from tierpool.contracts import FailureDetail, NextStep, Outcome, Usage

__all__ = [
    "Answer",
    "Closable",
    "Opened",
    "SdkProvider",
    "counts",
    "read_usage",
]

REPLY_LIMIT = 4 * 1024 * 1024
"""Characters of a reply; no model's output limit reaches this."""


class Closable(Protocol):
    """An SDK client, as far as this module knows it."""

    @property
    def base_url(self) -> object:
        """Where it sends its requests."""
        ...

    async def close(self) -> None:
        """Close its connections."""
        ...


C = TypeVar("C", bound=Closable)


@dataclass(frozen=True, slots=True)
class Opened(Generic[C]):
    """A client of an SDK, and what it sends with."""

    client: C
    http: httpx2.AsyncClient


@dataclass
class Answer:
    """A reply while it is streamed."""

    opened: bool = False
    """The provider has accepted the request with status 200."""
    tokens: bool = False
    """A token, visible or reasoning, has arrived."""
    finish_reason: str = ""
    """Normalised; empty until the provider says that the reply is complete."""
    refused: bool = False
    usage: Usage | None = None
    model: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Of the response."""
    _parts: list[str] = field(default_factory=list)
    _length: int = 0

    def add(self, text: object) -> None:
        """Append a piece; what is not text counts as a token only.

        Raises:
            ReplyTooLong: past `REPLY_LIMIT` characters.
        """
        self.tokens = True
        self.usage = None  # what was reported before did not count this
        if not isinstance(text, str):
            return
        self._length += len(text)
        if self._length > REPLY_LIMIT:
            raise ReplyTooLong(f"the reply is longer than {REPLY_LIMIT} characters")
        self._parts.append(text)

    def reply(self) -> ProviderReply:
        """Return the complete reply."""
        text = "".join(self._parts)
        # A character may be split over two chunks as a pair of surrogates.
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        reason = "refusal" if self.refused else self.finish_reason
        usage = self.usage
        if text and usage is not None and not usage.output_tokens:
            usage = None
        return ProviderReply(text, usage, reason, self.model, self._headroom())

    def _headroom(self) -> Headroom | None:
        return headroom(self.headers, self.usage, datetime.now(UTC))


_WARM_SECONDS: Final = 5.0

NO_KEY: Final = "none"
"""What stands for a key where none is sent: the SDKs insist on one."""


class SdkProvider(ABC, Generic[C]):
    """A provider on top of an official SDK.

    Clients are shared per address, key variable and event loop for the process's life;
    keys are read from the environment at each call, so a rotated key is used
    at once.
    """

    name: ClassVar[str]
    key_env: ClassVar[str | None]
    """Variable that holds the key by default; None if the provider needs none."""
    _accepted: ClassVar[dict[tuple[str, str | None, str | None], str]] = {}
    """Keys that were not refused, by provider, address and variable."""

    def __init__(self) -> None:
        self._clients: WeakKeyDictionary[
            asyncio.AbstractEventLoop, dict[tuple[str | None, str | None], Opened[C]]
        ] = WeakKeyDictionary()

    async def complete(self, call: ProviderCall) -> ProviderReply:
        """Make one request and read the reply to its end; see `Provider`.

        A reply that is complete is returned even if the connection breaks after
        it; its usage is None if that had not come.
        """
        key = self._key(call)
        address = self._address(call)
        answer = Answer()
        error: BaseException | None = None
        try:
            client = self._shared(address, self._variable(call), key).client
            async with asyncio.timeout(call.timeout.total_seconds()):
                await self._stream(client, call, answer)
        except Exception as caught:  # noqa: BLE001 - explain() takes every kind
            error = caught
        if answer.finish_reason:
            return answer.reply()
        if answer.opened or error is None:
            error = CutStream(error, tokens=answer.tokens)
        detail = _without_secrets(self.explain(error, key), call, key)
        if detail.status == WRONG_KEY:
            self._accepted.pop((self.name, address, self._variable(call)), None)
        if address and not detail.status:
            where = f"{detail.message} (at {place_of(address)})"
            detail = detail.model_copy(update={"message": where})
        # Raised outside the except block: an SDK's error chained to it would
        # bring its full text into the history.
        raise ProviderError(detail)

    def explain(self, error: BaseException, key: str = "") -> FailureDetail:
        """Say what an error cost and what should come next, without the key."""
        if isinstance(error, ProviderError):
            return error.detail
        refusal = self._refusal(error)
        if refusal is not None:
            return explain_refusal(self.name, refusal.without(key))
        return explain_transport(self.name, error)

    def fresh(self) -> Self:
        """Return the same provider with clients of its own."""
        return type(self)()

    async def warm(self, call: ProviderCall) -> None:
        """Build the client of a call and open a connection; nothing is billed.

        A key that was not used yet is shown to the provider, who may refuse it;
        for all else that is wrong the first call says what it costs.
        """
        address, key = self._address(call), self._key(call)
        variable = self._variable(call)
        opened = self._shared(address, variable, key)
        place = (self.name, address, variable)
        if not key or self._accepted.get(place) == key:
            await _connect(opened)
            return
        self._accepted[place] = key  # others need not ask meanwhile
        error: Exception | None = None
        try:
            async with asyncio.timeout(_WARM_SECONDS):
                await self._list_models(opened.client)
        except Exception as caught:  # noqa: BLE001 - explain() takes every kind
            error = caught
        if error is not None:
            self._accepted.pop(place, None)
            detail = self.explain(error, key)
            if detail.status == WRONG_KEY:
                raise ProviderError(detail)

    async def keep(self) -> None:
        """Use the connections to the provider's own address, so that they stay open."""
        clients = self._clients.get(asyncio.get_running_loop(), {})
        for (address, _), opened in clients.items():
            if address is None:
                await _connect(opened)

    async def close(self) -> None:
        """Close the clients of the running event loop."""
        for opened in self._clients.pop(asyncio.get_running_loop(), {}).values():
            await opened.client.close()

    def input_bytes(self, call: ProviderCall) -> int:
        """Return the size of the request; see `Provider`."""
        return body_bytes(self._body(call))

    @abstractmethod
    def _open(self, address: str | None, key: str) -> Opened[C]:
        """Make a client that never retries by itself; it sends NO_KEY for no key."""

    @abstractmethod
    def _use_key(self, client: C, key: str) -> None:
        """Let a client use this key from now on."""

    @abstractmethod
    async def _stream(self, client: C, call: ProviderCall, answer: Answer) -> None:
        """Make the request and fill `answer` from the stream."""

    @abstractmethod
    async def _list_models(self, client: C) -> None:
        """Make a request that costs nothing and needs the key."""

    @abstractmethod
    def _body(self, call: ProviderCall) -> Mapping[str, object]:
        """Return the body of the request, of which `_stream` sends nothing else."""

    @abstractmethod
    def _refusal(self, error: BaseException) -> Refusal | None:
        """Read an error that the provider answered; None for any other."""

    def _address(self, call: ProviderCall) -> str | None:
        return call.base_url

    def _variable(self, call: ProviderCall) -> str | None:
        """Name the variable with the key, if a key is sent at all.

        An address of its own gets one only if `api_key_env` names it: the
        provider's key must not travel to another server by default.
        """
        if call.api_key_env is not None or call.base_url is not None:
            return call.api_key_env
        return self.key_env

    def _key(self, call: ProviderCall) -> str:
        """Read the key; empty if none is sent.

        Raises:
            ProviderError: if the variable is missing or cannot be a key.
        """
        variable = self._variable(call)
        if variable is None:
            return ""
        key = os.environ.get(variable, "").strip()
        if key and key.isascii() and key.isprintable() and " " not in key:
            return key
        what = "does not hold a usable key" if key else "is not set"
        raise self._misconfigured(
            f"the environment variable {variable} {what}; set it where the worker "
            "of this pool runs, or name another one with api_key_env"
        )

    def _misconfigured(self, message: str) -> ProviderError:
        return ProviderError(
            FailureDetail(
                outcome=Outcome.UNBILLED,
                next=NextStep.FAIL,
                message=f"{self.name}: {message}",
                provider=self.name,
            )
        )

    def _shared(self, address: str | None, variable: str | None, key: str) -> Opened[C]:
        clients = self._clients.setdefault(asyncio.get_running_loop(), {})
        opened = clients.get((address, variable))
        if opened is None:
            opened = clients[address, variable] = self._open(address, key)
        self._use_key(opened.client, key)
        return opened


async def _connect(opened: Opened[C]) -> None:
    """Open a connection, or use the one there is."""
    with suppress(httpx2.HTTPError, TimeoutError):  # the first call will say it
        async with asyncio.timeout(_WARM_SECONDS):
            await opened.http.head(str(opened.client.base_url))


def read_usage(
    *,
    input_tokens: object,
    output_tokens: object,
    cached: object = None,
    written: object = None,
    reasoning: object = None,
) -> Usage | None:
    """Make a Usage of what a provider reported.

    Args:
        input_tokens: All input, cached tokens included.
        output_tokens: All output, reasoning included.
        cached: Part of the input; None counts as 0, here and below.
        written: Part of the input.
        reasoning: Part of the output.

    Returns:
        None if a number is missing, negative, no whole number, if there is no
        input, or if a part is larger than its whole: a wrong cost is worse than
        an unknown one.
    """
    numbers = counts(
        [input_tokens, output_tokens, cached or 0, written or 0, reasoning or 0]
    )
    if numbers is None:
        return None
    total_in, total_out, read, write, thought = numbers
    if not total_in or read + write > total_in or thought > total_out:
        return None
    return Usage(
        input_tokens=total_in,
        cached_input_tokens=read,
        cache_write_tokens=write,
        output_tokens=total_out,
        reasoning_tokens=thought,
    )


def counts(values: Iterable[object]) -> list[int] | None:
    """Return the values if every one is a whole number from 0; else None."""
    found: list[int] = []
    for value in values:
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            return None
        found.append(value)
    return found


def _without_secrets(
    detail: FailureDetail, call: ProviderCall, key: str
) -> FailureDetail:
    prompts = [text for _, text in call.messages]
    if call.system:
        prompts.append(call.system)
    message = scrub(detail.message, [key], prompts)
    return detail.model_copy(update={"message": message})
