"""Which models a run leaves alone for a while, after they were unavailable.

Pure. A call that fails over makes the next ones begin at the fallback; when
the time is over they begin at the tier's own model again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from tierpool.contracts import FailureDetail, Route
from tierpool.fleet import FleetSnapshot

__all__ = ["Unavailable", "patience"]

_AT_LEAST = timedelta(minutes=1)


@dataclass
class Unavailable:
    """Task queues of models that could not be used lately, and until when."""

    until: dict[str, datetime] = field(default_factory=dict)

    def note(self, queue: str, failure: FailureDetail, now: datetime) -> None:
        """Leave a model alone for as long as it asks, a minute at least.

        Not for what says nothing of other calls: an input that is too long, or a
        backlog.
        """
        if failure.about_input or not (failure.provider or not failure.admitted):
            return
        self.until[queue] = now + max(failure.retry_after or _AT_LEAST, _AT_LEAST)

    def next(
        self, snapshot: FleetSnapshot, route: Route, last: FailureDetail, now: datetime
    ) -> tuple[Route, timedelta | None]:
        """Return the model of the tier that comes back first, and in how long.

        Args:
            snapshot: Of the run.
            route: To the model that was tried last.
            last: What became of that.
            now: The workflow's time.
        """
        models = snapshot.tiers[route.tier].models
        wait = {
            number: self.until.get(model.queue, now) - now
            for number, model in enumerate(models)
        }
        if last.retry_after is not None:
            wait[route.fallback] = last.retry_after
        first = min(wait, key=lambda number: (max(wait[number], timedelta()), number))
        if first == route.fallback:
            return route, None
        reason = f"back to {models[first].model}: {route.model} is unavailable"
        found = snapshot.route_to(route.tier, reason, first)
        return found, max(wait[first], timedelta())

    def around(self, snapshot: FleetSnapshot, route: Route, now: datetime) -> Route:
        """Return the route to the first model of the tier that may be used.

        The route itself, if there is none.
        """
        if not route.model:
            return route
        models = snapshot.tiers[route.tier].models
        for number in range(route.fallback, len(models)):
            until = self.until.get(models[number].queue)
            if until is not None and until > now:
                continue
            if number == route.fallback:
                return route
            first = models[route.fallback]
            back = self.until[first.queue].strftime("%H:%M:%S")
            reason = f"{route.reason}; failover: {first.model} left alone until {back}"
            found = snapshot.route_to(route.tier, reason, number)
            update = {"queue": found.queue, "model": found.model, "reason": reason}
            return route.model_copy(update=update | {"fallback": number})
        return route


def patience(snapshot: FleetSnapshot, route: Route) -> timedelta | None:
    """Return how long an attempt may wait for a worker; None: for ever.

    Only where there is another model to go to.
    """
    if not route.model:
        return None
    tier = snapshot.tiers[route.tier]
    return tier.failover_after if route.fallback + 1 < len(tier.models) else None
