"""Load for the benchmarks of pools: a workflow with many calls at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from _sandbox import sandbox
from temporalio import workflow
from temporalio.client import Client
from temporalio.worker import Worker

from tierpool.workflows import call_agent

__all__ = ["OWN_QUEUE", "ManyCalls", "own_worker", "write_pool_fleet"]

OWN_QUEUE = "bench-own"


@workflow.defn
class ManyCalls:
    """Makes calls, all at the same time; returns how many were answered."""

    @workflow.run
    async def run(self, calls: int) -> int:
        """Call."""
        replies = await asyncio.gather(
            *(call_agent("clerk", f"part {n}", output=str) for n in range(calls))
        )
        return len(replies)


@asynccontextmanager
async def own_worker(client: Client) -> AsyncIterator[None]:
    """Run a user's own worker."""
    async with Worker(
        client,
        task_queue=OWN_QUEUE,
        workflows=[ManyCalls],
        workflow_runner=sandbox("_pool_load"),
        build_id="benchmark",
    ):
        yield


def write_pool_fleet(
    folder: Path, base_url: str, pool: str, name: str = "bench-pools"
) -> Path:
    """Write a fleet with one tier; return its file.

    Args:
        folder: Where to.
        base_url: The provider's.
        pool: The keys of the pool, as in the file.
        name: The fleet's, which its task queues begin with.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prompt.md").write_text("Say what is to be done.\n")
    path = folder / "agents.yaml"
    path.write_text(
        f"""\
version: 1
fleet: {name}
tiers:
  standard:
    model: openai:scripted
    base_url: {base_url}/v1
    price: {{input_usd_per_mtok: 1, output_usd_per_mtok: 4}}
    max_output_tokens: 64
    pool: {{{pool}}}
agents:
  clerk: {{prompt: prompt.md, tier: standard}}
flows:
  unused:
    initial: s0
    transitions:
      "s0 -> done": {{agent: clerk}}
"""
    )
    return path
