"""What a budget race shows: money paid, refusals, and money left unused.

Pure arithmetic over two lists: what the callers saw, and what the provider
billed. It serves every side of the race alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

__all__ = ["AskedCall", "BilledCall", "Judged", "judge"]


@dataclass(frozen=True, slots=True)
class AskedCall:
    """A call as its caller saw it; times are Unix times."""

    label: str
    asked: float
    ended: float
    outcome: str
    """replied, refused, or error."""


@dataclass(frozen=True, slots=True)
class BilledCall:
    """A call as the provider saw it."""

    label: str
    started: float
    ended: float
    usd: Decimal

    @staticmethod
    def of(call: Mapping[str, Any]) -> BilledCall:
        """Read an entry of the scripted provider's `/_calls`."""
        ended = call["ended"] or float("inf")
        return BilledCall(
            call["label"], call["started"], ended, Decimal(call["usd"] or 0)
        )


@dataclass(frozen=True, slots=True)
class Judged:
    """The figures of one race."""

    paid_calls: int
    ratio: float
    """Dollars that the provider bills, divided by the cap."""
    refused_before: int
    """Refused, and never sent to the provider."""
    refused_after_paying: int
    wrongful: int
    """Refusals although cap - settled - reserved would have paid for the call."""
    unused_usd: Decimal | None
    """cap - settled - reserved at the first refusal, at least 0; None without one."""
    errors: int


def judge(
    asked: Sequence[AskedCall],
    billed: Sequence[BilledCall],
    *,
    cap_usd: Decimal,
    worst_usd: Decimal,
) -> Judged:
    """Judge one race.

    At a moment *settled* is what the provider has billed for calls that have
    ended, and *reserved* is the worst case of each call that was asked for, has
    not ended, and is not refused in the end before it is sent. The call whose
    refusal is judged counts in neither, so that one that was paid and then
    refused is judged as if it had still to be decided.
    """
    bills: dict[str, list[BilledCall]] = {}
    for call in billed:
        bills.setdefault(call.label, []).append(call)
    refused = sorted(
        (call for call in asked if call.outcome == "refused"), key=lambda c: c.ended
    )
    free = [_free(call, asked, bills, cap_usd, worst_usd) for call in refused]
    usd = sum((call.usd for call in billed), Decimal(0))
    return Judged(
        paid_calls=sum(1 for call in billed if call.usd),
        ratio=float(usd / cap_usd),
        refused_before=sum(1 for call in refused if call.label not in bills),
        refused_after_paying=sum(1 for call in refused if call.label in bills),
        wrongful=sum(1 for left in free if left >= worst_usd),
        unused_usd=max(free[0], Decimal(0)) if free else None,
        errors=sum(1 for call in asked if call.outcome == "error"),
    )


def _free(
    judged: AskedCall,
    asked: Sequence[AskedCall],
    bills: Mapping[str, Sequence[BilledCall]],
    cap_usd: Decimal,
    worst_usd: Decimal,
) -> Decimal:
    """Return cap - settled - reserved, without a call, when it was refused."""
    left, now = cap_usd, judged.ended
    for call in asked:
        if call.label == judged.label or call.asked > now:
            continue
        paid = bills.get(call.label, ())
        if paid and all(bill.ended <= now for bill in paid):
            left -= sum((bill.usd for bill in paid), Decimal(0))
        elif paid or (call.outcome != "refused" and call.ended > now):
            left -= worst_usd
    return left
