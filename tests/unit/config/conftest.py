"""A folder with prompts, and a way to check a text as its agents.yaml."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path

import pytest

from tierpool.blueprint import Price
from tierpool.config import check_fleet
from tierpool.errors import Problem
from tierpool.fleet import LoadedFleet

Check = Callable[..., tuple[LoadedFleet | None, tuple[Problem, ...]]]

PRICES = {
    "openai:gpt-5-nano": "0.05",
    "openai:gpt-5": "1.25",
    "anthropic:claude-sonnet-4-6": "3",
}
KEYS = {"OPENAI_API_KEY": "set", "ANTHROPIC_API_KEY": "set"}

GOOD = """\
version: 1
tiers:
  nano: {model: openai:gpt-5-nano}
  standard:
    model: anthropic:claude-sonnet-4-6
    max_output_tokens: 4096
agents:
  writer: {prompt: prompts/writer.md}
  reviewer:
    prompt: prompts/reviewer.md
    output: {verdict: [approve, reject], notes: string}
  tests: {type: command, run: [make, check]}
  boss: {type: human}
flows:
  feature:
    initial: incoming
    transitions:
      "incoming -> written": {agent: writer, verify: tests, escalate: true}
      "written -> signed": {agent: reviewer, when: {verdict: approve}}
      "written -> incoming": {when: {verdict: reject}, max_visits: 3}
      "written -> abandoned": {}
      "signed -> done": {agent: boss}
      "signed -> stale": {}
    states:
      signed: {timeout: 2d}
"""
"""A file without errors and warnings; cases replace a piece of it."""


def find_price(model: str) -> Price:
    """Find a price in a small fixed list."""
    if model not in PRICES:
        raise LookupError(f"no price for {model}")
    amount = Decimal(PRICES[model])
    return Price(input_usd_per_mtok=amount, output_usd_per_mtok=amount * 4)


@pytest.fixture
def good() -> str:
    """Return a file without errors and warnings."""
    return GOOD


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make the folder that the good file needs."""
    prompts = tmp_path / "prompts"
    prompts.mkdir()
    (prompts / "writer.md").write_text("Write what is asked for.\n")
    (prompts / "reviewer.md").write_text("Review the text.\n")
    return tmp_path


@pytest.fixture
def check(folder: Path) -> Check:
    """Check a text (or bytes) as the folder's agents.yaml."""

    def run(
        text: str | bytes, environ: Mapping[str, str] = KEYS
    ) -> tuple[LoadedFleet | None, tuple[Problem, ...]]:
        path = folder / "agents.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return check_fleet(path, find_price=find_price, environ=environ)

    return run
