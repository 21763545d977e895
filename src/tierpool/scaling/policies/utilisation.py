"""The busy share of the instances, kept between two bounds."""

from __future__ import annotations

from dataclasses import dataclass

from tierpool.scaling.policy import Decision, Limits, Observation

__all__ = ["Utilisation"]


@dataclass(frozen=True, slots=True)
class Utilisation:
    """Above 0.7: one worker more; below 0.2: one less; one at each decision.

    Starting instances count as idle, so a long lead does not make it overshoot.
    """

    up: float = 0.7
    down: float = 0.2
    name: str = "utilisation"

    def start(self) -> None:
        """Return no state: only the present matters."""

    def decide(
        self, seen: Observation, limits: Limits, state: None
    ) -> tuple[Decision, None]:
        """Compare the busy share with the bounds."""
        current = seen.instances + seen.starting
        if seen.busy is None:
            return Decision(current, "no_data", "busy instances unknown", current), None
        share = seen.busy / current if current else float(bool(seen.backlog))
        if share > self.up:
            number = current + limits.step
        elif share < self.down and not seen.backlog:
            number = max(0, current - limits.step)
        else:
            number = current
        reason = f"utilisation {share:.2f}, bounds {self.down} and {self.up}"
        figures = {"utilisation": share}
        return Decision(number, "demand", reason, number, figures), None
