"""The fleet's ledger: what is leased to whom, what was used, what is free; pure.

A lessee's record is a set of running totals: the ledger owns `granted`, the
lessee owns `settled` and `returned`. What was granted and is neither counts as
used. A lessee that dies needs no step: its record counts until its lease and
its calls must be over, and then for one more window.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field

from tierpool.budget.resources import dollars
from tierpool.budget.totals import Hours
from tierpool.budget.windows import Windows, stricter
from tierpool.contracts.ledger import (
    CALLS,
    USD,
    Bundle,
    Cap,
    Counter,
    FleetLimits,
    LedgerState,
    LesseeState,
    Renewal,
    RenewalAnswer,
    Shortage,
)

__all__ = ["Ledger"]

_WITHOUT_LIMIT = 1 << 62
_PERIOD = 1.0
_RENEWALS_PER_SECOND = 60.0
"""Above that the periods grow: each renewal is an Update of one workflow."""
_VALID = 10.0
_VALID_PERIODS = 6.0
"""A lease outlives a restart of the server, and some renewals that were lost."""
_REMEMBERED = 7200.0
"""Seconds for which a closed lessee is known: what comes late of it is void."""
_HOUR = Cap(amount=_WITHOUT_LIMIT, seconds=3600.0, bucket=60.0)
_SOON = 1.0
_ON_THE_WAY = 1.0
"""Seconds by which corrections leave a window before what they correct: a renewal
may have taken longer than another."""
_TURN_SECONDS = 10.0
_TURN_SHARE = 6
"""For so long, or such a part of the window, one of those who wait comes first."""


@dataclass(eq=False)
class _Lessee:
    """A worker process, or what is left of it."""

    where: str = ""
    number: int = 0
    granted: dict[str, int] = field(default_factory=dict)
    settled: dict[str, int] = field(default_factory=dict)
    returned: dict[str, int] = field(default_factory=dict)
    reserved: dict[str, int] = field(default_factory=dict)
    waits: dict[str, int] = field(default_factory=dict)
    limits: str = ""
    batch: int = 0
    seen: float = 0.0
    valid_until: float = 0.0

    def held(self, resource: str) -> int:
        """Return what it has been granted and may still use."""
        granted = self.granted.get(resource, 0)
        gone = self.settled.get(resource, 0) + self.returned.get(resource, 0)
        return max(0, granted - gone)

    def free(self, resource: str) -> int:
        """Return what its calls do not hold; below 0 after a correction."""
        granted = self.granted.get(resource, 0) - self.settled.get(resource, 0)
        held = self.returned.get(resource, 0) + self.reserved.get(resource, 0)
        return granted - held

    def dies(self, resource: str, grace: float) -> float:
        """Return when it can use nothing more of a resource, if it is not heard again.

        Money and concurrency are held by calls that were begun in time; requests
        and tokens are used up as a call begins.
        """
        return self.valid_until + (grace if resource in (USD, CALLS) else 0.0)

    def state(self) -> LesseeState:
        return LesseeState(**vars(self))


class Ledger:
    """Every lease of a fleet."""

    def __init__(self, state: LedgerState) -> None:
        """Go on from a state."""
        self.fleet = state.fleet
        self.limits = dict(state.limits)
        self.effective = state.effective
        self.lessees = {
            name: _Lessee(**one.model_dump()) for name, one in state.lessees.items()
        }
        self.gone = dict(state.gone)
        self.windows = Windows(_caps(self.effective), state.booked)
        self.hours = Hours(state.hours)
        self.renewals = state.renewals
        self.closed_until, self.closed_why = state.closed_until, state.closed_why

    def renew(self, request: Renewal, now: float) -> RenewalAnswer:
        """Take a lessee's numbers and give it what it can have.

        Args:
            request: May be lost, repeated and late.
            now: Seconds since 1970.
        """
        self.renewals += 1
        self.bury(now)
        lessee = self.lessees.get(request.lessee)
        if lessee is None:
            if request.number > 1 or request.lessee in self.gone:
                return RenewalAnswer(unknown=True)
            lessee = self.lessees[request.lessee] = _Lessee(where=request.where)
        if request.number > lessee.number:
            self._take(lessee, request, now)
        if request.closing:
            self._close(request.lessee, now)
            return RenewalAnswer(batch=lessee.batch)
        return self._answer(lessee, request, now)

    def bury(self, now: float) -> None:
        """Let those go whose last calls must be over: what they held was used."""
        grace = self.effective.grace
        for name, lessee in list(self.lessees.items()):
            for resource in list(lessee.granted):
                dies = lessee.dies(resource, grace)
                if now > dies and (held := lessee.held(resource)):
                    self.windows.book(resource, dies, held)
                    lessee.returned[resource] = lessee.returned.get(resource, 0) + held
            if now > lessee.valid_until + grace:
                del self.lessees[name]
                self.gone[name] = now
        for name in [n for n, at in self.gone.items() if now - at > _REMEMBERED]:
            del self.gone[name]

    def held(self, resource: str) -> int:
        """Return what all lessees together may still use."""
        return sum(lessee.held(resource) for lessee in self.lessees.values())

    def used(self, resource: str, now: float) -> int:
        """Return what was settled within the resource's longest window."""
        return self.windows.used(resource, now)

    def alive(self, now: float) -> dict[str, _Lessee]:
        """Return those whose lease is valid."""
        return {n: one for n, one in self.lessees.items() if one.valid_until >= now}

    def state(self) -> LedgerState:
        """Return all that a ledger needs to go on from here."""
        return LedgerState(
            fleet=self.fleet,
            limits=self.limits,
            effective=self.effective,
            lessees={name: one.state() for name, one in self.lessees.items()},
            gone=self.gone,
            booked=self.windows.state(),
            hours=self.hours.state(),
            renewals=self.renewals,
            closed_until=self.closed_until,
            closed_why=self.closed_why,
        )

    def _take(self, lessee: _Lessee, request: Renewal, now: float) -> None:
        """Book what a lessee says that it has done."""
        if request.limits is not None:
            lessee.limits = _key(request.limits)
            self.limits[lessee.limits] = request.limits
        lessee.valid_until = now + self._valid(request, now)
        self._choose_limits(now)  # first: what is not limited is not booked
        for name, counter in request.counters.items():
            self._book(lessee, name, counter, now)
        if request.batch > lessee.batch:
            self.hours.book(now, request.totals)
            lessee.batch = request.batch
        lessee.number, lessee.seen = request.number, now
        lessee.where = request.where

    def _book(self, lessee: _Lessee, name: str, counter: Counter, now: float) -> None:
        rest = counter.settled - lessee.settled.get(name, 0)
        for number, ago, amount in counter.used:
            if number > lessee.number:
                early = _ON_THE_WAY if amount < 0 else 0.0
                self.windows.book(name, now - ago / 1000 - early, amount)
                rest -= amount
        self.windows.book(name, now, max(0, rest))
        # as it says, also after it was buried: then it counts twice for a while
        lessee.settled[name] = counter.settled
        lessee.returned[name] = counter.returned
        lessee.reserved[name] = counter.reserved
        # what was used without a grant (there was no limit, or it cost more) is
        # booked by now: to grant it once more would need room for it twice
        gone = counter.settled + counter.returned
        lessee.granted[name] = max(lessee.granted.get(name, 0), gone)

    def _close(self, name: str, now: float) -> None:
        """End a lease: what it has not settled it did not use."""
        del self.lessees[name]
        self.gone[name] = now

    def _choose_limits(self, now: float) -> None:
        """Let what was applied last count; of files that differ, the stricter one."""
        living = {one.limits for one in self.alive(now).values()}
        known = [self.limits[key] for key in sorted(living) if key in self.limits]
        if not known:
            return
        newest = max(limits.generation for limits in known)
        chosen = [limits for limits in known if limits.generation == newest]
        caps: dict[str, tuple[Cap, ...]] = {}
        for limits in chosen:
            caps = stricter(caps, limits.caps)
        alerts = [one.alert_usd for one in chosen if one.alert_usd is not None]
        effective = FleetLimits(
            caps=caps,
            alert_usd=min(alerts, default=None),
            grace=max(limits.grace for limits in known),
            generation=newest,
        )
        self.limits = {k: v for k, v in self.limits.items() if k in living}
        if effective != self.effective:
            self.effective = effective
            self.windows.change(_caps(effective))

    def _answer(self, lessee: _Lessee, request: Renewal, now: float) -> RenewalAnswer:
        shut = max(0.0, self.closed_until - now)
        spare = self._spare(lessee, now)
        lessee.waits, before = {}, dict(lessee.granted)
        short = {}
        turn = int(now // _TURN_SECONDS) % max(1, len(request.asks))
        for bundle in request.asks[turn:] + request.asks[:turn]:
            shortage = self._shut(bundle, shut)
            shortage = shortage or self._grant(lessee, bundle, spare, now)
            if shortage is not None:
                short[bundle.queue] = shortage
        cap = self.effective.caps.get(USD)
        settled = self.used(USD, now)
        return RenewalAnswer(
            granted=dict(lessee.granted),
            short=short,
            most={
                name: share
                for name, share in self._shares(lessee, now).items()
                if lessee.granted.get(name) == before.get(name)
            },
            capped=tuple(self.effective.caps),
            valid=max(0.0, lessee.valid_until - now),
            period=self._period(now),
            lessees=len(self.alive(now)),
            batch=lessee.batch,
            send_limits=lessee.limits not in self.limits,
            closed=self.closed_why if shut else "",
            closed_for=shut,
            hour_usd=dollars(settled),
            held_usd=dollars(settled + self.held(USD)),
            cap_usd=dollars(cap[0].amount) if cap else None,
        )

    def _shut(self, bundle: Bundle, seconds: float) -> Shortage | None:
        names = [name for name in bundle.needs if name in self.effective.caps]
        if not seconds or not names:
            return None
        return Shortage(resource=names[0], retry_after=seconds)

    def _grant(
        self, lessee: _Lessee, bundle: Bundle, spare: dict[str, int], now: float
    ) -> Shortage | None:
        """Grant all that a bundle needs and what more can be had of it, or nothing.

        Where there is not enough for all who wait, each gets a share; `spare` is to
        be left for those whose turn comes first.
        """
        missing = {
            name: max(0, amount - lessee.free(name))
            for name, amount in bundle.needs.items()
            if name in self.effective.caps
        }
        for name, amount in missing.items():
            held = self.held(name) + spare.get(name, 0)
            if amount and not self.windows.fits(name, now, held, amount):
                most = self.windows.most(name)
                never = bundle.needs[name] > most
                if not never:  # else nobody need leave anything for it
                    lessee.waits[name] = max(amount, lessee.waits.get(name, 0))
                    spare[name] = spare.get(name, 0) + amount
                opens = self.windows.opens(name, now, held, amount)
                if held and self.windows.fits(name, now, 0, amount):
                    opens = min(opens, _SOON)  # others may give it back
                return Shortage(
                    resource=name,
                    retry_after=_SOON if math.isinf(opens) else opens,
                    cap=most if never else None,
                )
        for name, amount in missing.items():
            more = max(amount, bundle.wants.get(name, 0) - lessee.free(name))
            held = self.held(name) + spare.get(name, 0)
            room = self.windows.room(name, now, held) or 0
            given = max(
                amount, min(more, room // (1 + self._others(lessee, name, now)))
            )
            lessee.granted[name] = lessee.granted.get(name, 0) + given
        return None

    def _others(self, lessee: _Lessee, resource: str, now: float) -> int:
        """Count the others who wait for a resource."""
        living = self.alive(now).values()
        return sum(1 for one in living if one is not lessee and resource in one.waits)

    def _spare(self, lessee: _Lessee, now: float) -> dict[str, int]:
        """Say what a lessee has to leave for others who wait.

        Who has not waited comes after all who have; those take turns, so that who
        needs much is not passed by for ever, nor holds up the others for long.
        """
        spare: dict[str, int] = {}
        for name, ahead in self._waiting(now).items():
            if lessee in ahead:
                longest = max(cap.seconds for cap in self.effective.caps[name])
                lasts = max(_TURN_SECONDS, longest / _TURN_SHARE)
                turn = int(now // lasts) % len(ahead)
                ahead = ahead[turn:] + ahead[:turn]
                ahead = ahead[: ahead.index(lessee)]
            spare[name] = sum(one.waits[name] for one in ahead)
        return spare

    def _waiting(self, now: float) -> dict[str, list[_Lessee]]:
        """Return who waits for each limited resource, always in the same order."""
        waiting: dict[str, list[_Lessee]] = {}
        for _, one in sorted(self.alive(now).items()):
            for name in one.waits:
                if name in self.effective.caps:
                    waiting.setdefault(name, []).append(one)
        return waiting

    def _shares(self, lessee: _Lessee, now: float) -> dict[str, int]:
        """Say what a lessee may keep of what others wait for, its calls' part aside.

        Of a window nothing; of a gauge its share. Where there are more users than
        places, some of those who have one give it up in turn.
        """
        shares = {}
        for name, waits in self._waiting(now).items():
            if waits == [lessee]:
                continue
            if any(cap.seconds for cap in self.effective.caps[name]):
                shares[name] = 0
                continue
            living = [one for _, one in sorted(self.alive(now).items())]
            holders = [one for one in living if one.held(name)]
            users = sum(1 for one in living if one in holders or name in one.waits)
            shares[name] = self.windows.most(name) // users
            if not shares[name] and lessee in holders:
                going = min(len(waits), (len(holders) + 1) // 2)
                turn = int(now // _TURN_SECONDS) * going
                place = (holders.index(lessee) - turn) % len(holders)
                shares[name] = int(place >= going)
        return shares

    def _period(self, now: float) -> float:
        return max(_PERIOD, len(self.alive(now)) / _RENEWALS_PER_SECOND)

    def _valid(self, request: Renewal, now: float) -> float:
        period = max(self._period(now), request.period)
        return max(_VALID, _VALID_PERIODS * period)


def _caps(limits: FleetLimits) -> dict[str, tuple[Cap, ...]]:
    """Return the caps, and a meter of money where that has no cap."""
    return {USD: (_HOUR,), **limits.caps}


def _key(limits: FleetLimits) -> str:
    return hashlib.sha256(limits.model_dump_json().encode()).hexdigest()[:16]
