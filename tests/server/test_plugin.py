"""`TierpoolPlugin` beside what a user and other plugins have configured."""

import dataclasses
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from temporalio import activity
from temporalio.api.common.v1 import Payload
from temporalio.client import Client, WorkflowFailureError
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.converter import (
    BinaryPlainPayloadConverter,
    CompositePayloadConverter,
    DataConverter,
    PayloadCodec,
)
from temporalio.exceptions import ApplicationError
from temporalio.plugin import SimplePlugin
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import (
    ActivityInboundInterceptor,
    ExecuteActivityInput,
    Interceptor,
    Replayer,
    UnsandboxedWorkflowRunner,
    Worker,
    WorkerConfig,
    WorkerTuner,
)
from temporalio.worker.workflow_sandbox import (
    SandboxedWorkflowRunner,
    SandboxRestrictions,
)

from tierpool import TierpoolError, TierpoolPlugin, flow_result
from tierpool.fleet import LoadedFleet
from tierpool.testing import Reply
from tierpool.worker import Served

from . import plugin_workflows
from .conftest import REVIEW, Running, Start, client_of
from .own_workflows import ReviewWorkflow
from .plugin_workflows import MeasuredReview, Raises, SeesTheModule, TheirDynamic

NANO = Served(pools=("nano",))
NOTHING = Served(tools=True)
"""The least that can run; for tests that need a fleet and no attempts."""


class Inverting(PayloadCodec):
    """Stands for a user's encryption: nothing is readable without it."""

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        return [
            Payload(
                metadata={"encoding": b"binary/inverted"},
                data=bytes(255 - b for b in p.SerializeToString()),
            )
            for p in payloads
        ]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        return [Payload.FromString(bytes(255 - b for b in p.data)) for p in payloads]


class Noting(Interceptor):
    """A worker interceptor that notes the activities that run."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def intercept_activity(
        self, next: ActivityInboundInterceptor
    ) -> ActivityInboundInterceptor:
        noting = self

        class Inbound(ActivityInboundInterceptor):
            async def execute_activity(self, input: ExecuteActivityInput) -> Any:
                noting.seen.append(activity.info().activity_type)
                return await super().execute_activity(input)

        return Inbound(next)


@activity.defn(name="other_plugins_measure")
async def other_measure(text: str) -> int:
    return len(text)


def other_plugin(noting: Noting) -> SimplePlugin:
    def with_codec(existing: DataConverter | None) -> DataConverter:
        return dataclasses.replace(
            existing or DataConverter.default, payload_codec=Inverting()
        )

    return SimplePlugin(
        "acme.OtherPlugin",
        data_converter=with_codec,
        interceptors=[noting],
        activities=[other_measure],
    )


async def execute(client: Client, run: Any, *args: Any, queue: str) -> Any:
    return await client.execute_workflow(
        run, args=args, id=f"own-{uuid4().hex[:8]}", task_queue=queue
    )


def configured(fleet: Running, queue: str, **more: Any) -> WorkerConfig:
    """Return what the plugin makes of a worker's configuration."""
    plugin = TierpoolPlugin(fleet.fleet)
    config = WorkerConfig(client=fleet.client, task_queue=queue, **more)
    return plugin.configure_worker(config)


async def test_passing_it_to_connect_is_enough(
    running: Start, server: WorkflowEnvironment
) -> None:
    """Workers of a client that has the plugin can call agents without more ado."""
    fleet = await running(REVIEW, served=NANO)
    fleet.provider.script(Reply(json={"verdict": "approve", "score": 7}))
    client = await Client.connect(
        server.client.service_client.config.target_host,
        plugins=[TierpoolPlugin(fleet.fleet)],
    )

    async with Worker(client, task_queue="connected", workflows=[ReviewWorkflow]):
        review = await execute(client, ReviewWorkflow.run, "diff", queue="connected")

    assert review.score == 7


@pytest.mark.parametrize("ours_first", [True, False])
async def test_works_beside_another_plugin(running: Start, ours_first: bool) -> None:
    """Another plugin's activity, interceptor and codec hold, in either order."""
    noting = Noting()

    def both(base: Client, fleet: LoadedFleet) -> Client:
        plugins = [TierpoolPlugin(fleet), other_plugin(noting)]
        ordered = plugins if ours_first else plugins[::-1]
        return client_of(base, *ordered, data_converter=DataConverter.default)

    fleet = await running(REVIEW, served=NANO, connect=both)
    fleet.provider.script(Reply("fine"))

    async with fleet.worker(MeasuredReview) as queue:
        handle = await fleet.client.start_workflow(
            MeasuredReview.run, "a secret text", id=f"own-{queue}", task_queue=queue
        )
        result = await handle.result()
        history = await handle.fetch_history()

    assert result == "13 fine"
    assert noting.seen == ["other_plugins_measure", "tierpool_fleet", "reviewer"]
    assert b"secret text" not in b"".join(e.SerializeToString() for e in history.events)
    assert "secret text" in fleet.provider.requests[0].text


async def test_users_converter_and_codec_are_kept(running: Start) -> None:
    """A converter that can carry pydantic models stays as it is."""
    converter = dataclasses.replace(pydantic_data_converter, payload_codec=Inverting())

    fleet = await running(
        REVIEW,
        served=NOTHING,
        connect=lambda base, fleet: client_of(
            base, TierpoolPlugin(fleet), data_converter=converter
        ),
    )

    assert fleet.client.data_converter is converter


class OnlyBytes(CompositePayloadConverter):
    def __init__(self) -> None:
        super().__init__(BinaryPlainPayloadConverter())


async def test_unfit_converter_is_refused(running: Start) -> None:
    """A converter that cannot carry pydantic models is named when the client is made."""
    with pytest.raises(TierpoolError) as refused:
        await running(
            REVIEW,
            connect=lambda base, fleet: client_of(
                base,
                TierpoolPlugin(fleet),
                data_converter=DataConverter(payload_converter_class=OnlyBytes),
            ),
        )

    assert "OnlyBytes cannot carry pydantic models" in str(refused.value)
    assert "PydanticPayloadConverter" in str(refused.value)


@pytest.mark.parametrize(
    ("runner", "seen"),
    [
        (SandboxedWorkflowRunner(), "the sandbox"),
        (
            SandboxedWorkflowRunner(
                restrictions=SandboxRestrictions.default.with_passthrough_modules(
                    plugin_workflows.__name__
                )
            ),
            "the process",
        ),
        (UnsandboxedWorkflowRunner(), "the process"),
    ],
    ids=["default", "user's restrictions", "unsandboxed"],
)
async def test_users_workflow_runner_is_kept(
    running: Start, monkeypatch: pytest.MonkeyPatch, runner: Any, seen: str
) -> None:
    """Agents can be called under any runner; a sandbox keeps its user's restrictions."""
    fleet = await running(REVIEW, served=NANO)
    fleet.provider.default(Reply("fine"))
    monkeypatch.setattr(plugin_workflows, "seen_by", "the process")

    async with fleet.worker(SeesTheModule, workflow_runner=runner) as queue:
        found = await execute(fleet.client, SeesTheModule.run, queue=queue)

    assert found == seen


async def test_users_worker_keeps_what_it_has(running: Start) -> None:
    """On a user's own queue tierpool adds what `call_agent` needs and changes nothing."""
    fleet = await running(REVIEW, served=NOTHING)
    noting, tuner = Noting(), WorkerTuner.create_fixed(activity_slots=3)

    config = configured(
        fleet,
        "theirs",
        workflows=[Raises],
        activities=[plugin_workflows.measure],
        interceptors=[noting],
        tuner=tuner,
        workflow_failure_exception_types=[KeyError],
    )

    assert config["workflows"] == [Raises]
    assert config["activities"][0] is plugin_workflows.measure
    assert config["interceptors"][0] is noting
    assert config["tuner"] is tuner
    assert config["workflow_failure_exception_types"] == [KeyError, TierpoolError]
    assert "max_concurrent_activities" not in config
    assert "no_remote_activities" not in config


async def test_worker_without_workflows_gets_no_activities(running: Start) -> None:
    """A user's worker that only runs activities runs no others."""
    fleet = await running(REVIEW, served=NOTHING)

    config = configured(fleet, "theirs", activities=[plugin_workflows.measure])

    assert config["activities"] == [plugin_workflows.measure]


async def test_only_the_exact_queue_runs_flows(running: Start) -> None:
    """A queue whose name merely begins like the flows queue stays its user's."""
    fleet = await running(REVIEW, served=NOTHING)
    queue = f"{fleet.fleet.name}-flows-2"

    async with Worker(fleet.client, task_queue=queue, workflows=[TheirDynamic]):
        answer = await execute(fleet.client, "review", queue=queue)

    assert answer == "theirs: review"


async def test_flows_worker_keeps_users_activities(running: Start) -> None:
    """Activities that a user adds to the flows worker are polled for."""
    fleet = await running(REVIEW, served=NOTHING)
    queue = f"{fleet.fleet.name}-flows"

    bare = configured(fleet, queue)
    extended = configured(fleet, queue, activities=[plugin_workflows.measure])

    assert bare["no_remote_activities"] is True
    assert not extended.get("no_remote_activities")
    assert extended["activities"][0] is plugin_workflows.measure


FALLBACK = """
version: 1
fleet: FLEET_NAME
tiers:
  nano:
    model: local:small
    base_url: BASE_URL/v1
    price: {input_usd_per_mtok: 1, output_usd_per_mtok: 2}
    fallback:
      - model: local:other
        base_url: BASE_URL/v1
        price: {input_usd_per_mtok: 1, output_usd_per_mtok: 2}
    pool: {min_instances: 0, max_instances: 3}
  closed:
    model: local:large
    base_url: BASE_URL/v1
    price: {input_usd_per_mtok: 1, output_usd_per_mtok: 2}
    pool: {min_instances: 0, max_instances: 0}
"""


@pytest.mark.parametrize(
    ("queue", "gated"),
    [
        ("nano", True),
        ("nano--1", True),
        ("nano--2", False),
        ("nano-1", False),
        ("nan", False),
        ("tools", True),
    ],
)
async def test_queue_name_decides_what_a_worker_becomes(
    running: Start, queue: str, gated: bool
) -> None:
    """Only a tier's own queues and the tools queue make attempts; a pool has one gate."""
    fleet = await running(REVIEW, base=FALLBACK, served=NOTHING)

    config = configured(fleet, f"{fleet.fleet.name}-{queue}")

    assert (config.get("tuner") is not None) is gated
    assert config.get("max_concurrent_activities") is None
    assert bool(config.get("activities")) is gated
    assert config.get("disable_eager_activity_execution", False) is gated


async def test_users_limits_of_a_pool_are_kept(running: Start) -> None:
    """Slots and the heartbeat interval that a user set for a tier's worker hold."""
    fleet = await running(REVIEW, served=NOTHING)
    queue, second = f"{fleet.fleet.name}-nano", timedelta(seconds=1)
    tuner = WorkerTuner.create_fixed(activity_slots=3)

    limited = configured(
        fleet, queue, max_concurrent_activities=1, max_concurrent_local_activities=7
    )
    tuned = configured(fleet, queue, tuner=tuner)
    eager = configured(fleet, queue, max_heartbeat_throttle_interval=second)

    assert isinstance(limited["tuner"], WorkerTuner)
    assert limited["tuner"]._get_local_activity_task_slot_supplier().num_slots == 7
    assert not [key for key in limited if key.startswith("max_concurrent_")]
    assert tuned["tuner"] is tuner
    assert "max_concurrent_activities" not in tuned
    assert eager["max_heartbeat_throttle_interval"] == second


@pytest.mark.parametrize(
    ("kind", "type_name"), [("ours", "QuotaReached"), ("theirs", "KeyError")]
)
async def test_errors_of_tierpool_fail_a_users_workflow(
    running: Start, kind: str, type_name: str
) -> None:
    """A TierpoolError fails the workflow, not its task, beside the types the user named."""
    fleet = await running(REVIEW, served=NOTHING)

    async with fleet.worker(
        Raises, workflow_failure_exception_types=[KeyError]
    ) as queue:
        with pytest.raises(WorkflowFailureError) as failed:
            await fleet.client.execute_workflow(
                Raises.run,
                kind,
                id=f"own-{uuid4().hex[:8]}",
                task_queue=queue,
                execution_timeout=timedelta(seconds=5),
            )

    cause = failed.value.cause
    assert isinstance(cause, ApplicationError)
    assert cause.type == type_name


async def test_replayer_with_the_plugin_knows_flows(running: Start) -> None:
    """A flow's history replays with the plugin alone, whatever file it was made with."""
    fleet = await running(REVIEW)
    fleet.provider.script(Reply("fine"))
    handle = await fleet.start("review")
    await flow_result(handle)
    history = await handle.fetch_history()

    replayer = Replayer(workflows=[], plugins=[TierpoolPlugin(fleet.fleet)])
    result = await replayer.replay_workflow(history)

    assert result.replay_failure is None
