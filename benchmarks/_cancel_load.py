"""What is cancelled: the fleet, its flows, and a user's own workflow.

Every call takes 30 s and names its item, so that the provider can tell whose
calls start and end. Nothing here starts a process.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from pydantic import BaseModel
from temporalio import workflow

from tierpool.workflows import call_agent

__all__ = [
    "FLEET",
    "LABEL",
    "OWN_QUEUE",
    "PARALLEL",
    "STATE_TIMEOUT_S",
    "OwnItem",
    "OwnWorkflow",
    "provider_arguments",
    "write_cancel_fleet",
]

FLEET = "bench-cancel"
OWN_QUEUE = f"{FLEET}-own"
PARALLEL = 4
"""Calls that a user's own workflow has under way at a time."""
STATE_TIMEOUT_S = 6
LABEL = r"ITEM-[0-9a-z-]+"
"""Every item's ID, which is also its text."""

_CALL_S = 30
_CHUNKS = 20


class OwnItem(BaseModel):
    """Input of the user's own workflow."""

    text: str
    rounds: int = 3


@workflow.defn
class OwnWorkflow:
    """Rounds of parallel calls: a round that is cancelled must be the last one."""

    @workflow.run
    async def run(self, item: OwnItem) -> None:
        """Make all calls."""
        for _ in range(item.rounds):
            await asyncio.gather(
                *(
                    call_agent("clerk", f"{item.text} part {part}", output=str)
                    for part in range(PARALLEL)
                )
            )


def provider_arguments() -> list[str]:
    """Return the provider's command line: streams that last for 30 s."""
    step = {"step": "Reply", "text": "word " * 40, "delay": _CALL_S, "chunks": _CHUNKS}
    return ["--port", "0", "--steps", json.dumps([step]), "--label", LABEL]


def write_cancel_fleet(folder: Path, base_url: str) -> Path:
    """Write the fleet file; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prompt.md").write_text("Say what is to be done.\n")
    path = folder / "agents.yaml"
    path.write_text(
        f"""\
version: 1
fleet: {FLEET}
tiers:
  standard:
    model: openai:scripted
    base_url: {base_url}/v1
    price: {{input_usd_per_mtok: 1, output_usd_per_mtok: 4}}
    max_output_tokens: 256
    pool: {{max_instances: 400}}
agents:
  clerk: {{prompt: prompt.md, tier: standard}}
  judge: {{prompt: prompt.md, tier: standard, output: {{verdict: [approve, reject]}}}}
flows:
  chain:                       # a cancelled call must be the item's last one
    initial: s0
    transitions:
      "s0 -> s1": {{agent: clerk}}
      "s1 -> s2": {{agent: clerk}}
      "s2 -> done": {{agent: clerk}}
  timed:                       # neither the judge nor the clerk may run afterwards
    initial: s0
    transitions:
      "s0 -> s1": {{agent: judge, when: {{verdict: approve}}}}
      "s0 -> late": {{}}
      "s1 -> done": {{agent: clerk}}
    states:
      s0: {{timeout: {STATE_TIMEOUT_S}s}}
"""
    )
    return path
