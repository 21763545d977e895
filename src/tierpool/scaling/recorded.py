"""Calls that a running fleet has made, as the simulator and the planner see them.

Pure: reading them from a Temporal server is in `pools.recorded`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tierpool.scaling.traces import Trace

__all__ = ["RecordedCall", "trace_of_calls"]


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """One attempt that ended: the time that one instance was taken."""

    tier: str
    """Name of the tier, or `tools`."""
    role: str
    seconds: float
    """When it was put on its queue, in seconds since 1970 of the server's clock."""
    wait_seconds: float
    """From then until an instance took it."""
    duration_seconds: float
    """From then until it ended, well or not."""
    input_tokens: int = 0
    """0 also where nobody knows; see `usage_known`."""
    output_tokens: int = 0
    usage_known: bool = True
    """Whether the provider told the tokens; tools have none."""
    failed: bool = False
    """Whether it ended without an answer of the model."""
    item: str = ""
    """ID of the workflow that made it."""


def trace_of_calls(
    calls: Iterable[RecordedCall], name: str, *, tiers: Sequence[str] = ()
) -> Trace:
    """Make a trace of recorded calls, its first call at second 0.

    Args:
        calls: In any order.
        name: Of the trace.
        tiers: Only calls of these; none: of all.
    """
    kept = sorted(
        (call for call in calls if not tiers or call.tier in tiers),
        key=lambda call: call.seconds,
    )
    first = kept[0].seconds if kept else 0.0
    return Trace(
        name=name,
        seconds=tuple(call.seconds - first for call in kept),
        input_tokens=tuple(call.input_tokens for call in kept),
        output_tokens=tuple(call.output_tokens for call in kept),
        durations=tuple(call.duration_seconds for call in kept),
    )
