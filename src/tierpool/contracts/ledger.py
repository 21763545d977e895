"""Payloads between worker processes and the fleet's ledger.

Every number of a lessee is a running total, so that a renewal that is lost, or
comes twice, or late, changes nothing. Amounts are integers: nano-dollars,
requests, tokens, calls.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from tierpool.contracts.wire import Usage, Usd, Wire

__all__ = [
    "CALLS",
    "LEDGER_QUERY",
    "NANO",
    "RENEW_UPDATE",
    "USD",
    "Alert",
    "Bundle",
    "Cap",
    "Counter",
    "FleetLimits",
    "HourTotals",
    "LedgerState",
    "LesseeState",
    "Renewal",
    "RenewalAnswer",
    "Shortage",
    "Total",
    "ledger_id",
    "requests_of",
    "tokens_of",
]

LEDGER_QUERY = "ledger"
RENEW_UPDATE = "renew"

USD = "usd"
"""Resource: nano-dollars."""
CALLS = "calls"
"""Resource: calls in flight."""
NANO = 1_000_000_000
"""Nano-dollars of a dollar."""


def requests_of(what: str) -> str:
    """Return the resource of requests to a task queue's model, or of a role."""
    return f"requests:{what}"


def tokens_of(what: str) -> str:
    """Return the resource of tokens of a task queue's model, or of a role."""
    return f"tokens:{what}"


def ledger_id(fleet: str) -> str:
    """Return the workflow ID of a fleet's ledger."""
    return f"{fleet}-ledger"


class Cap(Wire):
    """One bound of a resource; a resource may have several."""

    amount: int
    seconds: float = 0.0
    """Any window of so many seconds; 0: at any moment, what is held counts."""
    bucket: float = 1.0
    """Seconds by which the window is counted: a whole bucket leaves it at once."""
    paces: bool = False
    """Whether an amount above it passes all the same, into an empty window."""


class FleetLimits(Wire):
    """Every fleet-wide limit of a fleet file, or of what was applied."""

    caps: dict[str, tuple[Cap, ...]] = {}
    """By resource."""
    alert_usd: Usd | None = None
    """Cost of an hour at which an alert is raised."""
    grace: float = 315.0
    """Seconds that a call may take at most, after which it must be over."""
    generation: int = 0
    """Of what was applied; 0: of a file. The highest counts."""


class Counter(Wire):
    """What a lessee says of one resource: totals since its start."""

    settled: int = 0
    """Used up, as far as it is known."""
    returned: int = 0
    """Given back unused."""
    reserved: int = 0
    """Held for calls under way, now."""
    used: tuple[tuple[int, int, int], ...] = ()
    """What was settled since the last answered renewal: number of the renewal that
    told of it first, milliseconds ago, amount (negative: a correction)."""


class Bundle(Wire):
    """What calls of one kind need together: all of it is granted, or nothing.

    Amounts count what the lessee holds free already.
    """

    queue: str = ""
    """Task queue of a model; empty for tools."""
    needs: dict[str, int] = {}
    """By resource: the least that would be of use, which is the smallest call."""
    wants: dict[str, int] = {}
    """What could be used until the next renewals."""


class Shortage(Wire):
    """Why a bundle was not granted."""

    resource: str
    retry_after: float
    """Seconds until asking again may help."""
    cap: int | None = None
    """Where more is needed than can ever be granted: the most that can."""


class Total(Wire):
    """What calls of one kind came to."""

    flow: str = ""
    """Type of the workflow."""
    role: str = ""
    tier: str = ""
    model: str = ""
    calls: int = 0
    unknown: int = 0
    """Those whose cost is not known: they are charged their reservation."""
    unbilled: int = 0
    """Those that the provider turned away."""
    denied: int = 0
    """Times that a call was sent back for want of money, rate or concurrency."""
    reserved_usd: Usd = Decimal(0)
    settled_usd: Usd = Decimal(0)
    top_usd: Usd = Decimal(0)
    """What the same tokens would cost on the highest tier."""
    usage: Usage = Usage()


class Renewal(Wire):
    """Argument of the update `renew`: what a process used, and what it could use."""

    lessee: str
    """Unique; a restarted process has another."""
    number: int
    """Grows with each renewal of a lessee."""
    where: str = ""
    """`host:pid`, for people."""
    period: float = 1.0
    """Seconds until its next renewal, as it means to renew."""
    counters: dict[str, Counter] = {}
    asks: tuple[Bundle, ...] = ()
    limits: FleetLimits | None = None
    """What its file says, or what was applied; when it changes, and when asked for."""
    closing: bool = False
    """Nothing more will come of it: what it did not settle, it did not use."""
    batch: int = 0
    """Number of `totals`; they are sent until the answer has named it."""
    totals: tuple[Total, ...] = ()
    """What ended since the batch before."""


class RenewalAnswer(Wire):
    """What a lessee holds from now on."""

    granted: dict[str, int] = {}
    """Totals since the lessee's start."""
    short: dict[str, Shortage] = {}
    """By queue: bundles that were not granted."""
    most: dict[str, int] = {}
    """What it may keep besides what its calls hold, because others wait for it."""
    capped: tuple[str, ...] = ()
    """Resources that are limited; all others are free."""
    valid: float = 0.0
    """Seconds from the sending of the renewal on."""
    period: float = 1.0
    """Seconds after which the next renewal should come."""
    lessees: int = 0
    """How many hold a valid lease."""
    batch: int = 0
    """Last batch of totals that is booked."""
    send_limits: bool = False
    """Whether the limits have to be sent again."""
    unknown: bool = False
    """Whether the lessee is not known any more: it begins anew, with another ID."""
    closed: str = ""
    """Why nothing is leased at all."""
    closed_for: float = 0.0
    """Seconds, where that is known."""
    hour_usd: Usd = Decimal(0)
    """Settled in the rolling hour."""
    held_usd: Usd = Decimal(0)
    """Settled, and leased to anybody."""
    cap_usd: Usd | None = None
    alerting: bool = False
    """Whether the cost of the hour is above the alert threshold."""


class LesseeState(Wire):
    """What the ledger knows of a lessee."""

    where: str = ""
    number: int = 0
    granted: dict[str, int] = {}
    settled: dict[str, int] = {}
    returned: dict[str, int] = {}
    reserved: dict[str, int] = {}
    waits: dict[str, int] = {}
    """What it needed last and did not get."""
    limits: str = ""
    """Key of its limits."""
    batch: int = 0
    seen: float = 0.0
    """When it renewed last; seconds since 1970, by the server's clock."""
    valid_until: float = 0.0


class Alert(Wire):
    """The alert threshold was crossed."""

    id: str
    """The same in every attempt to tell of it."""
    fleet: str
    at: datetime
    hour_usd: Usd
    threshold_usd: Usd
    cap_usd: Usd | None = None


class HourTotals(Wire):
    """What was booked in one hour."""

    hour: datetime
    """Its beginning, UTC."""
    totals: tuple[Total, ...] = ()


class LedgerState(Wire):
    """The whole ledger: what its next run goes on from, and what people see."""

    fleet: str = ""
    limits: dict[str, FleetLimits] = {}
    """By key; those that living lessees sent, or the last ones."""
    effective: FleetLimits = FleetLimits()
    """What counts now."""
    lessees: dict[str, LesseeState] = {}
    gone: dict[str, float] = {}
    """Lessees that were closed lately, and when: what comes late of them is void."""
    booked: dict[str, tuple[tuple[tuple[int, int], ...], ...]] = {}
    """By resource and cap: bucket, amount."""
    hours: tuple[HourTotals, ...] = ()
    alerting: bool = False
    alerts: tuple[Alert, ...] = ()
    """The last ones."""
    untold: tuple[Alert, ...] = ()
    """Those that have to be told of still."""
    renewals: int = 0
    closed_until: float = 0.0
    """Nothing is leased before; seconds since 1970."""
    closed_why: str = ""
