"""What a run hands to others: to its next run, and to its children.

Temporal drops headers at continue-as-new and gives children none. Without
this a changed agents.yaml would change a running item, and a child would
spend as if it had no parent.
"""

from __future__ import annotations

import asyncio
from typing import Any, NoReturn

from temporalio import workflow
from temporalio.worker import (
    ContinueAsNewInput,
    ExecuteWorkflowInput,
    Interceptor,
    StartChildWorkflowInput,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
    WorkflowOutboundInterceptor,
)

from tierpool.contracts import PARENT_HEADER
from tierpool.errors import PayloadTooLarge
from tierpool.workflows.children import child_header
from tierpool.workflows.closing import leave_costs
from tierpool.workflows.handlers import install
from tierpool.workflows.run import run_of

__all__ = ["RunInterceptor"]

_NEXT_RUN_BYTES = 1_900_000
"""Temporal refuses 2 MiB, and the workflow task would fail for ever."""


class _Outbound(WorkflowOutboundInterceptor):
    def continue_as_new(self, input: ContinueAsNewInput) -> NoReturn:
        run = run_of(workflow.instance())
        if run is not None:
            handed = run.hand_over()
            size = sum(payload.ByteSize() for payload in handed.values())
            if size > _NEXT_RUN_BYTES:
                raise PayloadTooLarge(
                    f"{workflow.info().workflow_id!r} cannot continue as new: its "
                    f"conversations and attempts take {size:,} bytes compressed; the "
                    f"limit is {_NEXT_RUN_BYTES:,}"
                )
            input.headers = {**input.headers, **handed}
        own = workflow.info().headers.get(PARENT_HEADER)
        if own is not None:
            input.headers = {**input.headers, PARENT_HEADER: own}
        super().continue_as_new(input)

    async def start_child_workflow(
        self, input: StartChildWorkflowInput
    ) -> workflow.ChildWorkflowHandle[Any, Any]:
        run = run_of(workflow.instance())
        if run is None:
            return await super().start_child_workflow(input)
        before = run.budget.account.children.get(input.id)
        header = child_header(run, input.id, input.args)
        input.headers = {**input.headers, PARENT_HEADER: header}
        try:
            handle = await super().start_child_workflow(input)
        except BaseException:
            if before is None:
                run.budget.child_ended(input.id)
            raise
        run.budget.child_follows(input.id, before)
        handle.add_done_callback(lambda _: run.budget.child_ended(input.id))
        return handle


class _Inbound(WorkflowInboundInterceptor):
    def init(self, outbound: WorkflowOutboundInterceptor) -> None:
        super().init(_Outbound(outbound))

    async def execute_workflow(self, input: ExecuteWorkflowInput) -> Any:
        run = install()
        try:
            result = await super().execute_workflow(input)
        except BaseException as error:
            # a bug fails the task only: the mended code goes on from there
            if _ends(error):
                await run.budget.report()
                leave_costs(run)
            raise
        await run.budget.report()
        leave_costs(run)
        return result


def _ends(error: BaseException) -> bool:
    """Tell whether a workflow ends with this error."""
    if isinstance(error, workflow.ContinueAsNewError) or not workflow.in_workflow():
        return False
    if isinstance(error, asyncio.CancelledError):
        return workflow.cancellation_reason() is not None
    return workflow.is_failure_exception(error)


class RunInterceptor(Interceptor):
    """Worker interceptor that carries a run's knowledge and money on."""

    def workflow_interceptor_class(
        self, input: WorkflowInterceptorClassInput
    ) -> type[WorkflowInboundInterceptor]:
        """See base class."""
        return _Inbound
