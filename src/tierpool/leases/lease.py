"""What one process may do under its lease, and what it asks of the ledger; no I/O."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from tierpool.contracts.ledger import (
    CALLS,
    USD,
    Bundle,
    FleetLimits,
    Renewal,
    RenewalAnswer,
)
from tierpool.leases.account import Account, Needs
from tierpool.leases.needs import Habits
from tierpool.leases.tally import Tally

__all__ = ["LEASE", "Blocked", "Lease"]

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
_AHEAD, _AHEAD_SECONDS = 4.0, 3.0
"""A lease is to last for so many calls, and for so long."""


@dataclass(frozen=True, slots=True)
class Blocked:
    """Why calls of a queue cannot begin."""

    resource: str
    until: float
    """When asking again may help."""
    cap: int | None = None
    """Where the smallest call needs more than can ever be granted: the most."""


@dataclass
class Lease:
    """One process's lease; times are seconds of the process's clock."""

    limits: FleetLimits
    """What this process's file says, or what was applied."""
    habits: Mapping[str, Habits]
    account: Account = field(default_factory=Account)
    tally: Tally = field(default_factory=Tally)
    waiting: list[tuple[str, Needs]] = field(default_factory=list)
    """Queues and needs of calls that wait for a renewal."""
    blocked: dict[str, Blocked] = field(default_factory=dict)
    """Queues of which not even the smallest call can begin."""
    last: RenewalAnswer = field(default_factory=RenewalAnswer)
    send_limits: bool = True
    sent_at: float = -math.inf
    called_at: float = -math.inf
    """When a call began or ended last."""
    changed: bool = False
    """Whether the ledger does not know yet what has happened."""
    _hungry: dict[str, float] = field(default_factory=dict)
    """Queues whose calls would begin if they could, and since when that is known."""
    _unusual: set[str] = field(default_factory=set)
    """Queues whose usual call needs more than can ever be granted."""
    _scarce: set[str] = field(default_factory=set)
    """Resources of which the last answer granted less than was wanted."""

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

    def short_of(self, needs: Needs, now: float) -> list[str]:
        """Name what a call lacks; nothing: it may begin."""
        if not any(name in self.account.capped for name in needs):
            return []
        if not self.valid(now):
            return [LEASE]
        return self.account.short_of(needs)

    def covers(self, queue: str, coming: int, now: float) -> bool:
        """Tell whether one more call of a queue may come from the server.

        To an idle process one may come without a lease, and asks for it then. Of
        a process at work none does: the queue is asked for with each renewal.

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
        if coming:
            return False
        idle = now - self.called_at >= _IDLE_SECONDS and not self.waiting
        open_to_ask = idle and queue not in self._hungry
        if (open_to_ask or queue in self._unusual) and not self.blocked_by(queue, now):
            return True
        self.hungry(queue, now)
        return False

    def hungry(self, queue: str, now: float) -> None:
        """Note that calls of a queue would begin if they could."""
        self._hungry[queue] = now

    def blocked_by(self, queue: str, now: float) -> Blocked | None:
        """Return what keeps all calls of a queue from beginning."""
        known = self.blocked.get(queue)
        return known if known is not None and known.until > now else None

    def hinders(self, queue: str, needs: Needs, now: float) -> Blocked | None:
        """Return what keeps this call of a queue from beginning.

        Tools share a queue with calls that need more, and are not held back by it.
        """
        known = self.blocked_by(queue, now)
        if known is None or self.account.free(known.resource) >= needs.get(
            known.resource, 0
        ):
            return None
        return known

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
        asks = self._asks(now)
        keep: dict[str, int] = {}
        for bundle in asks:
            if not self.blocked_by(bundle.queue, now):
                for name, amount in bundle.wants.items():
                    keep[name] = keep.get(name, 0) + amount
        # what is not enough for a call here is of more use elsewhere
        account.give_back(account.capped, keep)
        return self._renewal(lessee, where, now, period, asks)

    def closing(self, lessee: str, now: float) -> Renewal:
        """Count up for the last time; calls under way are charged their reservation."""
        account = self.account
        for name, holding in account.holdings.items():
            if name == USD:
                holding.settled += holding.reserved
            holding.reserved = 0
        last = self._renewal(lessee, "", now, 0.0, [])
        return last.model_copy(update={"closing": True})

    def _renewal(
        self, lessee: str, where: str, now: float, period: float, asks: list[Bundle]
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
            counters=account.counters(now),
            asks=tuple(asks),
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
        self.blocked = {
            queue: Blocked(short.resource, now + short.retry_after, short.cap)
            for queue, short in answer.short.items()
        }
        self.last = answer
        self._judge(sent, answer)
        for queue in list(self._hungry):
            if all(self.account.free(n) >= a for n, a in self._usual(queue).items()):
                del self._hungry[queue]
                self.called_at = now  # what it was given is not given back at once

    def _judge(self, sent: Renewal, answer: RenewalAnswer) -> None:
        """See where asking early, or asking for usual calls at all, is of no use."""
        waiting = {queue for queue, _ in self.waiting}
        self._scarce = {
            name
            for bundle in sent.asks
            for name, wanted in bundle.wants.items()
            if self.account.free(name) < wanted
        }
        self._unusual -= {bundle.queue for bundle in sent.asks}
        for queue, short in answer.short.items():
            if short.cap is not None and queue not in waiting:
                # one may come all the same: it asks for what itself needs
                self._unusual.add(queue)
                self._hungry.pop(queue, None)
                del self.blocked[queue]

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
        left = [one.until - now for one in self.blocked.values() if one.until > now]
        return min(min(left, default=0.0), _ASK_AGAIN)

    def _urgent(self, now: float, period: float) -> bool:
        """Tell whether a renewal now lets a call begin that waits, or is to come."""
        for queue, needs in self.waiting:
            if self.short_of(needs, now) and not self.hinders(queue, needs, now):
                return True
        if now < self.sent_at + _EARLY * period or not self.valid(now):
            return False
        return any(
            2 * self.account.free(name) < wanted
            for bundle in self._asks(now)
            if not self.blocked_by(bundle.queue, now)
            for name, wanted in bundle.wants.items()
            if name not in self._scarce
        )

    def _asks(self, now: float) -> list[Bundle]:
        """Say for each queue what its calls need, and what they could use soon."""
        queues = dict.fromkeys(
            [*self.habits, *self._hungry, *(q for q, _ in self.waiting)]
        )
        return [ask for queue in queues if (ask := self._ask(queue, now)) is not None]

    def _ask(self, queue: str, now: float) -> Bundle | None:
        waiting = [needs for name, needs in self.waiting if name == queue]
        habits = self.habits.get(queue)
        starts = habits.starts_per_second(now) if habits else 0.0
        if not (waiting or starts or queue in self._hungry):
            return None
        least, most = self._usual(queue), dict[str, int]()
        if starts or queue in self._hungry:
            calls = max(_AHEAD, _AHEAD_SECONDS * starts)
            most = {name: math.ceil(amount * calls) for name, amount in least.items()}
        if waiting:
            smallest = min(waiting, key=lambda needs: needs.get(USD, 0))
            least = {
                n: a for n, a in smallest.items() if a and n in self.account.capped
            }
        for needs in waiting:
            for name in least:
                most[name] = most.get(name, 0) + needs.get(name, 0)
        return Bundle(queue=queue, needs=least, wants=most) if least else None
