"""Lease agents of fleets that stand in a test."""

import tempfile
from pathlib import Path

from tierpool.config import load_fleet
from tierpool.fleet import LoadedFleet
from tierpool.leases import LeaseAgent

FLEET = """
version: 1
fleet: leased
LIMITS
tiers:
  nano:
    model: openai:small
    base_url: http://127.0.0.1:1/v1
    price: {input_usd_per_mtok: 1, output_usd_per_mtok: 2}
    max_output_tokens: 1000
    RATES
  large:
    model: openai:large
    base_url: http://127.0.0.1:1/v1
    price: {input_usd_per_mtok: 10, output_usd_per_mtok: 20}
agents:
  writer: {prompt: "Write.\\n", tier: nano}
"""


def fleet_with(limits: str = "", rates: str = "") -> LoadedFleet:
    """Return a fleet of two tiers with these lines of limits."""
    folder = Path(tempfile.mkdtemp())
    file = folder / "agents.yaml"
    file.write_text(FLEET.replace("LIMITS", limits).replace("RATES", rates))
    return load_fleet(file)


def lease_of(limits: str = "", rates: str = "") -> LeaseAgent:
    """Return an agent that no server knows of."""
    return LeaseAgent(fleet_with(limits, rates))
