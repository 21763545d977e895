"""`TierpoolPlugin`: everything that tierpool adds to a client and its workers.

Passed once to `Client.connect(plugins=[…])`; Temporal hands it on to every
worker of that client, and the worker's task queue decides what it becomes:
the flows worker, a tier's pool, the tools, or a user's own worker that can
call agents. It extends what the user configured and replaces nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from temporalio.contrib.pydantic import PydanticPayloadConverter
from temporalio.converter import DataConverter, DefaultPayloadConverter
from temporalio.plugin import SimplePlugin
from temporalio.worker import (
    FixedSizeSlotSupplier,
    ReplayerConfig,
    Worker,
    WorkerConfig,
    WorkerTuner,
    WorkflowRunner,
)
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from tierpool.activities.agents import AgentActivities
from tierpool.activities.alerts import AlertActivities
from tierpool.activities.claims import ClaimActivities
from tierpool.activities.classify import route
from tierpool.activities.conversations import ConversationStore
from tierpool.activities.governed import governing
from tierpool.activities.holders import holders
from tierpool.activities.housekeeping import HousekeepingActivities
from tierpool.activities.parts import PartStore
from tierpool.activities.providers.base import WRONG_KEY, ProviderError
from tierpool.activities.providers.clients import AgentClient
from tierpool.activities.resets import spent
from tierpool.blueprint import MOST_INSTANCES
from tierpool.budget.claim_limits import claim_limits
from tierpool.codec import ZlibCodec
from tierpool.config import load_fleet
from tierpool.contracts import WorkItem
from tierpool.errors import TierpoolError
from tierpool.fleet import TOOLS, LoadedFleet, TierSnapshot, pool_specs
from tierpool.interceptors.guardrail import GuardrailInterceptor
from tierpool.interceptors.log_context import LogContextInterceptor
from tierpool.interceptors.outbound import RunInterceptor
from tierpool.leases import LeaseAgent
from tierpool.leases.applied import tell_claims
from tierpool.leases.post import LedgerUnreachable, open_ledger
from tierpool.pools.gate import Gate
from tierpool.pools.instances import Pool
from tierpool.pools.slots import QueueSlots
from tierpool.pools.throttle import Throttle
from tierpool.workflows.claims import ClaimsWorkflow
from tierpool.workflows.flow import FlowWorkflow
from tierpool.workflows.ledger import LedgerWorkflow
from tierpool.workflows.limits import LimitsWorkflow
from tierpool.workflows.scaling import ScalingWorkflow

__all__ = ["TierpoolPlugin"]

_USUAL = 100
"""Slots of the SDK, unless somebody says otherwise."""

_ENTITIES = (LimitsWorkflow, LedgerWorkflow, ClaimsWorkflow, ScalingWorkflow)
"""Of the queue `control`, one of each for a fleet."""

HEARTBEAT_THROTTLE = timedelta(seconds=2)
"""By default the SDK sends heartbeats only every 4 of the 5 seconds allowed."""


class TierpoolPlugin(SimplePlugin):
    """Makes a Temporal client and its workers part of a fleet."""

    def __init__(
        self, fleet: LoadedFleet | str | Path = "agents.yaml", *, compress: bool = True
    ) -> None:
        """Take a fleet file or a fleet that `load_fleet` has read.

        Args:
            fleet: The file, or what was read.
            compress: Whether payloads from 256 bytes on are compressed. What
                was compressed before can be read either way. A codec of the
                client's own data converter is left alone, and nothing is
                compressed beside it.

        Raises:
            ConfigError: with all problems of the file.
        """
        loaded = fleet if isinstance(fleet, LoadedFleet) else load_fleet(fleet)
        self.tierpool_fleet = loaded
        self._parts = PartStore()
        self._conversations = ConversationStore()
        self._parts.pin(loaded.snapshot.parts.values())
        throttles = _throttles(loaded)
        self.tierpool_lease = lease = LeaseAgent(loaded)
        waits = loaded.fleet.guardrails.on_exhausted == "wait"
        self.tierpool_gates: dict[str, Gate] = {
            name: Gate(
                Pool(name, spec, _builder(loaded, name, throttles[name])),
                throttles[name],
                lease,
                waits,
            )
            for name, spec in pool_specs(loaded).items()
        }
        super().__init__(
            "tierpool.TierpoolPlugin",
            data_converter=partial(_data_converter, compress=compress),
            interceptors=[
                RunInterceptor(),
                LogContextInterceptor(),
                GuardrailInterceptor(partial(governing, loaded.snapshot, lease)),
            ],
            workflow_runner=_runner,
            workflow_failure_exception_types=[TierpoolError],
        )

    def configure_worker(self, config: WorkerConfig) -> WorkerConfig:
        """Add what the worker's task queue asks for."""
        config = super().configure_worker(config)
        queue, fleet = config.get("task_queue", ""), self.tierpool_fleet
        pool = pool_of_queue(fleet, queue)
        if queue == f"{fleet.name}-flows":
            config["workflows"] = [*config.get("workflows", []), FlowWorkflow]
            if not config.get("activities"):
                config["no_remote_activities"] = True  # local activities still run
            _add_activities(config, [route, spent, ClaimActivities(fleet).open])
        elif queue == f"{fleet.name}-control":
            config["workflows"] = [*config.get("workflows", []), *_ENTITIES]
            _add_activities(config, [holders, AlertActivities(fleet).tell])
            # who takes over from a dead process does not wait for it
            config["sticky_queue_schedule_to_start_timeout"] = timedelta(seconds=1)
        elif pool is not None:
            self._configure_pool(config, queue, self.tierpool_gates[pool])
        else:
            _add_activities(config, self._for_users(config))
        return config

    def configure_replayer(self, config: ReplayerConfig) -> ReplayerConfig:
        """Add FlowWorkflow, so that histories of flows replay."""
        config = super().configure_replayer(config)
        config["workflows"] = [
            *config.get("workflows", []),
            FlowWorkflow,
            *_ENTITIES,
        ]
        return config

    def _configure_pool(self, config: WorkerConfig, queue: str, gate: Gate) -> None:
        fleet = self.tierpool_fleet
        base = fleet.path.parent
        workdir = base / (fleet.fleet.workdir or ".tierpool/work")
        agents = AgentActivities(
            workdir, base, self._parts, self._conversations, gate.admit
        )
        _add_activities(config, [agents.attempt])
        # an eager dispatch would pass by queue limits and statistics
        config["disable_eager_activity_execution"] = True
        config["max_heartbeat_throttle_interval"] = min(
            HEARTBEAT_THROTTLE,
            config.get("max_heartbeat_throttle_interval", HEARTBEAT_THROTTLE),
        )
        self._limit(config, queue, gate)

    def _limit(self, config: WorkerConfig, queue: str, gate: Gate) -> None:
        """Let the pool's gate decide on slots; a tuner of the user's goes before it.

        A number of activities that the user set is the pool's limit.
        """
        own = config.get("max_concurrent_activities")
        if config.get("tuner") is not None:
            # the pool's own bound must not be in the way
            gate.pool.resize(max(gate.pool.limit, MOST_INSTANCES))
            return
        if own is not None:
            gate.pool.resize(own)

        def fixed(what: str) -> FixedSizeSlotSupplier:
            # a tuner excludes these options
            given = config.pop(f"max_concurrent_{what}", None)  # type: ignore[misc]
            return FixedSizeSlotSupplier(given or _USUAL)

        config.pop("max_concurrent_activities", None)
        config["tuner"] = WorkerTuner.create_composite(
            workflow_supplier=fixed("workflow_tasks"),
            activity_supplier=QueueSlots(gate, queue),
            local_activity_supplier=fixed("local_activities"),
            nexus_supplier=fixed("nexus_tasks"),
        )

    async def run_worker(
        self, worker: Worker, next: Callable[[Worker], Awaitable[None]]
    ) -> None:
        """Look after the pool of a tier's worker for as long as it runs."""
        name = pool_of_queue(self.tierpool_fleet, worker.task_queue)
        if worker.task_queue == f"{self.tierpool_fleet.name}-control":
            limits = claim_limits(self.tierpool_fleet)
            await tell_claims(worker.client, self.tierpool_fleet.name, limits)
            with suppress(LedgerUnreachable):  # workers say so as they ask for a lease
                await open_ledger(worker.client, self.tierpool_fleet.name)
        own = (f"{self.tierpool_fleet.name}-{part}" for part in ("flows", "control"))
        async with AsyncExitStack() as stack:
            if worker.task_queue not in own:
                await stack.enter_async_context(
                    self.tierpool_lease.running(worker.client)
                )
            if name is not None:
                await stack.enter_async_context(self.tierpool_gates[name].pool.tended())
            await super().run_worker(worker, next)

    def _for_users(self, config: WorkerConfig) -> Sequence[Callable[..., Any]]:
        """Return the local activities that `call_agent` needs beside a user's own."""
        if not config.get("workflows"):
            return ()
        packed = self.tierpool_fleet.snapshot.model_copy(update={"flows": {}}).pack()
        claims = ClaimActivities(self.tierpool_fleet)
        return (route, spent, claims.open, HousekeepingActivities(packed).fleet)


def pool_of_queue(fleet: LoadedFleet, queue: str) -> str | None:
    """Return the tier that owns a task queue, fallback queues included, or `tools`."""
    if queue == f"{fleet.name}-{TOOLS}":
        return TOOLS
    for tier, queues in fleet.queues.items():
        if queue in queues:
            return tier
    return None


def _throttles(fleet: LoadedFleet) -> dict[str, dict[str, Throttle]]:
    """Give each pool's queues their throttles: one for each model, address and key."""
    known: dict[tuple[str, str | None, str | None], Throttle] = {}
    found: dict[str, dict[str, Throttle]] = {TOOLS: {}}
    for name, tier in fleet.snapshot.tiers.items():
        found[name] = {}
        for model in tier.models:
            key = (model.model, model.base_url, model.api_key_env)
            found[name][model.queue] = known.setdefault(key, Throttle(model.model))
    return found


class _Nothing:
    """What an instance of the tools holds: each call has a process of its own."""

    async def keep(self) -> None:
        """See `Agent`."""

    async def close(self) -> None:
        """See `Agent`."""


async def _nothing(warm: bool) -> _Nothing:
    return _Nothing()


def _builder(
    fleet: LoadedFleet, pool: str, throttles: Mapping[str, Throttle]
) -> Callable[[bool], Awaitable[Any]]:
    if pool == TOOLS:
        return _nothing
    first = next(iter(throttles.values()))
    return partial(_agent, fleet.snapshot.tiers[pool], first)


async def _agent(tier: TierSnapshot, throttle: Throttle, warm: bool) -> AgentClient:
    """Build what an instance of a tier's pool calls models with."""
    client = AgentClient()
    if not warm:
        return client
    try:
        await client.warm(tier.models[:1])  # fallbacks are for bad days
    except ProviderError as error:
        if error.detail.status != WRONG_KEY or len(tier.models) == 1:
            await client.close()
            raise
        throttle.refused_key(str(error))  # its fallbacks may have keys of their own
    except BaseException:
        await client.close()
        raise
    return client


def _add_activities(config: WorkerConfig, extra: Sequence[Callable[..., Any]]) -> None:
    if extra:
        config["activities"] = [*config.get("activities", []), *extra]


def _data_converter(existing: DataConverter | None, *, compress: bool) -> DataConverter:
    """Let pydantic models through the user's converter, and compress payloads.

    Whatever else the converter does, it goes on doing.
    """
    if existing is None:
        existing = DataConverter.default
    if existing.payload_codec is None:
        codec = ZlibCodec(compress=compress)
        existing = dataclasses.replace(existing, payload_codec=codec)
    if existing.payload_converter_class is DefaultPayloadConverter:
        return dataclasses.replace(
            existing, payload_converter_class=PydanticPayloadConverter
        )
    probe = WorkItem(id="probe", data={"n": 1})
    converter = existing.payload_converter
    try:
        same = converter.from_payload(converter.to_payload(probe), WorkItem) == probe
    except Exception as error:
        raise _unfit(existing) from error
    if not same:
        raise _unfit(existing)
    return existing


def _unfit(existing: DataConverter) -> TierpoolError:
    name = existing.payload_converter_class.__name__
    return TierpoolError(
        f"the client's payload converter {name} cannot carry pydantic models; "
        "derive it from temporalio.contrib.pydantic.PydanticPayloadConverter"
    )


def _runner(existing: WorkflowRunner | None) -> WorkflowRunner:
    """Pass this package through the user's sandbox; other runners stay as they are."""
    if existing is None:
        existing = SandboxedWorkflowRunner()
    if not isinstance(existing, SandboxedWorkflowRunner):
        return existing
    allowed = existing.restrictions.with_passthrough_modules("tierpool")
    return dataclasses.replace(existing, restrictions=allowed)
