"""What a workflow leaves of its costs when it ends, for whoever reads it later."""

from __future__ import annotations

from decimal import Decimal

from tierpool.contracts.ledger import Total
from tierpool.contracts.wire import Usd, Wire

__all__ = ["COSTS_MEMO", "ClosingCosts", "DenialCount"]

COSTS_MEMO = "tierpool_costs"
"""Memo of an ended workflow: the server tells it without asking a worker."""


class DenialCount(Wire):
    """Calls of a role that a budget did not pay for."""

    role: str
    tier: str = ""
    times: int = 0
    why: str = ""
    """Of the last one, shortened."""


class ClosingCosts(Wire):
    """What one workflow cost; also of one that goes on, so far."""

    fleet: str = ""
    item: str
    """Workflow ID."""
    flow: str = ""
    """Type of the workflow."""
    cost_usd: Usd = Decimal(0)
    """What it is charged, children included."""
    totals: tuple[Total, ...] = ()
    """Its own attempts by role, tier and model, the dearest first."""
    denials: tuple[DenialCount, ...] = ()
