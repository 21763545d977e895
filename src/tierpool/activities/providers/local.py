"""A model server on this machine or network that speaks OpenAI's wire format.

Like `openai` but without a key and without an address of its own: it comes
from the call, else from the environment.
"""

from __future__ import annotations

import os
from typing import ClassVar, Final

from tierpool.activities.providers.base import Provider, ProviderCall
from tierpool.activities.providers.openai import OpenAIProvider

__all__ = ["BASE_URL_ENV", "PROVIDER", "LocalProvider"]

BASE_URL_ENV: Final = "TIERPOOL_LOCAL_BASE_URL"
"""Variable with the address; `tierpool dev` sets it for its workers."""


class LocalProvider(OpenAIProvider):
    """Speaks to any OpenAI-compatible server that wants no key."""

    name: ClassVar[str] = "local"
    key_env: ClassVar[str | None] = None

    def _address(self, call: ProviderCall) -> str:
        """Return the server's address.

        Raises:
            ProviderError: if there is none.
        """
        address = self._base_url(call)
        if not address:
            raise self._misconfigured(
                "no model server is known; `tierpool dev` starts one, or give its "
                f"address as base_url or in the environment variable {BASE_URL_ENV}"
            )
        return address

    def _base_url(self, call: ProviderCall) -> str:
        return call.base_url or os.environ.get(BASE_URL_ENV, "").strip()


PROVIDER: Final[Provider] = LocalProvider()
