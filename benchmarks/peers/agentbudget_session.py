"""agentbudget: one session, and one wrapped client, shared by all callers.

With the option `ask_first` each caller asks `would_exceed` before its call, as
the documentation shows for the last call of an agent.
"""

from __future__ import annotations

import asyncio
from importlib.metadata import version

import agentbudget
import openai
from _race import CALL_WITHIN_S, Order, Race, Refused, read_order, run
from agentbudget.exceptions import BudgetExhausted

NEVER = 1_000_000
"""The loop detector would stop the race after 10 calls of the same model."""


async def prepare(order: Order, callers: int) -> Race:
    """Make the session of one race."""
    budget = agentbudget.AgentBudget(
        max_spend=float(order.cap_usd), max_repeated_calls=NEVER
    )
    session = budget.session()
    plain = openai.AsyncOpenAI(
        api_key="none",
        base_url=f"{order.base_url}/v1",
        max_retries=0,
        timeout=CALL_WITHIN_S,
    )
    client = agentbudget.wrap_client(plain, session)

    async def ask(text: str) -> object:
        if order.options["ask_first"] and session.would_exceed(float(order.worst_usd)):
            raise Refused("would_exceed")
        try:
            return await client.chat.completions.create(
                model=order.model,
                max_tokens=order.max_output_tokens,
                messages=[{"role": "user", "content": text}],
            )
        except BudgetExhausted as error:
            raise Refused(str(error)) from error

    return Race(ask, plain.close, lambda: session.spent)


if __name__ == "__main__":
    asyncio.run(run(read_order(), version("agentbudget"), prepare))
