"""Opens the guardrail's scope around every activity of a worker with the plugin.

Only where the scope begins and ends is decided here. What it holds belongs to
whoever makes it, and what an activity does in it is `governed`'s business.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from temporalio.worker import (
    ActivityInboundInterceptor,
    ExecuteActivityInput,
    Interceptor,
)

__all__ = ["GuardrailInterceptor"]

Scope = Callable[[], AbstractContextManager[None]]


class _Inbound(ActivityInboundInterceptor):
    def __init__(self, next: ActivityInboundInterceptor, scope: Scope) -> None:
        super().__init__(next)
        self._scope = scope

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        with self._scope():
            return await super().execute_activity(input)


class GuardrailInterceptor(Interceptor):
    """Worker interceptor that runs each activity inside a scope of its own."""

    def __init__(self, scope: Scope) -> None:
        """Take what makes a scope; it is called once for each attempt."""
        self._scope = scope

    def intercept_activity(
        self, next: ActivityInboundInterceptor
    ) -> ActivityInboundInterceptor:
        """See base class."""
        return _Inbound(next, self._scope)
