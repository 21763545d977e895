"""What `tierpool simulate` prints: a table, what was assumed, or one document."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from rich.console import Group

from tierpool.blueprint import LongContextPrice, Price
from tierpool.budget.cost import cost_usd
from tierpool.cli.common import many, plain, table
from tierpool.contracts import Usage
from tierpool.scaling.policy import Limits
from tierpool.scaling.simulator import Outcome, Setup, Workload
from tierpool.scaling.traces import Trace

__all__ = ["Replay", "Run", "cost_of_trace", "document", "render"]

_COLUMNS = (
    "policy", ">wait p50", ">p95", ">p99", ">within {target}", ">instance-hours",
    ">over ideal", ">changes", ">a day", "bound by",
)  # fmt: skip
_LEGEND = (
    "wait in seconds. over ideal: instance-hours over those of a pool that is never idle. "
    "bound by: what decided on the size, and how often"
)
_RATE_LIMITS = ("requests_per_minute", "tokens_per_minute")


@dataclass(frozen=True, slots=True)
class Run:
    """One policy."""

    policy: str
    outcome: Outcome | None
    failed: str = ""
    """Why there is no outcome."""


@dataclass(frozen=True, slots=True)
class Replay:
    """One trace through one pool."""

    tier: str
    model: str
    trace: Trace
    work: Workload
    setup: Setup
    source: str
    """Where the durations are from."""
    cost_usd: Decimal
    """Of all calls; no policy changes it."""
    runs: tuple[Run, ...]

    @property
    def limits(self) -> Limits:
        """Of the pool."""
        return self.setup.limits

    @property
    def outcomes(self) -> list[Outcome]:
        """Of the policies that served all calls."""
        return [run.outcome for run in self.runs if run.outcome is not None]


def cost_of_trace(trace: Trace, price: Price) -> Decimal:
    """Return what the calls of a trace cost, exactly; no input is taken as cached.

    Calls are added up by the step of `long_context` that they pass: within one,
    the cost is proportional to the tokens.
    """
    steps = sorted(price.long_context, key=lambda step: step.above_input_tokens)
    edges = [step.above_input_tokens for step in steps]
    sums = [[0, 0] for _ in range(len(edges) + 1)]
    for read, written in zip(trace.input_tokens, trace.output_tokens, strict=True):
        one = sums[bisect_left(edges, read)] if edges else sums[0]
        one[0] += read
        one[1] += written
    rates: list[Price | LongContextPrice] = [price, *steps]
    return sum(
        (
            cost_usd(
                Usage(input_tokens=read, output_tokens=written),
                Price(
                    input_usd_per_mtok=rate.input_usd_per_mtok,
                    output_usd_per_mtok=rate.output_usd_per_mtok,
                ),
            )
            for rate, (read, written) in zip(rates, sums, strict=True)
        ),
        Decimal(0),
    )


def render(replay: Replay) -> Group:
    """Write one pool for people."""
    trace = replay.trace
    span = _span(trace.span_seconds)
    title = f"{trace.name}: {many(len(trace), 'call')} in {span}, pool {replay.tier}"
    target = f"{replay.limits.wait_target_seconds:g} s"
    columns = [column.format(target=target) for column in _COLUMNS]
    rows = [_row(replay, outcome) for outcome in replay.outcomes]
    parts: list[Any] = [table(columns, rows, title), _LEGEND, ""]
    parts += [
        f"[yellow]{plain(f'{run.policy}: {run.failed}')}[/]"
        for run in replay.runs
        if run.failed
    ]
    mean = replay.cost_usd / len(trace)
    parts.append(
        f"cost of the calls: ${replay.cost_usd:,.6f}, {mean:.6f} a call, with any policy"
    )
    parts += [f"- {plain(line)}" for line in assumed(replay)]
    return Group(*parts, "")


def assumed(replay: Replay) -> Iterator[str]:
    """Say what the numbers rest on."""
    setup, limits = replay.setup, replay.limits
    yield f"durations: {replay.source}"
    yield (
        f"instances take calls {setup.lead_seconds:g} s after a decision; a decision "
        f"every {setup.decide_every:g} s, with a backlog {setup.backlog_lag:g} s old "
        f"and rates over {setup.rates_over:g} s; {setup.missing:.0%} of them without "
        f"either (seed {setup.seed})"
    )
    yield (
        f"limits: {limits.min_instances} to {limits.max_instances} instances by "
        f"{limits.step}{_further(limits)}"
    )
    yield f"price: {replay.model}, no input cached"
    if any(getattr(limits, name) is not None for name in _RATE_LIMITS):
        yield (
            "a rate limit bounds the size of the pool, but slows no call down here: a "
            "real pool would wait as well"
        )
    if limits.usd_per_hour is not None:
        yield "the hour's money is there for this pool alone, in every hour"
    if not any(outcome.timeline for outcome in replay.outcomes):
        yield "the trace is over before the first decision: no policy did anything"
    need = replay.work.mean_load
    if need > limits.max_instances:
        yield (
            f"the pool is too small: the calls keep {need:,.1f} instances busy on "
            f"average, and max_instances is {limits.max_instances}"
        )


def document(
    fleet: str,
    replays: Sequence[Replay],
    notes: Sequence[str],
    pictures: Sequence[Path],
) -> dict[str, Any]:
    """Return everything as plain data; money as Decimal, times in seconds."""
    return {
        "fleet": fleet,
        "pools": [_pool(replay) for replay in replays],
        "notes": list(notes),
        "pictures": [str(path) for path in pictures],
    }


def _pool(replay: Replay) -> dict[str, Any]:
    trace = replay.trace
    return {
        "tier": replay.tier,
        "trace": trace.name,
        "calls": len(trace),
        "span_seconds": trace.span_seconds,
        "mean_load": replay.work.mean_load,
        "cost_usd": replay.cost_usd,
        "usd_per_call": replay.cost_usd / len(trace),
        "limits": asdict(replay.limits),
        "assumed": list(assumed(replay)),
        "policies": [
            _told(replay, run.outcome)
            if run.outcome
            else {"policy": run.policy, "failed": run.failed}
            for run in replay.runs
        ],
    }


def _told(replay: Replay, outcome: Outcome) -> dict[str, Any]:
    target = replay.limits.wait_target_seconds
    return {
        "policy": outcome.policy,
        "wait_p50_seconds": outcome.p50,
        "wait_p95_seconds": outcome.p95,
        "wait_p99_seconds": outcome.p99,
        "wait_longest_seconds": outcome.ordered[-1],
        "wait_target_seconds": target,
        "share_within_target": outcome.share_within(target),
        "instance_hours": outcome.instance_hours,
        "over_ideal": outcome.cost_ratio,
        "changes": outcome.changes,
        "changes_per_day": outcome.changes_per_day,
        "killed": outcome.killed,
        "most_instances": max((m.instances for m in outcome.timeline), default=0),
        "bound_by": dict(outcome.bound),
    }


def _row(replay: Replay, outcome: Outcome) -> list[object]:
    within = outcome.share_within(replay.limits.wait_target_seconds)
    return [
        outcome.policy,
        f"{outcome.p50:.1f}",
        f"{outcome.p95:.1f}",
        f"{outcome.p99:.1f}",
        f"{within:.2%}",
        f"{outcome.instance_hours:,.2f}",
        f"{outcome.cost_ratio:.2f}",
        f"{outcome.changes:,}",
        f"{outcome.changes_per_day:,.0f}",
        _bound(outcome),
    ]


def _bound(outcome: Outcome) -> str:
    """Name the two things that decided most often."""
    total = sum(outcome.bound.values()) or 1
    most = sorted(outcome.bound.items(), key=lambda pair: -pair[1])[:2]
    told = [
        f"{name} {count / total:.0%}" for name, count in most if count / total >= 0.01
    ]
    return ", ".join(told) or "nothing yet"


def _further(limits: Limits) -> str:
    """Write the limits that are set beside the numbers of instances."""
    found = [
        f"{name} {value:,}"
        for name in (*_RATE_LIMITS, "role_caps", "max_concurrent")
        if (value := getattr(limits, name)) is not None
    ]
    if limits.usd_per_hour is not None:
        found.append(f"max_cost_per_hour_usd {limits.usd_per_hour.normalize():f}")
    return "".join(f", {one}" for one in found)


def _span(seconds: float) -> str:
    if seconds >= 2 * 3600:
        return f"{seconds / 3600:,.1f} hours"
    return (
        f"{seconds / 60:,.1f} minutes" if seconds >= 120 else f"{seconds:,.0f} seconds"
    )
