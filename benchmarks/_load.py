"""What every variant does: the same calls, with the same words.

The names of the variants, the texts, and the fleet file of the variants that
use tierpool. Nothing here starts a process.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

__all__ = [
    "BARE",
    "CALLS",
    "DELAY_S",
    "ITEM_TEXT",
    "MAX_OUTPUT_TOKENS",
    "PROMPT",
    "VARIANTS",
    "Item",
    "Variant",
    "flow_of",
    "write_fleet",
]

CALLS = 5
"""Sequential calls of an item."""

DELAY_S = 0.2
"""Time that the provider takes for a reply."""

MAX_OUTPUT_TOKENS = 64

PROMPT = """\
You work in the support team of a company that sells accounting software.
Read the ticket and the last reply, if there is one. Say in one word whether
the ticket can be answered as it is. Do not repeat the ticket.
"""

ITEM_TEXT = """\
Since the update on Monday the export of the yearly report stops at about a
third with the message "connection reset by peer". It happens on two computers,
with the client 4.2 on Windows and with the web version in Firefox. Smaller
exports, for instance of one month, still work. I have cleared the cache and
logged in again, as your help page says. The report has to be with our tax
adviser by Friday, so please tell me whether there is another way to get the
figures, for example as a CSV file or by asking your team to run the export.
Customer number and a log of the last try are in the attachment.
"""


RATES = "requests_per_minute: 1000000, tokens_per_minute: 1000000000, burst: 100000"
HOUR = "max_cost_per_hour_usd: 100000, alert_threshold_usd: 90000"


class Item(BaseModel):
    """Input of the baseline's and of the user's own workflow."""

    text: str = ITEM_TEXT
    calls: int = CALLS


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to make the calls of an item."""

    name: str
    letter: str
    """Stands in task queues and IDs, which weigh the same in every history."""
    kind: Literal["bare", "call", "flow"]
    """Plain Temporal, `call_agent` in a user's own workflow, or FlowWorkflow."""
    routed: bool = False
    """The role has `tier: auto`, so that each call is classified."""
    pooled: bool = True
    """False: as many slots, but no gate, and one model client for all calls."""
    cap_usd: str = ""
    """Budget of each item, which no item uses up; empty for none."""
    limits: bool = False
    """Limits of the whole fleet, which nothing uses up: money, rates, calls at a time."""
    claims: bool = False
    """A role cap, too: each attempt asks for a claim."""

    @property
    def fleet(self) -> str:
        """Name of its fleet, which prefixes its task queues."""
        return f"bench-{self.letter}"

    @property
    def queue(self) -> str:
        """Task queue of its workflows."""
        return f"{self.fleet}-{'flows' if self.kind == 'flow' else 'own'}"

    @property
    def tiers(self) -> tuple[str, ...]:
        """Tiers with a pool: one if the tier is fixed."""
        return ("nano", "standard") if self.routed else ("standard",)


BARE = Variant("bare", "a", "bare")
VARIANTS = (
    BARE,
    Variant("fixed", "b", "call"),
    Variant("unpooled", "g", "call", pooled=False),
    Variant("routed", "c", "call", routed=True),
    Variant("budget", "f", "call", routed=True, cap_usd="10"),
    Variant("limits", "h", "call", routed=True, cap_usd="10", limits=True),
    Variant("claims", "i", "call", routed=True, cap_usd="10", limits=True, claims=True),
    Variant("flow_fixed", "d", "flow"),
    Variant("flow_routed", "e", "flow", routed=True),
)


def write_fleet(
    folder: Path,
    name: str,
    tiers: tuple[str, ...],
    role_tier: str,
    base_url: str,
    cap_usd: str = "",
    *,
    limits: bool = False,
    claims: bool = False,
) -> Path:
    """Write a fleet whose tiers all use the scripted provider; return its file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prompt.md").write_text(PROMPT)
    lines = ["version: 1", f"fleet: {name}", "tiers:"]
    for tier in tiers:
        lines += [
            f"  {tier}:",
            "    model: openai:scripted",
            f"    base_url: {base_url}/v1",
            "    price: {input_usd_per_mtok: 1, output_usd_per_mtok: 4}",
            f"    max_output_tokens: {MAX_OUTPUT_TOKENS}",
            "    pool: {max_instances: 200}",
        ]
        if limits:
            lines += [f"    rate_limit: {{{RATES}}}"]
    if limits:
        lines += ["max_concurrent: 10000"]
    if cap_usd:
        hour = f", {HOUR}" if limits else ""
        lines += [f"guardrails: {{max_cost_per_workflow_usd: {cap_usd}{hour}}}"]
    most = ", max_instances: 10000" if claims else ""
    lines += ["agents:", f"  clerk: {{prompt: prompt.md, tier: {role_tier}{most}}}"]
    lines += ["flows:"]
    for calls in range(1, CALLS + 1):
        lines += [f"  {flow_of(calls)}:", "    initial: s0", "    transitions:"]
        states = [f"s{number}" for number in range(calls)] + ["done"]
        lines += [
            f'      "{source} -> {target}": {{agent: clerk}}'
            for source, target in pairwise(states)
        ]
    path = folder / "agents.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path


def flow_of(calls: int) -> str:
    """Name the flow that makes so many calls."""
    return f"chain{calls}"
