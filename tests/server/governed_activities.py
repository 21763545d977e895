"""Activities of a user's own that pay for models under `governed`.

As a program: a worker process that runs them, to be killed.
"""

import asyncio
import sys
from typing import Any

from anthropic import AsyncAnthropic
from openai import AsyncOpenAI
from temporalio import activity
from temporalio.client import Client
from temporalio.worker import Worker

from tierpool import TierpoolPlugin, governed
from tierpool.activities.governed import GovernedCall

from .governed_work import Ask


@activity.defn
async def ask(ask: Ask) -> str:
    """Make one call and report its usage, or do not, as the ask says."""
    beating = asyncio.create_task(beat())
    try:
        return await pay(ask)
    finally:
        beating.cancel()


async def beat() -> None:
    while not activity.info().is_local:
        activity.heartbeat()
        await asyncio.sleep(0.3)


async def pay(ask: Ask) -> str:
    async with governed(
        model=ask.model, max_output_tokens=ask.limit, input=ask.text
    ) as call:
        if ask.ends == "released":
            call.release()
            return "nothing"
        text, usage = await WIRES[ask.wire](ask, call)
        if ask.ends == "broken" and activity.info().attempt == 1:
            raise RuntimeError("after the call, before its usage was looked at")
        if ask.ends != "silent":
            call.settle(usage)
        return text


async def by_openai(ask: Ask, call: GovernedCall) -> tuple[str, Any]:
    async with AsyncOpenAI(
        api_key="sk-none", base_url=f"{ask.base_url}/v1", max_retries=0
    ) as client:
        answer = await client.chat.completions.create(
            model=ask.model.partition(":")[2],
            messages=[{"role": "user", "content": ask.text}],
            max_tokens=call.max_output_tokens,
        )
    return answer.choices[0].message.content or "", answer.usage


async def by_anthropic(ask: Ask, call: GovernedCall) -> tuple[str, Any]:
    async with AsyncAnthropic(
        api_key="sk-none", base_url=ask.base_url, max_retries=0
    ) as client:
        answer = await client.messages.create(
            model=ask.model.partition(":")[2],
            messages=[{"role": "user", "content": ask.text}],
            max_tokens=call.max_output_tokens,
        )
    return "".join(part.text for part in answer.content), answer.usage


WIRES = {"openai": by_openai, "anthropic": by_anthropic}


@activity.defn(name="ask")
def ask_in_a_thread(ask: Ask) -> str:
    """Try the same in a `def` activity."""
    governed(model=ask.model, max_output_tokens=ask.limit, input=ask.text)
    return "no error"


async def main(address: str, fleet: str, queue: str) -> None:
    client = await Client.connect(address, plugins=[TierpoolPlugin(fleet)])
    async with Worker(client, task_queue=queue, activities=[ask]):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
