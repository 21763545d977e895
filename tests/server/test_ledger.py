"""Limits of the whole fleet: dollars per hour, rates and calls at a time."""

import asyncio
from collections.abc import Callable
from decimal import Decimal

import pytest
from temporalio.service import RPCError

from tierpool.contracts import Usage
from tierpool.contracts.ledger import LEDGER_QUERY, LedgerState, ledger_id
from tierpool.testing import Reply
from tierpool.worker import Served

from .conftest import Running, Start

ROLES = """
LIMITS
agents:
  writer: {prompt: "Write.\\n", tier: nano}
flows:
  writing:
    initial: incoming
    transitions:
      "incoming -> done": {agent: writer}
"""
ALL = Served(flows=True, pools=("nano",), control=True)
USAGE = Usage(input_tokens=1000, output_tokens=500)
"""Costs 0.002 USD; its worst case is a multiple of that."""


def with_limits(lines: str) -> str:
    return ROLES.replace("LIMITS", lines)


async def ledger(fleet: Running) -> LedgerState:
    handle = fleet.client.get_workflow_handle(ledger_id(fleet.fleet.name))
    return await handle.query(LEDGER_QUERY, result_type=LedgerState)


async def until(condition: Callable[[], object], seconds: float = 15) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.05)


async def test_the_hour_is_never_overspent_and_frees_again(
    running: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Items wait in the queue while the money of the hour is used up."""
    monkeypatch.setenv("TIERPOOL_LEDGER_HOUR_SECONDS", "6")
    cap = Decimal("0.02")
    fleet = await running(
        with_limits(f"guardrails: {{max_cost_per_hour_usd: {cap}}}"), served=ALL
    )
    fleet.provider.default(Reply("well", usage=USAGE))

    items = [await fleet.start("writing") for _ in range(16)]
    results = [await item.result() for item in items]

    assert all(result.state == "done" for result in results)
    assert all(result.attempts == 1 for result in results)
