"""What one process may do under its lease, and what it asks of the ledger; no I/O."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from tierpool.contracts.ledger import (
    CALLS,
    USD,
    FleetLimits,
    Renewal,
    RenewalAnswer,
)
from tierpool.leases.account import Account, Needs
from tierpool.leases.needs import Habits
from tierpool.leases.tally import Tally

__all__ = ["LEASE", "Lease", "called"]

LEASE = ""
"""Stands for the lease itself, where that is what a call lacks."""

_IDLE_SECONDS = 3.0
"""Without a call for so long, what is free is given back."""
_METER_PERIOD = 10.0
"""Between renewals where nothing is limited: they only count."""
_ASK_AGAIN = 10.0
"""After so long an exhausted limit is looked at again, at most."""
_HUNGRY_SECONDS = 5.0
_EARLY = 0.2
"""Of a period: so soon may a renewal come again when what is free runs out."""
_AHEAD, _AHEAD_SECONDS = 3.0, 3.0
"""A lease is to last for so many calls, and for so long."""


@dataclass
class Lease:
    """One process's lease; times are seconds of the process's clock."""

    limits: FleetLimits
    """What this process's file says, or what was applied."""
    habits: Mapping[str, Habits]
    account: Account = field(default_factory=Account)
    tally: Tally = field(default_factory=Tally)
    waiting: list[Needs] = field(default_factory=list)
    """What calls need that wait for a renewal."""
    blocked: dict[str, float] = field(default_factory=dict)
    """Until when asking for more of a resource is of no use."""
    never: dict[str, int] = field(default_factory=dict)
    """Where more was needed than the whole cap: the cap."""
    last: RenewalAnswer = field(default_factory=RenewalAnswer)
    send_limits: bool = True
    sent_at: float = -math.inf
    called_at: float = -math.inf
    """When a call began or ended last."""
    changed: bool = False
    """Whether the ledger does not know yet what has happened."""
    _hungry: dict[str, float] = field(default_factory=dict)
    """Queues whose calls would begin if they could, and since when that is known."""

    def __post_init__(self) -> None:
        self.account.capped = frozenset(self.limits.caps)

    @property
    def limited(self) -> bool:
        """Whether anything is limited, so that a lease is needed."""
        return bool(self.account.capped)

    def valid(self, now: float) -> bool:
        """Tell whether calls may begin under it."""
        return now < self.account.valid_until

    def follow(self, limits: FleetLimits) -> None:
        """Obey other limits from now on."""
        self.limits, self.send_limits, self.changed = limits, True, True
        self.account.capped = frozenset(limits.caps)
        self.blocked.clear()
        self.never.clear()

    def short_of(self, needs: Needs, now: float) -> list[str]:
        """Name what a call lacks; nothing: it may begin."""
        if not any(name in self.account.capped for name in needs):
            return []
        if not self.valid(now):
            return [LEASE]
        return self.account.short_of(needs)

    def covers(self, queue: str, coming: int, now: float) -> bool:
        """Tell whether one more call of a queue may come from the server.

        While nothing is known to be short, one may come without a lease, and
        asks for it then. A queue that may not is asked for with each renewal.

        Args:
            queue: Task queue of a model; empty for tools.
            coming: Calls that may come already.
            now: The time.
        """
        usual = self._usual(queue)
        if not usual:
            return True
        if self.valid(now) and all(
            self.account.free(name) >= amount * (coming + 1)
            for name, amount in usual.items()
        ):
            return True
        if queue in self._hungry or any(self.blocked.get(n, 0.0) > now for n in usual):
            self.hungry(queue, now)
            return False
        return coming == 0

    def hungry(self, queue: str, now: float) -> None:
        """Note that calls of a queue would begin if they could."""
        self._hungry[queue] = now

    def blocked_by(self, queue: str, now: float) -> str:
        """Name the resource that keeps calls of a queue from beginning, if any does."""
        for name in self._usual(queue):
            if self.blocked.get(name, 0.0) > now:
                return name
        return LEASE

    def due(self, now: float, period: float) -> float:
        """Return the seconds until the next renewal; infinite: when something happens.

        Args:
            now: The time.
            period: Seconds between renewals.
        """
        if not self.limited:
            waits = self.changed or self.tally.waiting
            meter = max(period, _METER_PERIOD)
            return max(0.0, self.sent_at + meter - now) if waits else math.inf
        if self._urgent(now, period):
            return 0.0
        soon = max(0.0, self.sent_at + period - now)
        if self.changed or self.tally.waiting or self._active(now):
            return soon
        if self._holds_free():
            return soon  # to give it back
        return max(soon, self._opens(now)) if self._hungry else math.inf

    def renewal(self, lessee: str, where: str, now: float, period: float) -> Renewal:
        """Count up what is told and asked with the next renewal."""
        account = self.account
        if not self.valid(now):  # the ledger may have given it to others
            account.give_back(account.capped, {})
        for queue in [
            q for q, at in self._hungry.items() if now - at > _HUNGRY_SECONDS
        ]:
            del self._hungry[queue]
        if self._active(now) or self.waiting or self._hungry:
            # what was not enough for a call is of more use elsewhere
            shut = [n for n in account.capped if self.blocked.get(n, 0.0) > now]
            account.give_back(shut, {})
        else:
            account.give_back(account.capped, {})
        needs, wants = self._wishes(now)
        return self._renewal(lessee, where, now, period, needs, wants)

    def closing(self, lessee: str, now: float) -> Renewal:
        """Count up for the last time; calls under way are charged their reservation."""
        account = self.account
        for name, holding in account.holdings.items():
            if name == USD:
                holding.settled += holding.reserved
            holding.reserved = 0
        last = self._renewal(lessee, "", now, 0.0, {}, {})
        return last.model_copy(update={"closing": True})

    def _renewal(
        self,
        lessee: str,
        where: str,
        now: float,
        period: float,
        needs: Needs,
        wants: Needs,
    ) -> Renewal:
        account = self.account
        account.number += 1
        batch, totals = self.tally.batch()
        self.changed, self.sent_at = False, now
        return Renewal(
            lessee=lessee,
            number=account.number,
            where=where,
            period=period,
            counters=account.counters(now, needs, wants),
            limits=self.limits if self.send_limits else None,
            batch=batch,
            totals=totals,
        )

    def answered(self, sent: Renewal, answer: RenewalAnswer, now: float) -> None:
        """Take the ledger's answer to a renewal."""
        self.account.answered(sent.number, answer)
        self.account.shrink(answer.most)
        self.account.valid_until = self.sent_at + answer.valid
        self.tally.booked(answer.batch)
        self.send_limits = answer.send_limits
        self.never = dict(answer.never)
        self.blocked = {n: now + s for n, s in answer.retry_after.items()}
        self.last = answer
        for queue in list(self._hungry):
            if all(self.account.free(n) >= a for n, a in self._usual(queue).items()):
                del self._hungry[queue]
                self.called_at = now  # what it was given is not given back at once

    def failed(self) -> None:
        """Note that a renewal was not answered: all of it is told again."""
        self.changed = True

    def begin_anew(self) -> None:
        """Be another lessee: the ledger does not know this one any more.

        What calls under way hold stays charged to the one before.
        """
        capped = self.account.capped
        self.account = Account(capped=capped)
        self.tally.begin_anew()
        self.send_limits, self.changed = True, True
        self.sent_at = -math.inf

    def _usual(self, queue: str) -> dict[str, int]:
        habits = self.habits.get(queue)
        usual = habits.usual() if habits else {CALLS: 1}
        return {n: a for n, a in usual.items() if n in self.account.capped and a}

    def _active(self, now: float) -> bool:
        """Tell whether calls are under way, or were a moment ago."""
        account = self.account
        if any(account.reserved(name) for name in (USD, CALLS)):
            return True
        return now - self.called_at < _IDLE_SECONDS

    def _holds_free(self) -> bool:
        return any(self.account.free(name) > 0 for name in self.account.capped)

    def _opens(self, now: float) -> float:
        """Return the seconds until asking may be of use, a while at most."""
        left = [at - now for at in self.blocked.values() if at > now]
        return min(min(left, default=0.0), _ASK_AGAIN)

    def _urgent(self, now: float, period: float) -> bool:
        """Tell whether a renewal now lets a call begin that waits, or is to come."""
        for needs in self.waiting:
            short = self.short_of(needs, now)
            if short and not any(self.blocked.get(n, 0.0) > now for n in short):
                return True
        if now < self.sent_at + _EARLY * period or not self.valid(now):
            return False
        _, wants = self._wishes(now)
        return any(
            self.blocked.get(name, 0.0) <= now and self.account.free(name) < more
            for name, more in wants.items()
        )

    def _wishes(self, now: float) -> tuple[dict[str, int], dict[str, int]]:
        """Return the least that would be of use, and what could be used soon."""
        least: dict[str, int] = {}
        most: dict[str, int] = {}
        for needs in self.waiting:
            for name, amount in needs.items():
                least[name] = min(least.get(name, amount), amount)
                most[name] = most.get(name, 0) + amount
        for queue in dict.fromkeys([*self.habits, *self._hungry]):
            habits = self.habits.get(queue)
            starts = habits.starts_per_second(now) if habits else 0.0
            if starts or queue in self._hungry:
                calls = max(_AHEAD, _AHEAD_SECONDS * starts)
                for name, amount in self._usual(queue).items():
                    least[name] = min(least.get(name, amount), amount)
                    most[name] = most.get(name, 0) + math.ceil(amount * calls)
        free = {name: self.account.free(name) for name in most}
        capped = self.account.capped
        needs = {n: max(0, a - free[n]) for n, a in least.items() if n in capped}
        wants = {n: max(0, a - free[n]) for n, a in most.items() if n in capped}
        return needs, {n: a for n, a in wants.items() if a}


def called(resource: str) -> str:
    """Name a resource for people."""
    if resource == USD:
        return "max_cost_per_hour_usd"
    if resource == CALLS:
        return "max_concurrent"
    what, _, queue = resource.partition(":")
    return f"{what}_per_minute of {queue}"
