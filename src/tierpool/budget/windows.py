"""What was used within rolling windows, and when something fits again; pure.

Amounts are integers and times are seconds of any one clock. Everything errs to
the safe side: a bucket counts until its youngest moment has left the window.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from tierpool.contracts.ledger import Cap

__all__ = ["Meter", "Windows", "stricter"]


class Meter:
    """What counts against one cap."""

    def __init__(self, cap: Cap, booked: Sequence[tuple[int, int]] = ()) -> None:
        """Take the cap, and what `state` has returned."""
        self.cap = cap
        self._booked = dict(booked)

    def book(self, at: float, amount: int) -> None:
        """Count an amount that was used at a time; a correction may be negative."""
        if not self.cap.seconds or not amount:
            return  # of a gauge only what is held counts
        bucket = math.floor(at / self.cap.bucket)
        self._booked[bucket] = self._booked.get(bucket, 0) + amount

    def used(self, now: float) -> int:
        """Return what was used within the window, and forget what was before."""
        first = (now - self.cap.seconds) / self.cap.bucket - 1
        for bucket in [b for b in self._booked if b <= first]:
            del self._booked[bucket]
        return sum(self._booked.values())

    def room(self, now: float, held: int) -> int:
        """Return what may be granted besides what is held; below 0 if too much is."""
        return self.cap.amount - self.used(now) - held

    def fits(self, now: float, held: int, needs: int) -> bool:
        """Tell whether an amount may be granted besides what is held."""
        return self._counted(needs) <= self.room(now, held)

    def opens(self, now: float, held: int, needs: int) -> float:
        """Return the seconds until an amount fits if nothing else changes.

        Infinite if what is held has to come back first.
        """
        missing = self._counted(needs) - self.room(now, held)
        if missing <= 0:
            return 0.0
        for bucket, amount in sorted(self._booked.items()):
            missing -= amount
            if missing <= 0:
                return max(0.0, (bucket + 1) * self.cap.bucket + self.cap.seconds - now)
        return math.inf

    def state(self) -> tuple[tuple[int, int], ...]:
        """Return what is booked, by bucket."""
        return tuple(sorted(self._booked.items()))

    def _counted(self, needs: int) -> int:
        return min(needs, self.cap.amount) if self.cap.paces else needs


class Windows:
    """Every cap of every resource."""

    def __init__(
        self,
        caps: Mapping[str, Sequence[Cap]] | None = None,
        booked: Mapping[str, Sequence[Sequence[tuple[int, int]]]] | None = None,
    ) -> None:
        """Take the caps by resource, and what `state` has returned for them."""
        self._meters: dict[str, list[Meter]] = {}
        given = booked or {}
        for name, some in (caps or {}).items():
            known = given.get(name, ())
            self._meters[name] = [
                Meter(cap, known[n] if n < len(known) else ())
                for n, cap in enumerate(some)
            ]

    def __contains__(self, resource: str) -> bool:
        """Tell whether a resource is limited."""
        return bool(self._meters.get(resource))

    @property
    def resources(self) -> tuple[str, ...]:
        """Limited resources."""
        return tuple(name for name, meters in self._meters.items() if meters)

    def caps(self, resource: str) -> tuple[Cap, ...]:
        """Return the caps of a resource."""
        return tuple(meter.cap for meter in self._meters.get(resource, ()))

    def longest(self, resource: str) -> Cap:
        """Return the cap of a limited resource's longest window."""
        caps = (meter.cap for meter in self._meters[resource])
        return max(caps, key=lambda cap: cap.seconds)

    def most(self, resource: str) -> int:
        """Return the most that can ever be granted of a limited resource at once."""
        caps = (meter.cap for meter in self._meters[resource])
        return min(cap.amount for cap in caps if not cap.paces)

    def change(self, caps: Mapping[str, Sequence[Cap]]) -> None:
        """Follow other caps; what was used goes on counting where windows are alike."""
        before, self._meters = self._meters, {}
        for name, some in caps.items():
            old = {(m.cap.seconds, m.cap.bucket): m for m in before.get(name, ())}
            meters = []
            for cap in some:
                known = old.get((cap.seconds, cap.bucket))
                meters.append(Meter(cap, known.state() if known else ()))
            self._meters[name] = meters

    def book(self, resource: str, at: float, amount: int) -> None:
        """Count an amount that was used at a time."""
        for meter in self._meters.get(resource, ()):
            meter.book(at, amount)

    def used(self, resource: str, now: float) -> int:
        """Return what was used within the longest window of a resource."""
        meters = self._meters.get(resource, ())
        longest = max(meters, key=lambda meter: meter.cap.seconds, default=None)
        return longest.used(now) if longest else 0

    def room(self, resource: str, now: float, held: int) -> int | None:
        """Return what may be granted besides what is held; None: without limit."""
        meters = self._meters.get(resource)
        if not meters:
            return None
        return min(meter.room(now, held) for meter in meters)

    def fits(self, resource: str, now: float, held: int, needs: int) -> bool:
        """Tell whether an amount may be granted besides what is held."""
        meters = self._meters.get(resource, ())
        return all(meter.fits(now, held, needs) for meter in meters)

    def opens(self, resource: str, now: float, held: int, needs: int) -> float:
        """Return the seconds until an amount fits if nothing else changes."""
        meters = self._meters.get(resource, ())
        return max((meter.opens(now, held, needs) for meter in meters), default=0.0)

    def state(self) -> dict[str, tuple[tuple[tuple[int, int], ...], ...]]:
        """Return what is booked, for another `Windows` with the same caps."""
        return {n: tuple(m.state() for m in some) for n, some in self._meters.items()}


def stricter(
    one: Mapping[str, Sequence[Cap]], other: Mapping[str, Sequence[Cap]]
) -> dict[str, tuple[Cap, ...]]:
    """Return the caps that keep to both: of two for one window the lower one."""
    merged: dict[str, dict[tuple[float, float], Cap]] = {}
    for caps in (one, other):
        for name, some in caps.items():
            known = merged.setdefault(name, {})
            for cap in some:
                window = (cap.seconds, cap.bucket)
                if window not in known or cap.amount < known[window].amount:
                    known[window] = cap
    return {name: tuple(known.values()) for name, known in merged.items()}
