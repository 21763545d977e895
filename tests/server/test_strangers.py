"""What is no flow and no agent call, but was put on tierpool's queues."""

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from temporalio.client import ActivityFailureError, WorkflowFailureError
from temporalio.exceptions import ApplicationError

from tierpool.contracts import FlowStart, WorkItem
from tierpool.worker import Served

from .conftest import REVIEW, Start
from .test_plugin import NANO


def _start(**changes: Any) -> FlowStart:
    start = FlowStart(flow="review", item=WorkItem(id="x", text="t"), fleet="")
    return start.model_copy(update=changes)


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["just a text"],
        [{"flow": "review"}],
        [_start(fleet="not a packed fleet")],
        [_start(flow="another")],
    ],
    ids=["nothing", "text", "half of it", "broken fleet", "unknown flow"],
)
async def test_stranger_on_the_flows_queue_fails_by_name(
    running: Start, args: list[Any]
) -> None:
    """A workflow that is no flow fails at once and says what to do; its task does not loop."""
    fleet = await running(REVIEW, served=Served(flows=True))
    if args and isinstance(args[0], FlowStart) and args[0].flow == "another":
        args = [args[0].model_copy(update={"fleet": fleet.fleet.packed_for("review")})]

    with pytest.raises(WorkflowFailureError) as failed:
        await fleet.client.execute_workflow(
            "SomeWorkflow",
            args=args,
            id=f"stranger-{uuid4().hex[:8]}",
            task_queue=f"{fleet.fleet.name}-flows",
            execution_timeout=timedelta(seconds=5),
        )

    cause = failed.value.cause
    assert isinstance(cause, ApplicationError)
    assert cause.type == "NotAFlow"
    assert "SomeWorkflow" in str(cause)


async def test_stranger_on_a_tiers_queue_fails_by_name(running: Start) -> None:
    """An activity that is no agent call fails once, by name, and reaches no provider."""
    fleet = await running(REVIEW, served=NANO)

    with pytest.raises(ActivityFailureError) as failed:
        await fleet.client.execute_activity(
            "send_mail",
            "someone",
            id=f"stranger-{uuid4().hex[:8]}",
            task_queue=f"{fleet.fleet.name}-nano",
            start_to_close_timeout=timedelta(seconds=5),
        )

    cause = failed.value.cause
    assert isinstance(cause, ApplicationError)
    assert cause.type == "NotAnAgentCall"
    assert "send_mail" in str(cause)
