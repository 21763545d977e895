"""The other side of `history.py`: the OpenAI Agents SDK with Temporal's own plugin.

Runs in an environment that has `temporalio-openai-agents` and not tierpool; it is
used as documented: each turn is a `Runner.run` on the list that the turn before
returned (`to_input_list`), and the tool is an activity between the turns.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
from collections.abc import Sequence
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

from _history_load import (
    MAX_OUTPUT_TOKENS,
    MODEL,
    PROMPT,
    QUEUE,
    Order,
    Talk,
    folder_bytes,
    perform,
    read_piece,
    tool,
)
from agents import Agent, ModelSettings, OpenAIProvider, RunConfig, Runner
from openai import AsyncOpenAI
from temporalio import workflow
from temporalio.api.common.v1 import Payload
from temporalio.client import Client
from temporalio.common import RetryPolicy
from temporalio.converter import (
    DataConverter,
    ExternalStorage,
    StorageDriver,
    StorageDriverClaim,
    StorageDriverRetrieveContext,
    StorageDriverStoreContext,
)
from temporalio.openai_agents import (
    ModelActivityParameters,
    OpenAIAgentsPlugin,
)
from temporalio.worker import Worker

STORED_FROM_BYTES = 64 * 1024
"""Lower than the 256 KiB of the SDK, which is in the peer's favour."""


@workflow.defn
class Reading:
    """Shows the model one piece after the other."""

    @workflow.run
    async def run(self, talk: Talk) -> None:
        """Make the turns: one use of the tool and one call each."""
        agent = Agent(
            name="reader",
            instructions=PROMPT,
            model=MODEL,
            model_settings=ModelSettings(max_tokens=MAX_OUTPUT_TOKENS),
        )
        quiet = RunConfig(tracing_disabled=True)
        said: list[Any] = [{"role": who, "content": text} for who, text in talk.start]
        for number in range(talk.first, talk.first + talk.turns):
            said.append({"role": "user", "content": await tool(number)})
            result = await Runner.run(agent, said, run_config=quiet)
            said = result.to_input_list()


class FileDriver(StorageDriver):
    """Keeps payloads as files that are named by their hash."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def name(self) -> str:
        """See base class."""
        return "files"

    async def store(
        self, context: StorageDriverStoreContext, payloads: Sequence[Payload]
    ) -> list[StorageDriverClaim]:
        """See base class."""
        claims = []
        for payload in payloads:
            raw = payload.SerializeToString()
            key = hashlib.sha256(raw).hexdigest()
            (self.folder / key).write_bytes(raw)
            claims.append(StorageDriverClaim({"key": key}))
        return claims

    async def retrieve(
        self,
        context: StorageDriverRetrieveContext,
        claims: Sequence[StorageDriverClaim],
    ) -> list[Payload]:
        """See base class."""
        raws = [(self.folder / c.claim_data["key"]).read_bytes() for c in claims]
        return [Payload.FromString(raw) for raw in raws]


def converter(order: Order, folder: Path) -> DataConverter:
    """Return what the plugin is to extend, with external storage if asked for."""
    if not order.options["external"]:
        return DataConverter.default
    storage = ExternalStorage(
        drivers=[FileDriver(folder)], payload_size_threshold=STORED_FROM_BYTES
    )
    return DataConverter(external_storage=storage)


async def main(order: Order) -> None:
    """Serve and make all runs."""
    stored = Path(order.folder) / "stored"
    stored.mkdir()
    model_client = AsyncOpenAI(
        api_key="none", base_url=f"{order.provider}/v1", max_retries=0
    )
    plugin = OpenAIAgentsPlugin(
        model_provider=OpenAIProvider(openai_client=model_client, use_responses=False),
        model_params=ModelActivityParameters(
            start_to_close_timeout=timedelta(minutes=2),
            retry_policy=RetryPolicy(maximum_attempts=1),
        ),
    )
    client = await Client.connect(
        order.address, plugins=[plugin], data_converter=converter(order, stored)
    )
    print(f'{{"version": "{version("temporalio-openai-agents")}"}}', flush=True)
    async with Worker(
        client, task_queue=QUEUE, workflows=[Reading], activities=[read_piece]
    ):
        await perform(client, Reading.run, order, lambda: folder_bytes(stored))


if __name__ == "__main__":
    asyncio.run(main(Order.read(sys.argv[1])))
    sys.stdout.flush()
    os._exit(0)  # the SDK's threads can abort an ordinary exit
