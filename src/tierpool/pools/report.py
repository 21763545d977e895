"""What this process tells about itself: one report of all that it serves."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Literal

from tierpool.contracts.ledger import Total
from tierpool.contracts.reports import LeaseReport, PoolReport, WorkerReport
from tierpool.leases import LeaseAgent
from tierpool.pools.gate import Gate
from tierpool.pools.statistics import QueueStatistics

__all__ = ["Reporter", "lease_report"]

_STATM = Path("/proc/self/statm")


@dataclass
class Reporter:
    """Puts the report together; used on the event loop that runs the workers."""

    fleet: str
    version: str
    """Of tierpool."""
    serves: tuple[str, ...]
    """`flows`, `tools`, `control` and names of tiers."""
    gates: Mapping[str, Gate]
    """Of the pools that this process serves."""
    models: Mapping[str, tuple[str, ...]]
    """`provider:model` of each of a pool's queues."""
    file: Mapping[str, str]
    """What the fleet file says of all that cannot change live."""
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    state: Literal["starting", "running", "draining"] = "starting"
    limits: str = ""
    """ID of the applied limits that are followed."""
    refused_limits: str = ""
    """Why what was applied last is not followed."""
    heard: float = field(default_factory=time.monotonic)
    """When the server answered last."""
    news: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when people should not wait for the next report."""
    statistics: dict[str, QueueStatistics] = field(default_factory=dict)
    """What the server said last of each pool's queues together."""
    lease: LeaseAgent | None = None
    """Of a process that makes calls."""

    def report(self) -> WorkerReport:
        """Return what is true now."""
        lease = lease_report(self.lease) if self.lease else None
        totals = lease.totals if lease else ()
        return WorkerReport(
            id=self.id,
            fleet=self.fleet,
            serves=self.serves,
            state=self.state,
            host=socket.gethostname(),
            pid=os.getpid(),
            version=self.version,
            started=self.started,
            at=datetime.now(UTC),
            memory_bytes=_memory(),
            file=dict(self.file),
            limits=self.limits,
            refused_limits=self.refused_limits,
            silent_seconds=round(time.monotonic() - self.heard, 1),
            pools=tuple(
                self._pool(name, gate, totals) for name, gate in self.gates.items()
            ),
            lease=lease,
        )

    def _pool(self, name: str, gate: Gate, totals: Sequence[Total]) -> PoolReport:
        made = gate.report(self.models.get(name, ()))
        mine = [one for one in totals if one.tier == name]
        used = [one.usage.input_tokens + one.usage.output_tokens for one in mine]
        cost = sum((one.settled_usd for one in mine), Decimal(0))
        made = made.model_copy(update={"tokens": sum(used), "cost_usd": cost})
        if self.state == "draining":
            made = made.model_copy(
                update={"limit": 0, "ready": 0, "cooldown": 0, "bound": "max",
                        "draining": made.busy, "reason": "the worker drains"}
            )  # fmt: skip
        seen = self.statistics.get(name)
        if seen is None:
            return made
        return made.model_copy(
            update={
                "backlog": seen.backlog,
                "oldest_seconds": seen.oldest.total_seconds(),
                "arrivals_per_second": seen.added_per_second,
            }
        )


def lease_report(lease: LeaseAgent) -> LeaseReport:
    """Return what is true of a lease now."""
    view = lease.view()
    return LeaseReport(
        limited=view.limited,
        valid=view.valid,
        trouble=view.trouble,
        free=dict(view.free),
        reserved=dict(view.reserved),
        blocked={name: round(seconds, 1) for name, seconds in view.blocked.items()},
        refused=dict(view.refused),
        renewals=view.renewals,
        hour_usd=view.last.hour_usd,
        held_usd=view.last.held_usd,
        cap_usd=view.last.cap_usd,
        alerting=view.last.alerting,
        totals=view.totals,
    )


def _memory() -> int:
    """Return the resident memory in bytes; where that is not told, its peak."""
    try:
        pages = int(_STATM.read_text().split()[1])
    except (OSError, ValueError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return pages * os.sysconf("SC_PAGE_SIZE")
