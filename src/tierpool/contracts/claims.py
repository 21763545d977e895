"""Payloads between workflows that call limited roles and the fleet's claims.

A claim is permission for one attempt of a role; a hold is a claim on a WIP
limit that lasts while an item sits in a state. What is asked for together is
granted together or not at all. Everything may be sent twice.
"""

from __future__ import annotations

from tierpool.contracts.ledger import Cap
from tierpool.contracts.wire import Wire

__all__ = [
    "CLAIMS_QUERY",
    "CLAIM_ASK_SIGNAL",
    "CLAIM_GRANT_SIGNAL",
    "CLAIM_LIMITS_SIGNAL",
    "CLAIM_RELEASE_SIGNAL",
    "DEAD_GRACE",
    "ClaimAsk",
    "ClaimGrant",
    "ClaimLimits",
    "ClaimRelease",
    "ClaimsOpened",
    "ClaimsState",
    "HeldClaim",
    "Holder",
    "HoldersGone",
    "HoldersRequest",
    "ResourceUse",
    "WaitingClaim",
    "claims_id",
    "role_of",
    "wip_of",
]

CLAIMS_QUERY = "claims"
CLAIM_ASK_SIGNAL = "ask"
CLAIM_RELEASE_SIGNAL = "release"
CLAIM_LIMITS_SIGNAL = "limits"
CLAIM_GRANT_SIGNAL = "tierpool_claim"
"""Sent to the run that asked."""

DEAD_GRACE = 8.0
"""Seconds after the end of a workflow in which its call may still be under way:
the heartbeat timeout of an attempt, and a little."""


def claims_id(fleet: str) -> str:
    """Return the workflow ID of a fleet's claims."""
    return f"{fleet}-claims"


def role_of(role: str) -> str:
    """Return the resource of a role's instances."""
    return f"role:{role}"


def wip_of(limit: str) -> str:
    """Return the resource of a WIP limit."""
    return f"wip:{limit}"


class ClaimLimits(Wire):
    """Argument of the signal `limits`: every limit that claims have to keep."""

    caps: dict[str, tuple[Cap, ...]] = {}
    """By resource; all others are free."""
    grace: float = DEAD_GRACE
    """Seconds after which the call of a dead holder must be over."""
    generation: int = 0
    """Of what was applied; 0: of a file. The highest counts, of equal ones the last."""


class ClaimAsk(Wire):
    """Argument of the signal `ask`: what a run needs before it can go on."""

    workflow: str
    run: str
    first: str = ""
    """First run of the execution: it owns the holds, over continue-as-new."""
    number: int
    """Counts the asks of a run."""
    id: str = ""
    """`role/ITEM-ID`; empty if only a hold is asked for."""
    needs: dict[str, int] = {}
    """Amounts by resource, for the call."""
    hold: str = ""
    """`limit/ITEM-ID` of the hold that is asked for."""
    holds: tuple[str, ...] = ()
    """Holds that the execution has: that is a fact, not a question."""
    calls: tuple[int, ...] = ()
    """Numbers of the run's claims that it has not released."""
    priority: int = 3


class ClaimRelease(Wire):
    """Argument of the signal `release`: what a run gives back, or needs no more."""

    run: str
    first: str = ""
    number: int = 0
    """Of the ask; 0: only holds are given back."""
    holds: tuple[str, ...] = ()
    used: dict[str, int] = {}
    """What a call really used of what is counted over time, where that is known."""


class ClaimGrant(Wire):
    """Argument of the signal to the run that asked: all of it is granted."""

    number: int


class HeldClaim(Wire):
    """Something that was granted and has not come back."""

    id: str
    workflow: str
    run: str
    first: str = ""
    number: int = 0
    """Of the ask; 0 for a hold."""
    needs: dict[str, int] = {}
    since: float = 0.0
    """Seconds since 1970."""
    heard: float = 0.0
    """When its holder was known to live."""
    dead_at: float | None = None
    """The holder has ended; from this time on its call must be over, too."""

    @property
    def key(self) -> str:
        """Name it among all that is held."""
        return f"{self.run} {self.number}" if self.number else f"{self.first} {self.id}"


class WaitingClaim(Wire):
    """An ask that is not granted yet."""

    ask: ClaimAsk
    arrival: int
    """Counts the asks that came."""
    since: float = 0.0
    heard: float = 0.0
    """When its run was known to live."""

    @property
    def key(self) -> str:
        """Name it among all that wait."""
        return f"{self.ask.run} {self.ask.number}"

    @property
    def order(self) -> tuple[int, int]:
        """Sort by priority, then by arrival."""
        return self.ask.priority, self.arrival


class ResourceUse(Wire):
    """How much of a resource is in use."""

    used: int = 0
    cap: int | None = None
    waiting: int = 0


class ClaimsState(Wire):
    """All claims: what the next run goes on from, and what people see."""

    fleet: str = ""
    limits: ClaimLimits = ClaimLimits()
    held: tuple[HeldClaim, ...] = ()
    waiting: tuple[WaitingClaim, ...] = ()
    """In the order in which they are served."""
    booked: dict[str, tuple[tuple[tuple[int, int], ...], ...]] = {}
    """By resource and cap: bucket, amount."""
    arrivals: int = 0
    closed_until: float = 0.0
    """Nothing is granted before; seconds since 1970."""
    closed_why: str = ""
    resources: dict[str, ResourceUse] = {}
    """For people; worked out for each answer."""


class ClaimsOpened(Wire):
    """Whether there are claims to ask."""

    ended: bool = False
    """Somebody has ended them: nothing is granted until they are recovered."""


class Holder(Wire):
    """A run that holds something or waits."""

    workflow: str
    run: str
    first: str = ""


class HoldersRequest(Wire):
    """Holders that nothing was heard of for a while."""

    holders: tuple[Holder, ...] = ()


class HoldersGone(Wire):
    """Those of the holders that have ended; what is not known lives."""

    runs: tuple[str, ...] = ()
    """Runs that are over, also if the workflow goes on in another run."""
    firsts: tuple[str, ...] = ()
    """First runs of executions that have ended for good."""
