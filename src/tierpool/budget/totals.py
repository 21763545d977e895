"""What calls came to, hour by hour and kind by kind; pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from tierpool.contracts.ledger import HourTotals, Total

__all__ = ["Hours", "added", "kind_of"]

_KEPT_HOURS = 168
_KEPT_ROWS = 4000
"""All hours together; the ledger has to fit into one payload."""
_KINDS = 200
"""Of one hour; more of them are added up."""
_OTHERS = "(others)"


def kind_of(total: Total) -> tuple[str, str, str, str]:
    """Return what tells one kind of calls from another."""
    return (total.flow, total.role, total.tier, total.model)


def added(one: Total, other: Total) -> Total:
    """Add up two totals; the kind is the first one's."""
    return one.model_copy(
        update={
            "calls": one.calls + other.calls,
            "unknown": one.unknown + other.unknown,
            "unbilled": one.unbilled + other.unbilled,
            "denied": one.denied + other.denied,
            "reserved_usd": one.reserved_usd + other.reserved_usd,
            "settled_usd": one.settled_usd + other.settled_usd,
            "top_usd": one.top_usd + other.top_usd,
            "usage": one.usage + other.usage,
        }
    )


class Hours:
    """Totals of the last hours."""

    def __init__(self, hours: Sequence[HourTotals] = ()) -> None:
        """Go on from what `state` has returned."""
        self._hours = {
            hour.hour: {kind_of(total): total for total in hour.totals}
            for hour in hours
        }

    def book(self, now: float, totals: Iterable[Total]) -> None:
        """Add totals to the hour of a time, in seconds since 1970."""
        made = list(totals)
        if not made:
            return
        at = datetime.fromtimestamp(now, UTC).replace(minute=0, second=0, microsecond=0)
        kinds = self._hours.setdefault(at, {})
        for total in made:
            kind = kind_of(total)
            if kind not in kinds and len(kinds) >= _KINDS:
                kind = (_OTHERS, _OTHERS, total.tier, _OTHERS)
                total = total.model_copy(
                    update={"flow": _OTHERS, "role": _OTHERS, "model": _OTHERS}
                )
            known = kinds.get(kind)
            kinds[kind] = total if known is None else added(known, total)
        self._forget()

    def state(self) -> tuple[HourTotals, ...]:
        """Return everything, the earliest hour first."""
        return tuple(
            HourTotals(hour=hour, totals=tuple(kinds.values()))
            for hour, kinds in sorted(self._hours.items())
        )

    def _forget(self) -> None:
        """Let the earliest hours go while there is too much; the last one stays."""
        while len(self._hours) > 1 and (
            len(self._hours) > _KEPT_HOURS
            or sum(len(kinds) for kinds in self._hours.values()) > _KEPT_ROWS
        ):
            del self._hours[min(self._hours)]
