"""Traces: when calls came, how large they were, how long each takes an instance.

Pure. A trace is read from a file (`trace_files`), made (`synthetic`), or recorded
from a running fleet (`recorded`).
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = [
    "MOST_CALLS",
    "MOST_SERVICE_SECONDS",
    "MOST_SPAN_SECONDS",
    "OUTPUT_TOKENS_PER_SECOND",
    "Trace",
    "gaps",
    "service_seconds",
]

MOST_CALLS = 5_000_000
"""Calls of one trace at most: more would not be replayed in seconds."""

MOST_SPAN_SECONDS = 100 * 86_400.0
"""From the first call of a trace to the last."""

MOST_SERVICE_SECONDS = 86_400.0
"""Longest that a call may take an instance: a day."""

OUTPUT_TOKENS_PER_SECOND = 50.0
"""What a call is taken to write where nobody measured; see `service_seconds`."""

_BEFORE_FIRST_TOKEN = 0.5
_LONGEST_SECONDS = 600.0
_GAP_SECONDS = 60.0
_GAP_INTERVALS = 50


@dataclass(frozen=True, slots=True)
class Trace:
    """Calls of one pool, by the time they came; all sequences are equally long."""

    name: str
    seconds: Sequence[float]
    """When each call came, ascending; the first at 0."""
    input_tokens: Sequence[int]
    output_tokens: Sequence[int]
    durations: Sequence[float] | None = None
    """Seconds for which each call took an instance, where that was measured."""

    def __len__(self) -> int:
        return len(self.seconds)

    @property
    def span_seconds(self) -> float:
        """Time from the first call to the last."""
        return self.seconds[-1] - self.seconds[0] if self.seconds else 0.0


def service_seconds(
    trace: Trace,
    *,
    seconds_per_call: float | None = None,
    tokens_per_second: float = OUTPUT_TOKENS_PER_SECOND,
) -> tuple[Sequence[float], str]:
    """Return how long each call takes an instance, and where that is from.

    In this order: the same time for all, if it is given; what was measured; half
    a second and the output at `tokens_per_second`, 600 s at most.
    """
    if seconds_per_call is not None:
        text = f"every call takes {seconds_per_call:g} s, as given"
        return array("d", [seconds_per_call]) * len(trace), text
    if trace.durations is not None:
        return trace.durations, "measured durations of the trace"
    made = array(
        "d",
        (
            min(_BEFORE_FIRST_TOKEN + out / tokens_per_second, _LONGEST_SECONDS)
            for out in trace.output_tokens
        ),
    )
    return made, (
        f"assumed: {_BEFORE_FIRST_TOKEN:g} s and {tokens_per_second:g} output tokens a "
        f"second, at most {_LONGEST_SECONDS:g} s, because the trace has no durations"
    )


def gaps(trace: Trace) -> list[str]:
    """Say where no call comes for long: a pause, or a hole in the recording.

    Told are at most the three longest of a minute and 50 mean intervals at least.
    """
    if len(trace) < 3:
        return []
    least = max(_GAP_SECONDS, _GAP_INTERVALS * trace.span_seconds / (len(trace) - 1))
    times = trace.seconds
    found = [
        (times[n + 1] - times[n], times[n])
        for n in range(len(times) - 1)
        if times[n + 1] - times[n] >= least
    ]
    longest = sorted(found, reverse=True)[:3]
    told = ", ".join(
        f"{length:,.0f} s after second {at:,.0f}" for length, at in longest
    )
    if not told:
        return []
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return [f"gaps without any call: {told}{more}; replayed as they are"]
