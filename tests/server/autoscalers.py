"""Parts of the tests of autoscalers: policies and targets that do as a test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any

from tierpool.contracts.limits import LIMITS_MEMO, AppliedLimits, limits_id
from tierpool.contracts.scaling import PoolDecision, ScalingState, scaling_id
from tierpool.pools.autoscaler.acting import NotScaled, Target, Workers
from tierpool.pools.autoscaler.deciding import Brain
from tierpool.pools.autoscaler.limiting import Reach
from tierpool.pools.autoscaler.loop import Autoscaler
from tierpool.scaling.ceilings import Bounded
from tierpool.scaling.policy import Decision, Limits, Observation
from tierpool.worker import Served

from .conftest import FLEET, Running, working

EIGHT = FLEET.replace("max_instances: 4", "min_instances: 1, max_instances: 8", 1)


@dataclass
class Wanting:
    """A policy that wants what the test says."""

    instances: int
    name: str = "wanting"
    seen: list[Observation] = field(default_factory=list)
    thinks: Callable[[], None] = lambda: None
    """Done with each decision."""

    def start(self) -> None:
        """Begin."""

    def decide(
        self, seen: Observation, limits: Limits, state: None
    ) -> tuple[Decision, None]:
        self.seen.append(seen)
        self.thinks()
        return Decision(self.instances, "demand", "the test wants it"), None


@dataclass
class Noted:
    """A target that remembers what it was told."""

    refuses: bool = False
    hangs: bool = False
    name: str = "noted"
    reach: Reach = field(default_factory=lambda: Reach(1.0, whole_workers=True))
    told: list[tuple[PoolDecision, ...]] = field(default_factory=list)

    def running(self) -> Any:
        return nullcontext()

    async def scale(self, decisions: Sequence[PoolDecision], workers: Workers) -> None:
        if self.hangs:
            await asyncio.Event().wait()
        if self.refuses:
            raise NotScaled("the target says no")
        self.told.append(tuple(decisions))


class Late:
    """A clock that a test moves on."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def by(self, seconds: float) -> None:
        self.now += seconds


def scaler(
    fleet: Running, target: Target, policy: Any, lead_for: float = 30.0, **more: Any
) -> Autoscaler:
    """Return one that looks often; a slow machine needs half of `lead_for` to act."""
    brain = Brain({"nano": Bounded(policy)})
    given = {"every": 0.2, "lead_for": lead_for} | more
    return Autoscaler(fleet.client, fleet.fleet, target, brain, **given)


@asynccontextmanager
async def scaling(one: Autoscaler) -> AsyncIterator[Autoscaler]:
    """Run it; without a word at its end, as if it had been killed."""
    task = asyncio.create_task(one.run(asyncio.Event()))
    try:
        yield one
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def following(fleet: Running, memo: str = "") -> AsyncIterator[None]:
    """Run workers beside a fleet's `--control`, with something applied before they start.

    It limits nothing; but while nothing is applied, they look every 10 s only.
    """
    record = memo or AppliedLimits(id="nothing").model_dump_json()
    await fleet.client.start_workflow(
        "LimitsWorkflow",
        AppliedLimits(id="nothing"),
        id=limits_id(fleet.fleet.name),
        task_queue=f"{fleet.fleet.name}-control",
        memo={LIMITS_MEMO: record},
    )
    async with working(fleet.client, fleet.fleet, Served(flows=True, pools=("nano",))):
        yield


async def until(holds: Callable[[], Any], seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def state_of(fleet: Running) -> ScalingState:
    handle = fleet.client.get_workflow_handle(scaling_id(fleet.fleet.name))
    return await handle.query("scaling", result_type=ScalingState)
