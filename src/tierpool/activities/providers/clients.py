"""The model clients of one instance: their own connections, renewed with it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from tierpool.activities.providers.base import (
    Provider,
    ProviderCall,
    provider_for,
)
from tierpool.fleet import ModelSnapshot

__all__ = ["AgentClient"]


class AgentClient:
    """What an instance of a pool calls models with."""

    def __init__(self) -> None:
        """Start without a client; `warm` and the first calls make them."""
        self._own: dict[Provider, Provider] = {}

    def provider_for(self, model: str) -> tuple[Provider, str]:
        """Return the provider of a `provider:model`, with clients of this instance.

        Raises:
            UnknownName: for a prefix that is not a provider's.
        """
        shared, name = provider_for(model)
        if shared not in self._own:
            self._own[shared] = shared.fresh()
        return self._own[shared], name

    async def warm(self, models: Sequence[ModelSnapshot]) -> None:
        """Build the clients for these models and open a connection for each.

        Raises:
            ProviderError: if a client cannot be built.
        """
        for one in models:
            provider, name = self.provider_for(one.model)
            await provider.warm(
                ProviderCall(
                    model=name,
                    messages=(),
                    max_output_tokens=0,
                    timeout=timedelta(seconds=10),
                    base_url=one.base_url,
                    api_key_env=one.api_key_env,
                )
            )

    async def keep(self) -> None:
        """Keep idle connections from being closed."""
        for provider in self._own.values():
            await provider.keep()

    async def close(self) -> None:
        """Close all connections."""
        for provider in self._own.values():
            await provider.close()
        self._own.clear()
