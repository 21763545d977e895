"""Decides on all pools of a fleet with the policy of each; pure but for the clock."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tierpool.contracts.scaling import PoolDecision
from tierpool.scaling.policy import Decision, Limits, Observation, Policy

__all__ = ["Brain"]


@dataclass
class Brain:
    """The policy of each pool, and what it remembers."""

    policies: Mapping[str, Policy[Any]]
    _states: dict[str, Any] = field(default_factory=dict)

    def decide(
        self, pool: str, seen: Observation, limits: Limits, size: int, now: datetime
    ) -> PoolDecision:
        """Decide on a pool.

        Args:
            pool: Its name.
            seen: What is known of it.
            limits: What it may come to.
            size: Instances of one worker process.
            now: The time, for people.
        """
        policy = self.policies[pool]
        if pool not in self._states:
            self._states[pool] = policy.start()
        decision, self._states[pool] = policy.decide(seen, limits, self._states[pool])
        return _told(pool, policy.name, seen, decision, size, now)


def _told(
    pool: str, policy: str, seen: Observation, made: Decision, size: int, now: datetime
) -> PoolDecision:
    figures = {
        name: round(value, 4)
        for name, value in made.figures.items()
        if math.isfinite(value)
    }
    return PoolDecision(
        pool=pool,
        at=now,
        policy=policy,
        instances=made.instances,
        workers=math.ceil(made.instances / size) if size else 0,
        before=seen.instances,
        constraint=made.constraint,
        reason=made.reason,
        wanted=round(made.wanted, 2),
        figures=figures,
    )
