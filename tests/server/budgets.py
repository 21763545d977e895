"""A fleet with a budget, for the tests of money."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any
from uuid import uuid4

from temporalio.client import WorkflowHandle

from tierpool.contracts import ItemCosts, Usage

from .budget_workflows import WORKFLOWS
from .conftest import FLEET, Running

BASE = FLEET.replace(
    "pool: {max_instances: 4}", "max_output_tokens: 1000\n    pool: {max_instances: 8}"
)
ROLES = """
guardrails: {max_cost_per_workflow_usd: CAP, on_exhausted: MODE}
agents:
  reviewer: {prompt: "Judge\\nwell.", tier: nano}
flows:
  review:
    initial: incoming
    transitions:
      "incoming -> done": {agent: reviewer}
"""
WORST = Decimal("0.0027")
"""Above what a call of the reviewer can cost: 650 tokens in, 1000 tokens out."""
DEAR = Usage(input_tokens=600, output_tokens=1000)
"""Costs 0.0026 USD, nearly the worst case."""
CHEAP = Usage(input_tokens=50, output_tokens=10)


def roles(cap: Decimal | str, mode: str = "wait") -> str:
    return ROLES.replace("CAP", str(cap)).replace("MODE", mode)


@asynccontextmanager
async def started(
    fleet: Running,
    run: Any,
    *args: object,
    id: str = "",
    workflows: Sequence[type] = WORKFLOWS,
) -> AsyncIterator[WorkflowHandle[Any, Any]]:
    """Start a workflow of one's own on a worker that lives as long as the block."""
    async with fleet.worker(*workflows) as queue:
        yield await fleet.client.start_workflow(
            run, args=args, id=id or f"own-{uuid4().hex[:8]}", task_queue=queue
        )


async def costs_of(handle: WorkflowHandle[Any, Any]) -> ItemCosts:
    return await handle.query("costs", result_type=ItemCosts)


async def until_it_shows(handle: WorkflowHandle[Any, Any], text: str) -> None:
    """Wait until the current details have this text."""
    details = ""
    async with asyncio.timeout(20):
        while text not in details:
            details = str(await handle.query("__temporal_workflow_metadata"))
            await asyncio.sleep(0.05)


def billed(fleet: Running, usage: Usage) -> Decimal:
    """What the provider would bill for the calls that it answered."""
    calls = fleet.provider.accounting.calls
    return calls * (usage.input_tokens + 2 * usage.output_tokens) / Decimal(1_000_000)
