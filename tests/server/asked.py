"""What workers ask of a workflow's conversations."""

from typing import Any

from temporalio.client import (
    Client,
    Interceptor,
    OutboundInterceptor,
    QueryWorkflowInput,
)

from tierpool import TierpoolPlugin
from tierpool.contracts import ConversationRequest
from tierpool.fleet import LoadedFleet

from .conftest import client_of


class Asked(Interceptor):
    """Notes what a client asks of conversations."""

    def __init__(self) -> None:
        self.requests: list[ConversationRequest] = []

    def intercept_client(self, next: OutboundInterceptor) -> OutboundInterceptor:
        requests = self.requests

        class Outbound(OutboundInterceptor):
            async def query_workflow(self, input: QueryWorkflowInput) -> Any:
                requests.extend(
                    a for a in input.args if isinstance(a, ConversationRequest)
                )
                return await super().query_workflow(input)

        return Outbound(next)

    def connect(self, base: Client, fleet: LoadedFleet) -> Client:
        return client_of(base, TierpoolPlugin(fleet), interceptors=[self])

    @property
    def starts(self) -> list[tuple[int, int | None]]:
        return [(request.start, request.end) for request in self.requests]
