"""Hands a run's FleetSnapshot to the next run of a user's own workflow.

Temporal drops headers at continue-as-new; without this a changed agents.yaml
would change a running item. FlowWorkflow carries its snapshot in its input.
"""

from __future__ import annotations

from typing import NoReturn

from temporalio import workflow
from temporalio.worker import (
    ContinueAsNewInput,
    Interceptor,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
    WorkflowOutboundInterceptor,
)

from tierpool.contracts import FLEET_ATTRIBUTE, FLEET_HEADER

__all__ = ["SnapshotInterceptor"]


class _Outbound(WorkflowOutboundInterceptor):
    def continue_as_new(self, input: ContinueAsNewInput) -> NoReturn:
        packed = getattr(workflow.instance(), FLEET_ATTRIBUTE, None)
        if packed is not None:
            payload = workflow.payload_converter().to_payload(packed)
            input.headers = {**input.headers, FLEET_HEADER: payload}
        super().continue_as_new(input)


class _Inbound(WorkflowInboundInterceptor):
    def init(self, outbound: WorkflowOutboundInterceptor) -> None:
        super().init(_Outbound(outbound))


class SnapshotInterceptor(Interceptor):
    """Worker interceptor that carries the snapshot over continue-as-new."""

    def workflow_interceptor_class(
        self, input: WorkflowInterceptorClassInput
    ) -> type[WorkflowInboundInterceptor]:
        """See base class."""
        return _Inbound
