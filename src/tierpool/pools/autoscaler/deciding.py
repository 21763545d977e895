"""Decides on all pools of a fleet with the policy of each; pure but for the clock."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tierpool.contracts.scaling import PoolDecision
from tierpool.scaling.policy import Limits, Observation, Policy

__all__ = ["About", "Brain"]


@dataclass(frozen=True, slots=True)
class About:
    """What a decision tells beside its policy's answer."""

    now: datetime
    before: int
    """Instances that there are."""
    least: int
    """Processes that there are at least, also of a paused pool."""
    workers: int | None = None
    """Processes, where a decision does not change them."""


@dataclass
class Brain:
    """The policy of each pool, and what it remembers."""

    policies: Mapping[str, Policy[Any]]
    _states: dict[str, Any] = field(default_factory=dict)

    def decide(
        self,
        pool: str,
        seen: Observation,
        limits: Limits,
        about: About,
    ) -> PoolDecision:
        """Decide on a pool.

        Args:
            pool: Its name.
            seen: What is known of it.
            limits: What it may come to.
            about: What only people and targets want to know.
        """
        policy = self.policies[pool]
        if pool not in self._states:
            self._states[pool] = policy.start()
        made, self._states[pool] = policy.decide(seen, limits, self._states[pool])
        figures = {
            name: round(value, 4)
            for name, value in made.figures.items()
            if math.isfinite(value)
        }
        return PoolDecision(
            pool=pool,
            at=about.now,
            policy=policy.name,
            instances=made.instances,
            workers=max(about.least, math.ceil(made.instances / limits.step))
            if about.workers is None
            else about.workers,
            before=about.before,
            constraint=made.constraint,
            reason=made.reason,
            wanted=round(made.wanted, 2),
            figures=figures,
        )
