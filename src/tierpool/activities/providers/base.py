"""What every model provider has in common: the call, the reply, the failure.

Here are the types and the look-up of a provider by a model's prefix. What an
SDK needs lives in the modules named after the prefixes, which are imported on
first use; nothing here imports an SDK.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Literal, Protocol, cast

from pydantic import JsonValue

from tierpool.blueprint import PROVIDERS, split_model
from tierpool.budget.rates import Headroom
from tierpool.contracts import FailureDetail, Usage
from tierpool.errors import TierpoolError, UnknownName

__all__ = [
    "WRONG_KEY",
    "Provider",
    "ProviderCall",
    "ProviderError",
    "ProviderReply",
    "close_providers",
    "provider_for",
]


WRONG_KEY: Final = 401
"""Status of a provider that does not take the key."""


@dataclass(frozen=True, slots=True)
class ProviderCall:
    """One request to a model; made once, never repeated by an SDK."""

    model: str
    """Name as the provider knows it, without the `provider:` prefix."""
    messages: tuple[tuple[Literal["user", "assistant"], str], ...]
    max_output_tokens: int
    """Upper bound of the reply, reasoning included; the reservation rests on it."""
    timeout: timedelta
    """For the whole call, from connecting to the last byte."""
    system: str | None = None
    schema: Mapping[str, JsonValue] | None = None
    """JSON Schema of the reply; None for plain text."""
    schema_name: str = "reply"
    temperature: float | None = None
    """None leaves it to the provider."""
    base_url: str | None = None
    """None means the provider's own address."""
    api_key_env: str | None = None
    """Name of the variable with the key; None means the provider's own."""


@dataclass(frozen=True, slots=True)
class ProviderReply:
    """What a model answered."""

    text: str
    usage: Usage | None
    """None if the provider reported none, or nonsense."""
    finish_reason: str
    """stop, length, content_filter, refusal, or the provider's own word."""
    model: str
    """What the provider says answered; empty if it does not say."""
    headroom: Headroom | None = None
    """What its headers say that it still takes."""


class ProviderError(TierpoolError):
    """A call that gave no reply: what it cost and what should come next."""

    def __init__(self, detail: FailureDetail) -> None:
        """Take the failure as the workflow will see it."""
        super().__init__(detail.message, retry_after=detail.retry_after)
        self.detail = detail


class Provider(Protocol):
    """Speaks to one kind of model provider."""

    async def complete(self, call: ProviderCall) -> ProviderReply:
        """Make one request and read the reply to its end.

        The reply is streamed inside, so cancelling the coroutine closes the
        connection at once.

        Raises:
            ProviderError: for everything that goes wrong; nothing else is raised
                but CancelledError.
        """
        ...

    def input_bytes(self, call: ProviderCall) -> int:
        """Return the UTF-8 bytes that `complete` would send and the model may read.

        Counted from the very body of the request: the texts as they are, the
        schema as this provider gets it and everything else as compact JSON. What
        a provider adds on its side (its chat template, its words about a schema)
        is not in it.
        """
        ...

    def explain(self, error: BaseException) -> FailureDetail:
        """Say what an error of this provider's SDK cost and what should come next."""
        ...

    def fresh(self) -> Provider:
        """Return the same provider with clients and connections of its own."""
        ...

    async def warm(self, call: ProviderCall) -> None:
        """Build the client of a call and open a connection; nothing is billed.

        Raises:
            ProviderError: if no client can be built: a key that is not set, or
                that the provider refuses.
        """
        ...

    async def keep(self) -> None:
        """Keep idle connections from being closed."""
        ...

    async def close(self) -> None:
        """Close the clients of the running event loop."""
        ...


def provider_for(model: str) -> tuple[Provider, str]:
    """Return the provider of a `provider:model` and the model's own name.

    The first call for a provider imports its SDK, about half a second: a worker
    makes it while it starts.

    Raises:
        UnknownName: for a prefix that is not a provider's.
    """
    prefix, name = split_model(model)
    if prefix not in PROVIDERS or not name:
        raise UnknownName("provider of a model", model, [f"{p}:…" for p in PROVIDERS])
    module = importlib.import_module(f"{__package__}.{prefix}")
    return cast(Provider, module.PROVIDER), name


async def close_providers() -> None:
    """Close every client of the running event loop; new calls open new ones."""
    for prefix in PROVIDERS:
        module = sys.modules.get(f"{__package__}.{prefix}")
        if module is not None:
            await cast(Provider, module.PROVIDER).close()
