"""Who holds a claim and who is next; pure.

Of what is granted as an amount at any moment (instances of a role, WIP
limits) all that is held counts; of what is granted over time (requests,
tokens) it is counted when it is granted and corrected when it comes back.
"""

from __future__ import annotations

import math
from bisect import insort
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping

from tierpool.budget.windows import Windows
from tierpool.contracts.claims import (
    ClaimAsk,
    ClaimLimits,
    ClaimRelease,
    ClaimsState,
    HeldClaim,
    Holder,
    ResourceUse,
    WaitingClaim,
    wip_of,
)

__all__ = ["ClaimBook"]

_WIP = wip_of("")


class ClaimBook:
    """Claims that are held and asks that wait."""

    def __init__(self, state: ClaimsState) -> None:
        """Go on from a state."""
        self._fleet = state.fleet
        self.closed_until, self.closed_why = state.closed_until, state.closed_why
        self.limits = state.limits
        self._windows = Windows(state.limits.caps, state.booked)
        self._held = {claim.key: claim for claim in state.held}
        self._waiting = sorted(state.waiting, key=_order)
        self._known = {claim.key for claim in self._waiting}
        self._arrivals = state.arrivals
        self._used: Counter[str] = Counter()
        for claim in state.held:
            self._used.update(claim.needs)
        self._opens = math.inf

    @property
    def idle(self) -> bool:
        """Whether nothing is held and nobody waits."""
        return not self._held and not self._waiting

    def state(self) -> ClaimsState:
        """Return everything."""
        return ClaimsState(
            fleet=self._fleet,
            limits=self.limits,
            held=tuple(self._held.values()),
            waiting=tuple(self._waiting),
            booked=self._windows.state(),
            arrivals=self._arrivals,
            closed_until=self.closed_until,
            closed_why=self.closed_why,
        )

    def change(self, limits: ClaimLimits) -> None:
        """Follow other limits, unless they are of an older generation.

        What is held stays held: a lower cap only stops new grants.
        """
        if limits.generation >= self.limits.generation:
            self.limits = limits
            self._windows.change(limits.caps)

    def ask(self, ask: ClaimAsk, now: float) -> WaitingClaim | None:
        """Take an ask; return it if it was granted before: its grant got lost."""
        self._heed(ask, now)
        self._arrivals += 1
        waiting = WaitingClaim(ask=ask, arrival=self._arrivals, since=now, heard=now)
        if waiting.key in self._known:
            return None
        if _call_key(ask.run, ask.number) in self._held:
            return waiting
        if not ask.id and self._has_hold(ask):
            return waiting
        self._known.add(waiting.key)
        insort(self._waiting, waiting, key=_order)
        return None

    def release(self, release: ClaimRelease, now: float) -> None:
        """Take back what is not needed any more; unknown claims change nothing."""
        if release.number:
            key = _call_key(release.run, release.number)
            if key in self._known:
                self._known.discard(key)
                self._waiting = [w for w in self._waiting if w.key != key]
            held = self._free(key)
            if held is not None:
                self._correct(held, release.used, now)
        for hold in release.holds:
            self._free(f"{release.first} {hold}")

    def grant(self, now: float, most: int) -> list[WaitingClaim]:
        """Give what can be given, in order; what was given is held from now on.

        Who has to wait for a slot of a WIP limit, perhaps for days, keeps its
        place for that slot only. All else comes back soon: who lacks nothing but
        that keeps its place for everything that it needs, so it is not starved by
        those that need less.

        Args:
            now: Seconds since 1970.
            most: How many asks may be granted.
        """
        self._opens = math.inf
        if now < self.closed_until:
            self._opens = self.closed_until
            return []
        granted: list[WaitingClaim] = []
        kept: Counter[str] = Counter()
        full: dict[str, int] = {}
        for waiting in self._waiting:
            if len(granted) >= most:
                break
            needs = self._needs(waiting.ask)
            short = [
                r for r, n in needs.items() if not self._fits(r, n, now, kept, full)
            ]
            if not short:
                self._hold(waiting, needs, now)
                granted.append(waiting)
                continue
            lasting = {r: n for r, n in needs.items() if r.startswith(_WIP)}
            blocked = any(resource in lasting for resource in short)
            kept.update(lasting if blocked else needs)
        if granted:
            self._known.difference_update(w.key for w in granted)
            self._waiting = [w for w in self._waiting if w.key in self._known]
        return granted

    def drop(self, waiting: WaitingClaim, now: float) -> None:
        """Undo a grant that found nobody; what it counted over time comes back."""
        ask = waiting.ask
        holds = (ask.hold,) if ask.hold else ()
        back = ClaimRelease(
            run=ask.run,
            first=ask.first,
            number=ask.number,
            holds=holds,
            used=dict.fromkeys(ask.needs, 0),
        )
        self.release(back, now)

    def due(self) -> float:
        """Return when time alone changes something: an opening, or a call is dead."""
        dead = (c.dead_at for c in self._held.values() if c.dead_at is not None)
        return min(self._opens, min(dead, default=math.inf))

    def bury(self, now: float) -> None:
        """Free what dead holders had, as soon as their calls must be over."""
        for key, claim in list(self._held.items()):
            if claim.dead_at is not None and claim.dead_at <= now:
                self._free(key)

    def unheard(self, now: float, after: float, most: int) -> list[Holder]:
        """Return holders and waiters that were not heard of, the oldest first."""
        living = [h for h in self._held.values() if h.dead_at is None]
        old = [(h.heard, _holder(h)) for h in living if h.heard <= now - after]
        old += [
            (w.heard, _holder(w.ask)) for w in self._waiting if w.heard <= now - after
        ]
        old.sort(key=lambda pair: pair[0])
        return list({h.run: h for _, h in old}.values())[:most]

    def examined(
        self,
        asked: Iterable[Holder],
        runs: Collection[str],
        firsts: Collection[str],
        now: float,
    ) -> None:
        """Take what the server says of holders.

        Args:
            asked: Those that it was asked about.
            runs: Runs that are over: their calls are dying, their asks void.
            firsts: Executions that have ended: their holds are free.
            now: Seconds since 1970.
        """
        seen = {holder.run for holder in asked}
        for key, claim in list(self._held.items()):
            if claim.dead_at is not None:
                continue
            if not claim.number and claim.first in firsts:
                self._free(key)
            elif claim.number and claim.run in runs:
                update = {"dead_at": now + self.limits.grace}
                self._held[key] = claim.model_copy(update=update)
            elif claim.run in seen:
                self._held[key] = claim.model_copy(update={"heard": now})
        self._waiting = [
            w.model_copy(update={"heard": now}) if w.ask.run in seen else w
            for w in self._waiting
            if w.ask.run not in runs
        ]
        self._known = {w.key for w in self._waiting}

    def resources(self, now: float) -> dict[str, ResourceUse]:
        """Say how much of each resource is in use."""
        waiting: Counter[str] = Counter()
        for claim in self._waiting:
            waiting.update(list(self._needs(claim.ask)))
        names = dict.fromkeys([*self._windows.resources, *+self._used])
        found = {}
        for name in names:
            limited = name in self._windows
            gauge = not limited or self._is_gauge(name)
            found[name] = ResourceUse(
                used=self._used[name] if gauge else self._windows.used(name, now),
                cap=self._windows.longest(name).amount if limited else None,
                waiting=waiting[name],
            )
        return found

    def _heed(self, ask: ClaimAsk, now: float) -> None:
        """Follow what a run says of itself: its holds, and the calls that are over."""
        for hold in ask.holds:
            claim = _hold_of(ask, hold, now)
            if claim.key not in self._held:
                self._take(claim)
        mine = [
            key
            for key, claim in self._held.items()
            if claim.run == ask.run and 0 < claim.number < ask.number
            and claim.number not in ask.calls
        ]  # fmt: skip
        for key in mine:
            self._free(key)

    def _needs(self, ask: ClaimAsk) -> dict[str, int]:
        """Return what a grant takes; more of a rate than it ever has is all of it."""
        needs = {}
        for resource, amount in ask.needs.items():
            if resource in self._windows and not self._is_gauge(resource):
                amount = min(amount, self._windows.most(resource))
            needs[resource] = amount
        if ask.hold and not self._has_hold(ask):
            needs |= _hold_of(ask, ask.hold, 0).needs
        return needs

    def _fits(
        self,
        resource: str,
        needs: int,
        now: float,
        kept: Mapping[str, int],
        full: dict[str, int],
    ) -> bool:
        """Tell whether an amount is free beside what those further ahead keep."""
        if needs >= full.get(resource, needs + 1):
            return False
        held = self._used[resource] if self._is_gauge(resource) else 0
        held += kept.get(resource, 0)
        if self._windows.fits(resource, now, held, needs):
            return True
        full[resource] = needs
        opens = now + self._windows.opens(resource, now, held, needs)
        self._opens = min(self._opens, opens)
        return False

    def _is_gauge(self, resource: str) -> bool:
        return not any(cap.seconds for cap in self._windows.caps(resource))

    def _hold(
        self, waiting: WaitingClaim, needs: Mapping[str, int], now: float
    ) -> None:
        ask = waiting.ask
        if ask.hold and not self._has_hold(ask):
            self._take(_hold_of(ask, ask.hold, now))
        if ask.id:
            own = {r: n for r, n in needs.items() if r in ask.needs}
            self._take(
                HeldClaim(
                    id=ask.id,
                    workflow=ask.workflow,
                    run=ask.run,
                    first=ask.first,
                    number=ask.number,
                    needs=own,
                    since=now,
                    heard=now,
                )
            )
            for resource, amount in own.items():
                self._windows.book(resource, now, amount)

    def _has_hold(self, ask: ClaimAsk) -> bool:
        return bool(ask.hold) and f"{ask.first} {ask.hold}" in self._held

    def _take(self, claim: HeldClaim) -> None:
        self._held[claim.key] = claim
        self._used.update(claim.needs)

    def _free(self, key: str) -> HeldClaim | None:
        claim = self._held.pop(key, None)
        if claim is not None:
            self._used.subtract(claim.needs)
        return claim

    def _correct(self, claim: HeldClaim, used: Mapping[str, int], now: float) -> None:
        """Count what was really used: less where it was counted, more from now on."""
        for resource, amount in used.items():
            more = amount - claim.needs.get(resource, amount)
            self._windows.book(resource, now if more > 0 else claim.since, more)


_order: Callable[[WaitingClaim], tuple[int, int]] = lambda claim: claim.order  # noqa: E731


def _holder(who: HeldClaim | ClaimAsk) -> Holder:
    return Holder(workflow=who.workflow, run=who.run, first=who.first)


def _call_key(run: str, number: int) -> str:
    return f"{run} {number}"


def _hold_of(ask: ClaimAsk, hold: str, now: float) -> HeldClaim:
    limit = hold.partition("/")[0]
    return HeldClaim(
        id=hold,
        workflow=ask.workflow,
        run=ask.run,
        first=ask.first,
        needs={wip_of(limit): 1},
        since=now,
        heard=now,
    )
