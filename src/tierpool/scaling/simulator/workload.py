"""What is simulated: the calls, and how the pool is observed and changed."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, cast

from tierpool.errors import UsageError
from tierpool.scaling.policy import Limits

__all__ = ["MOST_DECISIONS", "WARM_SECONDS", "Setup", "Workload"]

WARM_SECONDS = 300.0
"""The pool begins with the instances that the calls of this time keep busy."""


MOST_DECISIONS = 1_000_000
"""Of one simulation: 116 days at one every 10 s."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Calls in the order of arrival; three sequences or arrays of one length.

    Raises:
        UsageError: The calls are no workload; names the first offender of each kind.
    """

    arrivals: Sequence[float]
    """Seconds from any origin, ascending."""
    services: Sequence[float]
    """Seconds that each call keeps an instance busy."""
    tokens: Sequence[int]
    """Input and output of each call together."""

    def __post_init__(self) -> None:
        for name in ("arrivals", "services", "tokens"):
            object.__setattr__(self, name, _plain(getattr(self, name)))
        if problems := _problems(self):
            raise UsageError("bad workload: " + "; ".join(problems))

    @property
    def ideal_seconds(self) -> float:
        """Instance-seconds of a pool that is never idle."""
        return math.fsum(self.services)

    @property
    def mean_load(self) -> float:
        """Instances that are busy on average from the first to the last arrival."""
        span = self.arrivals[-1] - self.arrivals[0]
        return self.ideal_seconds / span if span > 0 else 1.0

    def first_load(self) -> float:
        """Return the instances that the first minutes keep busy on average."""
        until = min(self.arrivals[-1], self.arrivals[0] + WARM_SECONDS)
        if until <= self.arrivals[0]:
            return 1.0
        calls = bisect_left(self.arrivals, until)
        return math.fsum(self.services[:calls]) / (until - self.arrivals[0])


@dataclass(frozen=True, slots=True)
class Setup:
    """How the pool is observed and changed; times in seconds."""

    lead_seconds: float = 2.0
    """From a decision for more until the instances take calls; the policy is told
    this and not the limits' own."""
    decide_every: float = 10.0
    backlog_lag: float = 5.0
    """Age of the backlog that the policy is told."""
    rates_over: float = 30.0
    """Arrival and completion rates are means over this time."""
    missing: float = 0.01
    """Share of observations without backlog and rates."""
    seed: int = 0
    """Of what is missing."""
    start_instances: int | None = None
    """None: as many as the first five minutes keep busy, and a quarter more."""
    usd_per_call: Decimal | None = None
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if problems := list(_setup_problems(self)):
            raise UsageError("bad setup: " + "; ".join(problems))

    def first_instances(self, workload: Workload) -> int:
        """Return how many instances take calls when the first call arrives."""
        wanted = self.start_instances
        if wanted is None:
            wanted = math.ceil(1.25 * workload.first_load())
        low, high = self.limits.min_instances, self.limits.max_instances
        return max(low, min(wanted, high))


def _plain(values: Sequence[Any]) -> Sequence[Any]:
    """Return a list: elements of an array are slow to reach one by one."""
    if hasattr(values, "tolist"):
        return cast("list[Any]", values.tolist())
    return values


def _problems(load: Workload) -> list[str]:
    """Return what is wrong, the first offender of each kind."""
    lengths = {len(load.arrivals), len(load.services), len(load.tokens)}
    if len(lengths) > 1:
        return [f"arrivals, services and tokens differ in length: {sorted(lengths)}"]
    if not load.arrivals:
        return ["no calls; at least one is needed"]
    found = []
    for name in ("arrivals", "services", "tokens"):
        values = getattr(load, name)
        for index, value in enumerate(values):
            if not math.isfinite(value) or (value < 0 and name != "arrivals"):
                right = "finite" if name == "arrivals" else "finite and at least 0"
                found.append(f"{name}[{index}] is {value!r}, must be {right}")
                break
    before = load.arrivals[0]
    for index, at in enumerate(load.arrivals):
        if at < before:
            found.append(f"arrivals[{index}] is {at!r}, before {before!r}: sort them")
            break
        before = at
    return found


def _setup_problems(setup: Setup) -> list[str]:
    """Return what is wrong with the numbers."""
    found = []
    for name, least in (
        ("lead_seconds", 0.0),
        ("backlog_lag", 0.0),
        ("decide_every", 0.1),
        ("rates_over", 0.1),
    ):
        value = getattr(setup, name)
        if not (math.isfinite(value) and value >= least):
            found.append(f"{name} is {value!r}, must be at least {least:g} s")
    if not 0 <= setup.missing <= 1:
        found.append(f"missing is {setup.missing!r}, must be from 0 to 1")
    if setup.start_instances is not None and setup.start_instances < 0:
        found.append(f"start_instances is {setup.start_instances!r}, at least 0")
    return found
