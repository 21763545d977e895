"""Recorded histories replay with today's code, in the sandbox; broken ones do not."""

import json
from base64 import b64decode, b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer, Worker
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner
from temporalio.workflow import NondeterminismError
from tests.histories.own_workflow import OWN
from tests.histories.record import FOLDER, SCENARIOS

from tierpool import TierpoolPlugin, load_fleet
from tierpool.testing import Reply
from tierpool.worker import Served

from .conftest import Start
from .test_flow import REVIEWED

HISTORIES = sorted(FOLDER.glob("*.json"))

ANOTHER_FLEET = """
version: 1
fleet: another
tiers:
  only:
    model: local:another
    free: true
agents:
  somebody: {prompt: "Do something else.\\n", tier: only}
"""
"""Nothing that was recorded may depend on the file of the worker that replays."""


@pytest.fixture
def replayer(tmp_path: Path) -> Replayer:
    path = tmp_path / "agents.yaml"
    path.write_text(ANOTHER_FLEET)
    return Replayer(
        workflows=OWN,
        plugins=[TierpoolPlugin(load_fleet(path))],
        workflow_runner=SandboxedWorkflowRunner(),
    )


def recorded(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text())


async def failure_of(replayer: Replayer, history: Any) -> Exception | None:
    begun = first(history, "WORKFLOW_EXECUTION_STARTED")
    id = begun["workflowExecutionStartedEventAttributes"]["workflowId"]
    made = WorkflowHistory.from_json(id, json.dumps(history))
    result = await replayer.replay_workflow(made, raise_on_replay_failure=False)
    return result.replay_failure


def test_every_scenario_is_recorded() -> None:
    """Each scenario of the recorder has its history."""
    assert {path.stem for path in HISTORIES} >= SCENARIOS.keys()


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
async def test_recorded_history_replays(replayer: Replayer, path: Path) -> None:
    """What ran before an update goes on after it."""
    failure = await failure_of(replayer, recorded(path.stem))

    assert failure is None


def first(history: Any, kind: str) -> Any:
    return next(
        event
        for event in history["events"]
        if event["eventType"] == f"EVENT_TYPE_{kind}"
    )


def another_role(history: Any) -> None:
    """Let another role have been called."""
    event = first(history, "ACTIVITY_TASK_SCHEDULED")
    event["activityTaskScheduledEventAttributes"]["activityType"]["name"] = "other"


def another_reply(history: Any) -> None:
    """Let the first reply be one that no role may give: it would be repaired."""
    event = first(history, "ACTIVITY_TASK_COMPLETED")
    (payload,) = event["activityTaskCompletedEventAttributes"]["result"]["payloads"]
    payload["data"] = b64encode(b'{"problem": "not valid", "text": "x"}').decode()


def another_question(history: Any) -> None:
    """Let the first local activity have been another one."""
    marker = first(history, "MARKER_RECORDED")
    (payload,) = marker["markerRecordedEventAttributes"]["details"]["data"]["payloads"]
    asked = b64decode(payload["data"]).replace(b"tierpool_fleet", b"other_question")
    payload["data"] = b64encode(asked).decode()


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("reviewed", another_role),
        ("reviewed", another_reply),
        ("routed", another_question),
        ("verified", another_role),
        ("cancelled", another_role),
        ("claimed", another_role),
    ],
)
async def test_spoilt_history_does_not_replay(
    replayer: Replayer, name: str, spoil: Callable[[Any], None]
) -> None:
    """A history that today's code would not make is told apart: the test above can fail."""
    history = recorded(name)
    spoil(history)

    failure = await failure_of(replayer, history)

    assert isinstance(failure, NondeterminismError)


async def test_flow_works_without_the_workflow_cache(running: Start) -> None:
    """With every task of a flow replayed from its start, nothing runs twice."""
    pools = Served(pools=("nano", "standard", "premium"))
    fleet = await running(REVIEWED, served=pools)
    rejected, approved = (
        Reply(json={"verdict": verdict, "notes": ""})
        for verdict in ("reject", "approve")
    )
    fleet.provider.script(Reply("a"), rejected, Reply("b"), approved)
    queue = f"{fleet.fleet.name}-flows"

    async with Worker(fleet.client, task_queue=queue, max_cached_workflows=0):
        result = await fleet.run("feature")

    assert result.path == ("incoming", "planned", "incoming", "planned", "done")
    assert fleet.provider.accounting.calls == 4
