"""What a worker process tells about itself and its pools.

Goes into the server's registry of workers, where `tierpool status` reads it,
and to whoever asks the process over HTTP. Numbers of one process; a pool is
the sum over all of them.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Literal, TypeAlias

from tierpool.contracts.ledger import Total
from tierpool.contracts.wire import Usd, Wire

__all__ = ["Bound", "LeaseReport", "PoolReport", "Window", "WorkerReport"]

Bound: TypeAlias = Literal["max", "rate", "budget", "backlog", "provider"]
"""What keeps a pool from making more calls: its instances, a rate limit, money,
too little to do, or the provider."""


class Window(Wire):
    """What happened within the last minutes, five at most."""

    seconds: float = 0.0
    """How long the window is."""
    busy_seconds: float = 0.0
    """Time that instances spent in calls."""
    capacity_seconds: float = 0.0
    """Time that as many instances as the limit allows would have had."""
    completed: int = 0
    """Calls that ended, the failed ones included."""
    call_seconds: float = 0.0
    """Duration of these calls, summed up."""

    @property
    def utilisation(self) -> float | None:
        """Share of the capacity that was used; None without any capacity."""
        if not self.capacity_seconds:
            return None
        return min(1.0, self.busy_seconds / self.capacity_seconds)

    @property
    def mean_seconds(self) -> float | None:
        """Mean duration of a call; None without calls."""
        return self.call_seconds / self.completed if self.completed else None

    def __add__(self, other: Window) -> Window:
        """Add what another process saw in the same time."""
        return Window(
            seconds=max(self.seconds, other.seconds),
            busy_seconds=self.busy_seconds + other.busy_seconds,
            capacity_seconds=self.capacity_seconds + other.capacity_seconds,
            completed=self.completed + other.completed,
            call_seconds=self.call_seconds + other.call_seconds,
        )


class PoolReport(Wire):
    """One pool of one worker process at one moment."""

    pool: str
    """Name of the tier, or `tools`."""
    models: tuple[str, ...] = ()
    """`provider:model` of each of its queues, the tier's own first."""
    limit: int = 0
    """`max_instances` by now; 0 is a paused pool."""
    scale_up_threshold: int = 4
    """Backlog above which one process more is called for."""
    scale_down_idle_secs: int = 300
    """Time after which idle instances, and processes, go."""
    wait_target_secs: float = 0.0
    """95 of 100 calls should begin within so many seconds; 0: not told."""
    ready: int = 0
    """Instances that wait for a call."""
    busy: int = 0
    """Instances in a call, those that drain included."""
    starting: int = 0
    """Instances that are being built."""
    cooldown: int = 0
    """Instances that could take a call, but for their provider."""
    draining: int = 0
    """Busy instances that go when their call has ended."""
    bound: Bound = "backlog"
    reason: str = ""
    """The bound in words."""
    trouble: str = ""
    """Why no instance can be built; then the process polls nothing."""
    built: int = 0
    """Instances built since the start."""
    calls: int = 0
    """Calls that have ended since the start."""
    failed: int = 0
    """Those of them that gave no reply."""
    call_seconds: float = 0.0
    """Duration of all of them."""
    tokens: int = 0
    """Input and output of the attempts since the start whose usage is known."""
    cost_usd: Usd = Decimal(0)
    """What the attempts since the start cost."""
    window: Window = Window()
    backlog: int = 0
    """Tasks that wait on the pool's queues, in the whole fleet; approximate."""
    oldest_seconds: float = 0.0
    """Age of the oldest of them."""
    arrivals_per_second: float = 0.0
    """Of the whole fleet, mean over 30 s."""


class LeaseReport(Wire):
    """A process's lease of the fleet's limits at one moment."""

    limited: bool = False
    """Whether anything is limited; if not, calls are only counted."""
    valid: bool = False
    """Whether calls may begin under it; an idle process lets it run out."""
    trouble: str = ""
    """Why no lease can be had; empty if all is well."""
    free: dict[str, int] = {}
    """What calls may still take, by resource; nano-dollars for `usd`."""
    reserved: dict[str, int] = {}
    """What calls under way hold."""
    blocked: dict[str, float] = {}
    """Seconds until more of a resource can be had."""
    refused: dict[str, int] = {}
    """Times that a call was sent back for want of a resource, since the start."""
    renewals: int = 0
    hour_usd: Usd = Decimal(0)
    """What the whole fleet has settled in the rolling hour, as heard last."""
    held_usd: Usd = Decimal(0)
    """The same, and what is leased to anybody."""
    cap_usd: Usd | None = None
    alerting: bool = False
    totals: tuple[Total, ...] = ()
    """What the process's calls came to since its start."""


class WorkerReport(Wire):
    """One worker process at one moment."""

    id: str
    """Unique; a restarted process has another."""
    fleet: str
    serves: tuple[str, ...] = ()
    """`flows`, `tools`, `control` and names of tiers."""
    state: Literal["starting", "running", "draining"] = "starting"
    host: str = ""
    pid: int = 0
    version: str = ""
    """Of tierpool."""
    started: datetime
    at: datetime
    """When this was true, by the clock of the process."""
    memory_bytes: int = 0
    """Resident memory of the process."""
    file: dict[str, str] = {}
    """What its fleet file says of all that cannot change while it runs, by place."""
    limits: str = ""
    """ID of the applied limits that it follows; empty: those of its file."""
    refused_limits: str = ""
    """Why it does not follow what was applied last."""
    silent_seconds: float = 0.0
    """For how long the Temporal server has not answered it."""
    pools: tuple[PoolReport, ...] = ()
    lease: LeaseReport | None = None
    """None for a process that makes no calls."""

    def short(self) -> WorkerReport:
        """Leave out what grows with the kinds of calls."""
        if self.lease is None:
            return self
        lease = self.lease.model_copy(update={"totals": ()})
        return self.model_copy(update={"lease": lease})

    @property
    def where(self) -> str:
        """Return `host:pid`."""
        return f"{self.host}:{self.pid}"

    @property
    def stays(self) -> bool:
        """Whether it goes on taking calls."""
        return self.state != "draining"

    @property
    def calls(self) -> int:
        """Calls that have ended since the start, of all pools."""
        return sum(pool.calls for pool in self.pools)

    @property
    def busy(self) -> int:
        """Calls under way."""
        return sum(pool.busy for pool in self.pools)
