"""The side of the OpenAI Agents plugin of Temporal in `rate_limits.py`.

Runs in an environment of its own. A refused call is retried by Temporal, as the
plugin's documentation says, with the server's default policy; while it waits, it
has no slot. Process 0 gives out the load; the others are workers, and note every
use of a slot by an interceptor.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import sys
import threading
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from _rates_load import MAX_OUTPUT_TOKENS, MODEL, PROMPT, Occupied, Order, text_of
from agents import Agent, ModelSettings, OpenAIProvider, RunConfig, Runner
from openai import AsyncOpenAI
from temporalio import workflow
from temporalio.client import Client
from temporalio.openai_agents import ModelActivityParameters, OpenAIAgentsPlugin
from temporalio.service import RPCError
from temporalio.worker import (
    ActivityInboundInterceptor,
    ExecuteActivityInput,
    Interceptor,
    Worker,
)

QUEUE = "rates-agents"
PER_WORKFLOW = 20
NUMBERS_APART = 100_000


@workflow.defn
class Calls:
    """Callers that make one call after the other."""

    @workflow.run
    async def run(self, first: int, lanes: int) -> None:
        """Call until terminated."""
        agent = Agent(
            name="clerk",
            instructions=PROMPT,
            model=MODEL,
            model_settings=ModelSettings(max_tokens=MAX_OUTPUT_TOKENS),
        )
        quiet = RunConfig(tracing_disabled=True)
        numbers = iter(range(first, first + NUMBERS_APART))

        async def lane() -> None:
            for number in numbers:
                await Runner.run(agent, text_of(number), run_config=quiet)

        await asyncio.gather(*(lane() for _ in range(lanes)))


class _Noting(ActivityInboundInterceptor):
    """Writes down each use of a slot."""

    file: Path

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        """See base class."""
        found, begin = re.search(r"part \d+", repr(input.args)), time.time()
        try:
            return await super().execute_activity(input)
        finally:
            label = found[0] if found else ""
            Occupied(label, begin, time.time()).write(self.file)


class Notes(Interceptor):
    """Gives each activity its `_Noting`."""

    def __init__(self, file: Path) -> None:
        """Take the file."""
        self._file = file

    def intercept_activity(
        self, next: ActivityInboundInterceptor
    ) -> ActivityInboundInterceptor:
        """See base class."""
        noting = _Noting(next)
        noting.file = self._file
        return noting


async def connect(order: Order) -> Client:
    """Connect with the plugin."""
    model_client = AsyncOpenAI(
        api_key="none", base_url=f"{order.base_url}/v1", max_retries=0
    )
    plugin = OpenAIAgentsPlugin(
        model_provider=OpenAIProvider(openai_client=model_client, use_responses=False),
        model_params=ModelActivityParameters(),
    )
    return await Client.connect(order.address, plugins=[plugin])


async def work(order: Order) -> None:
    """Be one of the worker processes, until the one that started it is gone."""
    threading.Thread(target=_end_with_input, daemon=True).start()
    file = Path(order.folder) / f"occupied-agents-{order.number}.jsonl"
    async with Worker(
        await connect(order),
        task_queue=QUEUE,
        workflows=[Calls],
        interceptors=[Notes(file)],
        max_concurrent_activities=order.slots,
    ):
        print(json.dumps({"ready": True}), flush=True)
        await asyncio.Event().wait()


def _end_with_input() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


async def drive(order: Order) -> None:
    """Start the workers, give out the load, and stop it when the time is over."""
    workers = [await start(order, n) for n in range(1, order.processes + 1)]
    try:
        client = await connect(order)
        handles = [
            await client.start_workflow(
                Calls.run,
                args=[n * NUMBERS_APART, min(PER_WORKFLOW, order.lanes)],
                id=f"rates-agents-{n}",
                task_queue=QUEUE,
            )
            for n in range(1, 1 + max(1, order.lanes // PER_WORKFLOW))
        ]
        await asyncio.sleep(order.seconds)
        for handle in handles:
            with contextlib.suppress(RPCError):
                await handle.terminate("the time is over")
        await asyncio.sleep(2)  # calls under way
    finally:
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.close()
            await worker.wait()
    said = {"version": version("temporalio-openai-agents"), "errors": {}}
    print(json.dumps(said), flush=True)


async def start(order: Order, number: int) -> asyncio.subprocess.Process:
    """Start a worker and wait until it polls."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, __file__, replace(order, number=number).as_json()),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    if not await process.stdout.readline():
        raise RuntimeError(f"worker {number} did not get ready")
    return process


if __name__ == "__main__":
    told = Order.read(sys.argv[1])
    asyncio.run(work(told) if told.number else drive(told))
    sys.stdout.flush()
    os._exit(0)  # the SDK's threads can abort an ordinary exit
