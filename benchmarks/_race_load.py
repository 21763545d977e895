"""What races for a budget: the fleet, a user's own workflow, and its faults.

A workflow has callers that ask again and again until the budget denies them;
its children do the same on the same budget. Nothing here starts a process.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import Any, Literal, TypeAlias

from _race_log import Log, Recorder
from pydantic import BaseModel
from temporalio import workflow

from tierpool.errors import AgentCallFailed, BudgetDenied
from tierpool.workflows import call_agent, limit_budget
from tierpool.workflows.handlers import run_state

__all__ = [
    "CAPS_USD",
    "LABEL",
    "Faults",
    "Mode",
    "Race",
    "RaceWorkflow",
    "own_queue",
    "provider_arguments",
    "write_race_fleet",
]

Faults: TypeAlias = Literal["none", "errors", "cut", "kill"]
"""Each has the faults of those before it."""
Mode: TypeAlias = Literal["wait", "fail"]
"""`on_exhausted` of the fleet."""

LABEL = r"RACE-[0-9a-z-]+"
MAX_OUTPUT_TOKENS = 1000
INPUT_USD_PER_MTOK = Decimal("0.05")
"""Low: a reply of full length then costs 99.5 % of its worst case."""
OUTPUT_USD_PER_MTOK = Decimal(10)

CAPS_USD = {
    1: Decimal("0.104"),
    8: Decimal("0.205"),
    32: Decimal("0.456"),
    128: Decimal("1.378"),
}
"""By callers: 10 to 137 calls at their worst, never a whole number of them."""

_FLEET_CAP_USD = CAPS_USD[128]
_PROMPT = "You work in a support team. Say in a few words what is to be done.\n"
_REPLIES = (1000, 400, 1000, 1000, 100, 900, 1000, 250, 1000, 1000, 600, 1000)
"""Output tokens of the replies, in turn."""
_DELAYS_S = (0.2, 0.1, 0.15, 0.05, 0.2, 0.1, 0.15)


class Race(BaseModel):
    """Input of the workflow."""

    label: str
    cap_usd: Decimal | None = None
    """None: the fleet's own."""
    callers: int
    children: tuple[int, ...] = ()
    """Callers of each child workflow."""


@workflow.defn
class RaceWorkflow:
    """Callers in parallel, each until it is denied."""

    def __init__(self) -> None:
        self.recorder = Recorder()
        """What the run's budget did, in order."""

    @workflow.run
    async def run(self, race: Race) -> list[Log]:
        """Return what happened here, and then in each child."""
        self.recorder.watch(run_state())
        if race.cap_usd is not None:
            await limit_budget(race.cap_usd)
        mine = [self._caller(race.label, number) for number in range(race.callers)]
        theirs = [
            workflow.execute_child_workflow(
                RaceWorkflow.run,
                Race(label=race.label, callers=callers),
                id=f"{workflow.info().workflow_id}-{number}",
            )
            for number, callers in enumerate(race.children)
        ]
        found = await asyncio.gather(asyncio.gather(*theirs), asyncio.gather(*mine))
        return [self.recorder.log(), *chain.from_iterable(found[0])]

    async def _caller(self, label: str, number: int) -> None:
        turn = 0
        while True:
            turn += 1
            text = f"{label} caller {number:03} turn {turn:04}: {'x' * 150}"
            try:
                await call_agent("clerk", text, output=str)
            except BudgetDenied:
                return
            except AgentCallFailed:
                self.recorder.failed_calls += 1


def own_queue(fleet: str) -> str:
    """Name the task queue of the workflows."""
    return f"{fleet}-own"


def provider_arguments(faults: Faults) -> list[str]:
    """Return the provider's command line."""
    price = f"scripted={INPUT_USD_PER_MTOK}:{OUTPUT_USD_PER_MTOK}"
    steps = json.dumps(_steps(faults))
    return ["--port", "0", "--steps", steps, "--price", price, "--label", LABEL]


def _steps(faults: Faults) -> list[Mapping[str, Any]]:
    """Mix good replies with faults, which come every third to fourth time."""
    bad: list[Mapping[str, Any]] = []
    if faults != "none":
        bad += [
            {"step": "RateLimited", "wait": 0.2, "dialect": "ms"},
            {"step": "ServerError"},
            {"step": "Overloaded"},
        ]
    if faults in ("cut", "kill"):
        bad += [
            _reply("CutConnection", 1000, 0.1, after_chunks=3),
            _reply("NoUsage", 700, 0.1),
            {"step": "ServerError", "after_chunks": 2, "text": "x" * 2000},
            _reply("CutConnection", 900, 0.1, after_finish=True),
            {"step": "CutConnection", "after_chunks": None},
        ]
    steps: list[Mapping[str, Any]] = []
    for number, tokens in enumerate(_REPLIES * 2):
        delay = _DELAYS_S[number % len(_DELAYS_S)]
        steps.append(_reply("Reply", tokens, delay))
        if number % 3 == 2 and bad:
            steps.append(bad[number // 3 % len(bad)])
    return steps


def _reply(step: str, tokens: int, delay_s: float, **more: object) -> dict[str, Any]:
    """Make a reply; the provider counts four bytes as a token."""
    text = "x" * 4 * tokens
    return {"step": step, "text": text, "delay": delay_s, "chunks": 5, **more}


def write_race_fleet(folder: Path, name: str, mode: Mode, base_url: str) -> Path:
    """Write the fleet file; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prompt.md").write_text(_PROMPT)
    path = folder / "agents.yaml"
    path.write_text(
        f"""\
version: 1
fleet: {name}
guardrails: {{max_cost_per_workflow_usd: {_FLEET_CAP_USD}, on_exhausted: {mode}}}
tiers:
  standard:
    model: openai:scripted
    base_url: {base_url}/v1
    price:
      input_usd_per_mtok: {INPUT_USD_PER_MTOK}
      output_usd_per_mtok: {OUTPUT_USD_PER_MTOK}
    max_output_tokens: {MAX_OUTPUT_TOKENS}
    pool: {{max_instances: 200}}
agents:
  clerk: {{prompt: prompt.md, tier: standard}}
flows:
  unused:
    initial: incoming
    transitions:
      "incoming -> done": {{agent: clerk}}
"""
    )
    return path
