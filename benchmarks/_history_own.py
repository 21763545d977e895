"""tierpool's side of `history.py`: a user's own workflow with a `Conversation`.

Started by `history.py` with an order as JSON; prints a line of JSON for each run.
"""

from __future__ import annotations

import asyncio
import os
import sys
from datetime import timedelta
from pathlib import Path

from _history_load import (
    MAX_OUTPUT_TOKENS,
    MODEL,
    PROMPT,
    QUEUE,
    Order,
    Talk,
    perform,
    read_piece,
    tool,
)
from _sandbox import sandbox
from temporalio import workflow
from temporalio.client import Client
from temporalio.worker import Worker

from tierpool import TierpoolPlugin, load_fleet
from tierpool.worker import Served, run_workers
from tierpool.workflows import Conversation

GRACE = timedelta(seconds=2)

FLEET = """\
version: 1
fleet: bench-history
tiers:
  standard:
    model: openai:MODEL
    base_url: BASE_URL/v1
    price: {input_usd_per_mtok: 1, output_usd_per_mtok: 4}
    max_output_tokens: MAX_OUTPUT_TOKENS
    pool: {max_instances: 4}
agents:
  reader: {prompt: prompt.md, tier: standard}
"""


@workflow.defn
class Reading:
    """Shows the model one piece after the other."""

    @workflow.run
    async def run(self, talk: Talk) -> None:
        """Make the turns: one use of the tool and one call each."""
        reader = Conversation("reader")
        for who, text in talk.start:
            reader.append(text, role="assistant" if who == "assistant" else "user")
        for number in range(talk.first, talk.first + talk.turns):
            await reader.call(await tool(number), output=str)


def write_fleet(folder: Path, base_url: str) -> Path:
    """Write the fleet file; return its path."""
    (folder / "prompt.md").write_text(PROMPT)
    text = FLEET.replace("BASE_URL", base_url)
    text = text.replace("MAX_OUTPUT_TOKENS", str(MAX_OUTPUT_TOKENS))
    path = folder / "agents.yaml"
    path.write_text(text.replace("MODEL", MODEL))
    return path


async def main(order: Order) -> None:
    """Serve and make all runs."""
    fleet = load_fleet(write_fleet(Path(order.folder), order.provider))
    plugin = TierpoolPlugin(fleet, compress=order.options["compress"])
    client = await Client.connect(order.address, plugins=[plugin])
    stop, ready = asyncio.Event(), asyncio.Event()
    async with Worker(
        client,
        task_queue=QUEUE,
        workflows=[Reading],
        activities=[read_piece],
        workflow_runner=sandbox("_history_load"),
        graceful_shutdown_timeout=GRACE,
    ):
        pools = asyncio.create_task(
            run_workers(
                client,
                Served(pools=("standard",)),
                stop,
                grace=GRACE,
                on_ready=lambda _: ready.set(),
            )
        )
        await ready.wait()
        await perform(client, Reading.run, order)
        stop.set()
        await pools


if __name__ == "__main__":
    asyncio.run(main(Order.read(sys.argv[1])))
    sys.stdout.flush()
    os._exit(0)  # the SDK's threads can abort an ordinary exit
