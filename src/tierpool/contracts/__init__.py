"""Payloads that cross the wire between workflows, activities and clients.

Compatible for good: only optional fields are added, unknown ones are ignored,
and fields at their default are left out, which keeps histories small. No
secret may ever stand in one of these.
"""

from tierpool.contracts.calls import (
    AgentRequest,
    AgentResult,
    FailureDetail,
    Message,
    NextStep,
    Outcome,
    Route,
    RouteAnswer,
    RouteRequest,
)
from tierpool.contracts.items import (
    FLEET_ATTRIBUTE,
    FLEET_HEADER,
    Attempt,
    FlowCarry,
    FlowResult,
    FlowStart,
    HumanDecision,
    ItemCosts,
    ItemStatus,
    ToolRequest,
    WorkItem,
)
from tierpool.contracts.wire import (
    PartChunk,
    PartRef,
    PartRequest,
    Usage,
)

__all__ = [
    "FLEET_ATTRIBUTE",
    "FLEET_HEADER",
    "AgentRequest",
    "AgentResult",
    "Attempt",
    "FailureDetail",
    "FlowCarry",
    "FlowResult",
    "FlowStart",
    "HumanDecision",
    "ItemCosts",
    "ItemStatus",
    "Message",
    "NextStep",
    "Outcome",
    "PartChunk",
    "PartRef",
    "PartRequest",
    "Route",
    "RouteAnswer",
    "RouteRequest",
    "ToolRequest",
    "Usage",
    "WorkItem",
]
