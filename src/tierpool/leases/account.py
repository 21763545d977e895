"""A process's lease: what it holds of each limited resource; pure.

Totals as the ledger wants them (see `contracts.ledger`). Money and concurrency
are reserved by a call and settled at its end; requests and tokens are used up
as the call begins, and corrected at its end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tierpool.contracts.ledger import CALLS, USD, Counter, RenewalAnswer

__all__ = ["Account", "Needs"]

Needs = Mapping[str, int]
"""What one call takes, by resource."""

_TOGETHER = 0.1
"""Seconds within which uses are told of as one."""


@dataclass
class _Holding:
    """One resource."""

    granted: int = 0
    settled: int = 0
    returned: int = 0
    reserved: int = 0
    used: list[tuple[int, float, int]] = field(default_factory=list)
    """Number of the renewal that tells of it, when, amount."""

    @property
    def free(self) -> int:
        return self.granted - self.settled - self.returned - self.reserved


@dataclass
class Account:
    """All that a process holds, and until when."""

    capped: frozenset[str] = frozenset()
    """Resources that are limited, as the ledger or the own file says."""
    valid_until: float = 0.0
    number: int = 0
    """Of the last renewal that was sent."""
    holdings: dict[str, _Holding] = field(default_factory=dict)

    def free(self, resource: str) -> int:
        """Return what calls may still take; below 0 after a correction."""
        return self._of(resource).free

    def reserved(self, resource: str) -> int:
        """Return what calls under way hold."""
        return self._of(resource).reserved

    def settled(self, resource: str) -> int:
        """Return what was used since the start."""
        return self._of(resource).settled

    def short_of(self, needs: Needs) -> list[str]:
        """Name the limited resources of which there is not enough for a call."""
        return [
            name
            for name, amount in needs.items()
            if amount and name in self.capped and self.free(name) < amount
        ]

    def take(self, needs: Needs, now: float) -> dict[str, int]:
        """Let a call begin; who asks has looked whether it fits.

        Returns:
            What was counted, for the call's end. Rates without a limit are not: all
            of it would be told at once when one is set.
        """
        counted = {}
        for name, amount in needs.items():
            if name in (USD, CALLS):
                self._of(name).reserved += amount
            elif name in self.capped:
                self._use(self._of(name), now, amount)
            else:
                continue
            counted[name] = amount
        return counted

    def end(self, needs: Needs, used: Needs, began: float, now: float) -> None:
        """Let a call end; what is not in `used` was used as it was taken.

        Args:
            needs: As it was taken.
            used: What it came to: 0 for what it did not use.
            began: When it was taken.
            now: The time.
        """
        for name, amount in needs.items():
            holding, cost = self._of(name), used.get(name, amount)
            if name == CALLS:
                holding.reserved -= amount
            elif name == USD:
                # settled first: who reads the journal between the two errs safely
                holding.settled += cost
                holding.reserved -= amount
            elif cost != amount:
                self._use(holding, began if cost < amount else now, cost - amount)

    def spend(self, resource: str, amount: int, now: float) -> None:
        """Count a use that nothing was taken for."""
        self._use(self._of(resource), now, amount)

    def give_back(self, names: Iterable[str], keep: Needs) -> None:
        """Return what is free beyond what is to be kept."""
        for name in names:
            holding = self._of(name)
            holding.returned += max(0, holding.free - keep.get(name, 0))

    def shrink(self, most: Needs) -> None:
        """Return what is free above a share, because others wait for it."""
        for name, share in most.items():
            holding = self._of(name)
            over = holding.granted - holding.returned - holding.settled - share
            holding.returned += max(0, min(over, holding.free))

    def counters(self, now: float) -> dict[str, Counter]:
        """Count up what is told with the next renewal."""
        told = self.capped | {USD}  # money is counted without a limit, too
        names = sorted(self.holdings.keys() & told)
        return {name: self._counter(name, now) for name in names}

    def answered(self, number: int, answer: RenewalAnswer) -> None:
        """Take what the ledger grants with its answer to a renewal."""
        self.capped = frozenset(answer.capped)
        for name, granted in answer.granted.items():
            self._of(name).granted = granted
        for holding in self.holdings.values():
            holding.used = [use for use in holding.used if use[0] > number]

    def _counter(self, name: str, now: float) -> Counter:
        holding = self._of(name)
        return Counter(
            settled=holding.settled,
            returned=holding.returned,
            reserved=holding.reserved,
            used=tuple(
                (number, max(0, int((now - at) * 1000)), amount)
                for number, at, amount in holding.used
            ),
        )

    def _use(self, holding: _Holding, at: float, amount: int) -> None:
        holding.settled += amount
        told_by = self.number + 1
        if holding.used:
            number, last, before = holding.used[-1]
            alike = number == told_by and (amount < 0) == (before < 0)
            if alike and 0 <= at - last < _TOGETHER:
                # uses count as the last of them, corrections as the first
                when = at if amount > 0 else last
                holding.used[-1] = (number, when, before + amount)
                return
        holding.used.append((told_by, at, amount))

    def _of(self, resource: str) -> _Holding:
        holding = self.holdings.get(resource)
        if holding is None:
            holding = self.holdings[resource] = _Holding()
        return holding
