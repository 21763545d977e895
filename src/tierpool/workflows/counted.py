"""Counts what a workflow decides on its calls, with Temporal's own meter.

That meter is silent during a replay, and nothing here becomes a command: a
history does not change by being counted.
"""

from __future__ import annotations

from typing import Literal

from temporalio import workflow

from tierpool import telemetry
from tierpool.contracts import Route, RouteRequest

__all__ = ["count_denied", "count_routed", "reason_of"]

_SUFFIX = "_total"
"""Added by the SDK's exporter to a counter's name."""


def count_routed(role: str, route: Route, reason: str) -> None:
    """Count a decision on where a call goes.

    Args:
        role: That is called.
        route: What was decided.
        reason: One of telemetry's `ROUTE_…`.
    """
    _count(
        telemetry.METRIC_ROUTED_CALLS,
        {"role": role, "tier": route.tier, "model": route.model, "reason": reason},
    )


def count_denied(
    role: str,
    tier: str,
    limit: Literal["max_cost_per_workflow_usd", "max_cost_per_hour_usd"],
) -> None:
    """Count a call that a budget does not pay for."""
    _count(telemetry.METRIC_DENIED_CALLS, {"role": role, "tier": tier, "limit": limit})


def reason_of(request: RouteRequest, route: Route) -> str:
    """Say in one word how the first route of a call was found."""
    if request.above is not None:
        return telemetry.ROUTE_ESCALATED
    if request.wanted is not None:
        return telemetry.ROUTE_ASKED
    if route.classifier:
        return telemetry.ROUTE_CLASSIFIED
    if route.reason.startswith("safe default"):
        return telemetry.ROUTE_SAFE_DEFAULT
    return telemetry.ROUTE_FIXED


def _count(name: str, labels: dict[str, str]) -> None:
    meter = workflow.metric_meter()
    counter = meter.create_counter(name.removesuffix(_SUFFIX), telemetry.METERED[name])
    counter.add(1, {**labels})
