"""A scripted provider for each test, and calls that go to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import pytest

from tierpool.activities.providers import (
    Provider,
    ProviderCall,
    ProviderError,
    ProviderReply,
    close_providers,
    provider_for,
)
from tierpool.contracts import FailureDetail
from tierpool.testing import ScriptedProvider

KEYS = {
    "openai": ("OPENAI_API_KEY", "sk-proj-OPENAI0secret0value0000"),
    "anthropic": ("ANTHROPIC_API_KEY", "sk-ant-ANTHROPIC0secret0value"),
}


class Wire:
    """One wire format: its provider, pointed at the scripted server."""

    def __init__(self, name: str, server: ScriptedProvider) -> None:
        self.name, self.server = name, server
        self.provider: Provider
        self.provider, self.model = provider_for(f"{name}:test-model")
        self.key = KEYS[name][1] if name in KEYS else ""

    def call(self, text: str = "Say hello.", **changes: Any) -> ProviderCall:
        """Make a call to the scripted server."""
        values: dict[str, Any] = {
            "model": self.model,
            "messages": (("user", text),),
            "max_output_tokens": 100,
            "timeout": timedelta(seconds=20),
            "base_url": self.server.base_url,
            "api_key_env": KEYS[self.name][0] if self.name in KEYS else None,
        }
        return ProviderCall(**(values | changes))

    async def complete(self, text: str = "Say hello.", **changes: Any) -> ProviderReply:
        return await self.provider.complete(self.call(text, **changes))

    async def fail(self, text: str = "Say hello.", **changes: Any) -> FailureDetail:
        """Make a call that has to fail and return its detail."""
        with pytest.raises(ProviderError) as caught:
            await self.complete(text, **changes)
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None
        return caught.value.detail


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set both keys and nothing else that the SDKs read."""
    for variable, key in KEYS.values():
        monkeypatch.setenv(variable, key)
    for variable in ("OPENAI_BASE_URL", "ANTHROPIC_BASE_URL", "ANTHROPIC_AUTH_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.delenv("TIERPOOL_LOCAL_BASE_URL", raising=False)


@pytest.fixture
async def server() -> AsyncIterator[ScriptedProvider]:
    """Run a scripted provider for one test."""
    async with ScriptedProvider() as provider:
        yield provider
        await close_providers()


@pytest.fixture
def make_wire(server: ScriptedProvider) -> Callable[[str], Wire]:
    return lambda name: Wire(name, server)


@pytest.fixture(params=["openai", "anthropic"])
def wire(request: pytest.FixtureRequest, server: ScriptedProvider) -> Wire:
    """Give each of the two wire formats in turn."""
    return Wire(request.param, server)
