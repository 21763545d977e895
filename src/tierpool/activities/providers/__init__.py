"""The one door to the model providers: a call in, a reply or a failure out.

`base` has the types; a provider's SDK is imported by `provider_for` only when
a model of that provider is asked for, so other workers do not pay for it.
"""

from __future__ import annotations

from tierpool.activities.providers.base import (
    Provider,
    ProviderCall,
    ProviderError,
    ProviderReply,
    close_providers,
    provider_for,
)

__all__ = [
    "Provider",
    "ProviderCall",
    "ProviderError",
    "ProviderReply",
    "close_providers",
    "provider_for",
]
