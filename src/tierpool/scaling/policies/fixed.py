"""A number of instances that never changes."""

from __future__ import annotations

from dataclasses import dataclass

from tierpool.scaling.policy import Decision, Limits, Observation

__all__ = ["Fixed"]


@dataclass(frozen=True, slots=True)
class Fixed:
    """Always the same number."""

    instances: int | None = None
    """None: `min_instances`."""
    name: str = "fixed"

    def start(self) -> None:
        """Return no state."""

    def decide(
        self, seen: Observation, limits: Limits, state: None
    ) -> tuple[Decision, None]:
        """Return the number."""
        number = limits.min_instances if self.instances is None else self.instances
        return Decision(number, "demand", f"fixed at {number}", number), None
