"""`tierpool plan` of a running fleet."""

from __future__ import annotations

import asyncio
import json

from tierpool.client import flow_result
from tierpool.testing import Reply
from tierpool.worker import Served

from .conftest import Command, Start

ROLES = """
agents:
  clerk: {prompt: "Work.\\n", tier: nano}
flows:
  work:
    initial: incoming
    transitions:
      "incoming -> done": {agent: clerk}
"""
WITHOUT_CONTROL = Served(flows=True, pools=("nano", "standard", "premium"), tools=True)


async def test_running_fleet_with_few_calls_is_not_planned(
    running: Start, tierpool: Command
) -> None:
    """It says how many calls each tier has made, and guesses nothing."""
    fleet = await running(ROLES, served=WITHOUT_CONTROL)
    fleet.provider.default(Reply("fine"))
    items = [await fleet.start("work") for _ in range(3)]
    await asyncio.gather(*(flow_result(item) for item in items))

    ran = await tierpool(
        "plan", "--json", "--since", "1h", "--file", str(fleet.fleet.path)
    )

    assert 1 == ran.status
    said = json.loads(ran.out)
    assert "TooFewCalls" == said["type"]
    assert "nano, recorded: 3 calls" in said["error"]
    assert "premium, recorded: 0 calls" in said["error"]
