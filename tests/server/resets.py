"""Resets of a workflow, as an operator makes them."""

from typing import Any
from uuid import uuid4

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import ResetReapplyExcludeType
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import Client, WorkflowHandle


async def reset(
    client: Client,
    handle: WorkflowHandle[Any, Any],
    after: int = 4,
    *,
    signals: bool = True,
) -> None:
    """Let a workflow's first run begin anew after an event; with its signals or not."""
    signal = ResetReapplyExcludeType.RESET_REAPPLY_EXCLUDE_TYPE_SIGNAL
    await client.workflow_service.reset_workflow_execution(
        ResetWorkflowExecutionRequest(
            namespace=client.namespace,
            workflow_execution=WorkflowExecution(
                workflow_id=handle.id, run_id=handle.first_execution_run_id
            ),
            workflow_task_finish_event_id=after,
            request_id=uuid4().hex,
            reason="try again",
            reset_reapply_exclude_types=[] if signals else [signal],
        )
    )


async def task_ends(handle: WorkflowHandle[Any, Any]) -> list[int]:
    """Return the events with which workflow tasks were completed."""
    return [
        event.event_id
        async for event in handle.fetch_history_events()
        if event.HasField("workflow_task_completed_event_attributes")
    ]
