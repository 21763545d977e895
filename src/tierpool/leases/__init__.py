"""A worker process's side of the fleet's ledger."""

from tierpool.leases.agent import Held, LeaseAgent, LeaseView
from tierpool.leases.needs import Ask

__all__ = ["Ask", "Held", "LeaseAgent", "LeaseView"]
