"""A user's own workflow that calls agents: the same calls as the baseline's."""

from __future__ import annotations

from _load import Item
from pydantic import JsonValue
from temporalio import workflow

from tierpool.workflows import call_agent

__all__ = ["OwnWorkflow"]


@workflow.defn
class OwnWorkflow:
    """Calls one after the other; each reads the item and the reply before."""

    @workflow.run
    async def run(self, item: Item) -> str:
        """Return the last reply."""
        last = ""
        for _ in range(item.calls):
            before: dict[str, JsonValue] = {"text": last} if last else {}
            last = await call_agent("clerk", item.text, output=str, last_reply=before)
        return last
