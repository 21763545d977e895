"""pydantic-ai: `UsageLimits(cost_limit=…)`, one usage shared by all runs.

The usage object is handed from run to run as the documentation shows for the
delegation between agents (`usage=ctx.usage`).
"""

from __future__ import annotations

import asyncio
from decimal import Decimal
from importlib.metadata import version

import openai
from _race import CALL_WITHIN_S, Order, Race, Refused, read_order, run
from pydantic_ai import Agent, RunUsage, UsageLimitExceeded, UsageLimits
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider


async def prepare(order: Order, callers: int) -> Race:
    """Make the agent and the usage of one race."""
    client = openai.AsyncOpenAI(
        api_key="none",
        base_url=f"{order.base_url}/v1",
        max_retries=0,
        timeout=CALL_WITHIN_S,
    )
    model = OpenAIChatModel(order.model, provider=OpenAIProvider(openai_client=client))
    agent = Agent(model, model_settings={"max_tokens": order.max_output_tokens})
    usage = RunUsage()
    # 50 requests are the default limit, which is another one
    limits = UsageLimits(cost_limit=Decimal(order.cap_usd), request_limit=None)

    async def ask(text: str) -> object:
        try:
            return await agent.run(text, usage=usage, usage_limits=limits)
        except UsageLimitExceeded as error:
            raise Refused(str(error)) from error

    return Race(ask, client.close, lambda: usage.cost)


if __name__ == "__main__":
    asyncio.run(run(read_order(), version("pydantic-ai-slim"), prepare))
