"""The baseline: what a careful user writes with Temporal and the openai SDK alone.

One workflow, one activity, pydantic payloads. The prompt and the model stand
in the activity, so history carries only what differs between calls.
"""

from __future__ import annotations

from datetime import timedelta

import openai
from _load import BARE, MAX_OUTPUT_TOKENS, PROMPT, Item
from pydantic import BaseModel
from temporalio import activity, workflow
from temporalio.common import RetryPolicy

from tierpool.activities.providers.http import http_client

__all__ = ["CALLS_QUEUE", "BareActivities", "BareWorkflow"]

CALLS_QUEUE = f"{BARE.fleet}-standard"


class BareRequest(BaseModel):
    """Input of one call."""

    text: str


class BareReply(BaseModel):
    """Output of one call."""

    text: str
    input_tokens: int
    output_tokens: int


class BareActivities:
    """The call, with one client for the process."""

    def __init__(self, base_url: str) -> None:
        self._client = openai.AsyncOpenAI(
            api_key="none",
            base_url=f"{base_url}/v1",
            max_retries=0,
            # the same HTTP client as tierpool's, so that the SDK costs the same
            http_client=http_client(base_url, openai.DefaultAsyncHttpxClient),
        )

    @activity.defn
    async def complete(self, request: BareRequest) -> BareReply:
        """Make one streamed chat completion."""
        reply = BareReply(text="", input_tokens=0, output_tokens=0)
        stream = await self._client.chat.completions.create(
            model="scripted",
            messages=[
                {"role": "system", "content": PROMPT},
                {"role": "user", "content": request.text},
            ],
            max_tokens=MAX_OUTPUT_TOKENS,
            stream=True,
            stream_options={"include_usage": True},
        )
        async with stream:
            async for chunk in stream:
                for choice in chunk.choices:
                    reply.text += choice.delta.content or ""
                if chunk.usage is not None:
                    reply.input_tokens = chunk.usage.prompt_tokens
                    reply.output_tokens = chunk.usage.completion_tokens
        return reply


@workflow.defn
class BareWorkflow:
    """Calls one after the other; each reads the item and the reply before."""

    @workflow.run
    async def run(self, item: Item) -> str:
        """Return the last reply."""
        last = ""
        for _ in range(item.calls):
            asked = f"{item.text}\n\n## Last reply\n{last}" if last else item.text
            reply = await workflow.execute_activity_method(
                BareActivities.complete,
                BareRequest(text=asked),
                task_queue=CALLS_QUEUE,
                start_to_close_timeout=timedelta(minutes=5),
                retry_policy=RetryPolicy(maximum_attempts=1),
            )
            last = reply.text
        return last
