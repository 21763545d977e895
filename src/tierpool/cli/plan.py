"""`tierpool plan`: how large pools should be, and what will bound them first."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

from tierpool.blueprint import Price
from tierpool.budget.cost import cost_usd
from tierpool.cli.common import DONE, console, load, print_json
from tierpool.cli.numbers import number, whole
from tierpool.cli.plan_output import Asked, as_document, render
from tierpool.cli.recording import RECORDED, recorded, since_of
from tierpool.cli.simulated import cost_of_trace
from tierpool.contracts import Usage
from tierpool.errors import UnknownName, UsageError
from tierpool.fleet import LoadedFleet
from tierpool.scaling.bounds import Elsewhere
from tierpool.scaling.capacity import slots_for
from tierpool.scaling.demand import (
    Demand,
    TooFewCalls,
    demand_of_calls,
    demand_of_rate,
    with_items,
)
from tierpool.scaling.file_limits import limits_of_file
from tierpool.scaling.planner import TierPlan, plan
from tierpool.scaling.policy import Limits
from tierpool.scaling.recorded import RecordedCall, trace_of_calls
from tierpool.scaling.trace_files import trace_of_text
from tierpool.scaling.traces import (
    MOST_SERVICE_SECONDS,
    Trace,
    gaps,
    service_seconds,
)

__all__ = ["add", "command", "demands_of_record"]

_SINCE = timedelta(hours=24)
_GIVEN = ("mean_seconds", "cv", "peakedness")


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the sub-parser."""
    this = commands.add_parser(
        "plan", parents=[common],
        help="say how many slots each pool needs, and what bounds it first",
        description="Takes the demand from the calls that the running fleet made "
        "(--since), from a trace (--trace), or as given (--rate). Predicts slots, "
        "replays waits where there are calls to replay, and prints the lines for "
        "agents.yaml. Changes nothing.",
    )  # fmt: skip
    source = this.add_mutually_exclusive_group()
    source.add_argument(
        "--since", type=since_of, metavar="TIME",
        help="calls of the running fleet: 30m, 24h (default) or 7d",
    )  # fmt: skip
    this.add_argument(
        "--workflow", action="append", default=[], metavar="TYPE",
        help="type of workflows of your own that call agents, where the ledger does "
        "not know them; may be given several times (--since)",
    )  # fmt: skip
    source.add_argument(
        "--trace", metavar="FILE|SPEC", help="a .csv or .npz file, or such as poisson:2"
    )
    source.add_argument(
        "--rate", type=float, metavar="N", help="calls per second that you expect"
    )
    _add_given(this)
    this.add_argument("--tier", metavar="NAME", help="plan this tier only")
    this.add_argument(
        "--wait-target", type=number(0.001, 86_400), metavar="SECONDS",
        help="p95 of the waits; default: wait_target_secs of the pool's scaling",
    )  # fmt: skip
    this.add_argument(
        "--workers",
        type=whole(1, 1000),
        metavar="N",
        help="spread the slots over so many",
    )
    this.add_argument(
        "--calls-per-item", type=number(0.001, 1e6), metavar="N",
        help="of a trace or a rate, for the deployment pattern; default: 1",
    )  # fmt: skip
    this.set_defaults(command=command)


def _add_given(this: argparse.ArgumentParser) -> None:
    group = this.add_argument_group("how calls are, where nothing was recorded")
    group.add_argument(
        "--mean-seconds", type=float, metavar="S", help="mean duration (--rate)"
    )
    group.add_argument(
        "--cv", type=float, metavar="X",
        help="standard deviation of durations over their mean (--rate; default 1)",
    )  # fmt: skip
    group.add_argument(
        "--peakedness", type=float, metavar="Z",
        help="1 for calls at random (default), more for bursts (--rate)",
    )  # fmt: skip
    for kind in ("input", "output"):
        group.add_argument(
            f"--{kind}-tokens", type=whole(0, 10_000_000), metavar="N",
            help=f"mean {kind} tokens of a call, for dollars and rates (--rate)",
        )  # fmt: skip
    group.add_argument(
        "--seconds-per-call", type=number(0.001, MOST_SERVICE_SECONDS), metavar="S",
        help="every call of the trace takes so long",
    )  # fmt: skip
    group.add_argument(
        "--tokens-per-second", type=number(0.001, 1e6), metavar="N",
        help="output, of a trace without durations; default: 50",
    )  # fmt: skip
    group.add_argument("--seed", type=int, metavar="N", help="of a synthetic trace")


async def command(args: argparse.Namespace) -> int:
    """Print the plan."""
    fleet = load(args)
    _check_options(args)
    if args.trace is not None or args.rate is not None:
        asked = _one_tier(args, fleet)
    else:
        asked = await _recorded(args, fleet)
    if not asked.demands:
        raise TooFewCalls("; ".join(asked.refused.values()))
    plans = _plans(args, fleet, asked)
    if args.json:
        print_json(as_document(fleet.name, plans, asked))
    else:
        for line in render(fleet.name, plans, asked):
            console.print(line, soft_wrap=isinstance(line, str))
    return DONE


def _check_options(args: argparse.Namespace) -> None:
    """Refuse options that would be without effect.

    Raises:
        UsageError: with all of them.
    """
    wrong = []
    if args.rate is not None and args.mean_seconds is None:
        wrong.append("--rate needs --mean-seconds: the mean duration of a call")
    with_rate = (*_GIVEN, "input_tokens", "output_tokens")
    with_trace = ("seconds_per_call", "tokens_per_second", "seed")
    for source, names in (("rate", with_rate), ("trace", with_trace)):
        given = [name for name in names if getattr(args, name) is not None]
        if given and getattr(args, source) is None:
            told = ", ".join("--" + name.replace("_", "-") for name in given)
            wrong.append(f"{told}: only together with --{source}")
    measured = args.trace is None and args.rate is None
    if measured and args.calls_per_item is not None:
        wrong.append("--calls-per-item: of a running fleet it is measured")
    if wrong:
        raise UsageError("; ".join(wrong))


def _one_tier(args: argparse.Namespace, fleet: LoadedFleet) -> Asked:
    """Return the demand of a trace or a given rate: that of one tier."""
    tier, asked = _tier(args, fleet), Asked()
    price, target = fleet.snapshot.tiers[tier].models[0].price, _target(args, fleet)
    if args.rate is not None:
        given = {name: getattr(args, name) for name in ("cv", "peakedness")}
        tokens = (args.input_tokens or 0, args.output_tokens or 0)
        usage = Usage(input_tokens=tokens[0], output_tokens=tokens[1])
        usd = cost_usd(usage, price) if any(tokens) else None
        demand = demand_of_rate(
            args.rate,
            args.mean_seconds,
            tokens_per_call=sum(tokens),
            usd_per_call=usd,
            **{name: value for name, value in given.items() if value is not None},
        )
        if usd is None:
            asked.notes.append(
                "no dollars and no tokens_per_minute: give --input-tokens and "
                "--output-tokens"
            )
    else:
        trace = _trace(args)
        asked.notes += gaps(trace)
        services, why = _services(args, trace)
        asked.notes.append(f"durations: {why}")
        demand = _demand_of(trace, services, target[tier], price)
    per_item = args.calls_per_item or 1.0
    if args.calls_per_item is None:
        asked.notes.append(
            "every call is counted as an item; for the deployment pattern give "
            "--calls-per-item"
        )
    asked.demands[tier] = with_items(demand, per_item)
    return asked


async def _recorded(args: argparse.Namespace, fleet: LoadedFleet) -> Asked:
    """Return the demand of each tier, as the running fleet recorded it."""
    tiers = [_tier(args, fleet)] if args.tier else list(fleet.snapshot.tiers)
    record = await recorded(args, fleet, args.since or _SINCE, tiers)
    asked = demands_of_record(record.calls, fleet, tiers, _target(args, fleet))
    asked.notes[:0] = record.notes
    return asked


def demands_of_record(
    calls: Sequence[RecordedCall],
    fleet: LoadedFleet,
    tiers: Sequence[str],
    targets: Mapping[str, float],
) -> Asked:
    """Measure each tier's demand; tiers with too few calls are refused by name.

    Args:
        calls: By the time they were put on their queue.
        fleet: Whose calls they are.
        tiers: Those to plan.
        targets: Seconds that a call may wait, by tier.
    """
    asked, daily = Asked(), _items_per_day(calls)
    for tier in tiers:
        trace = trace_of_calls(calls, f"{tier}, recorded", tiers=[tier])
        price = fleet.snapshot.tiers[tier].models[0].price
        services, _ = service_seconds(trace)
        try:
            demand = _demand_of(trace, services, targets[tier], price, daily)
        except TooFewCalls as few:
            asked.refused[tier] = str(few)
        else:
            asked.demands[tier] = demand
    if fleet.fleet.max_concurrent is not None:
        asked.notes.append(
            "calls of tools are not in it; they count for max_concurrent"
        )
    return asked


def _demand_of(
    trace: Trace,
    services: Sequence[float],
    target: float,
    price: Price,
    items_per_day: float | None = None,
) -> Demand:
    """Measure the demand of a trace.

    Raises:
        TooFewCalls: below the least number of samples.
    """
    pairs = zip(trace.input_tokens, trace.output_tokens, strict=True)
    return demand_of_calls(
        trace.name,
        trace.seconds,
        services,
        [sum(pair) for pair in pairs],
        target,
        usd_per_call=cost_of_trace(trace, price) / max(1, len(trace)),
        items_per_day=items_per_day,
    )


def _plans(
    args: argparse.Namespace, fleet: LoadedFleet, asked: Asked
) -> list[TierPlan]:
    """Plan each tier, knowing what the others take of what all share."""
    targets = _target(args, fleet)
    taken = {
        tier: Elsewhere(
            slots_for(demand.windows, targets[tier]),
            (demand.usd_per_call or Decimal(0)) * Decimal(repr(demand.busiest_hour)),
        )
        for tier, demand in asked.demands.items()
    }
    found = []
    for tier, demand in asked.demands.items():
        others = [one for name, one in taken.items() if name != tier]
        elsewhere = Elsewhere(
            sum(one.slots for one in others),
            sum((one.usd_per_hour for one in others), Decimal(0)),
        )
        limits = replace(limits_of_file(fleet, tier), wait_target_seconds=targets[tier])
        found.append(
            plan(tier, demand, limits, elsewhere=elsewhere, workers=args.workers)
        )
    if len(fleet.snapshot.tiers) > len(found) and _shared(limits_of_file(fleet, tier)):
        asked.notes.append(
            "what other tiers take of max_concurrent and max_cost_per_hour_usd is not "
            "known, and is not counted"
        )
    return found


def _shared(limits: Limits) -> bool:
    return limits.max_concurrent is not None or limits.usd_per_hour is not None


def _tier(args: argparse.Namespace, fleet: LoadedFleet) -> str:
    """Return the one tier to plan.

    Raises:
        UnknownName: for a tier that the fleet does not have.
        UsageError: if it has several and none is named.
    """
    known = list(fleet.snapshot.tiers)
    if args.tier is not None:
        if args.tier not in known:
            raise UnknownName("tier", args.tier, known)
        return str(args.tier)
    if len(known) > 1:
        raise UsageError(
            "a trace or a rate is the demand of one tier; name it: --tier "
            + "|".join(known)
        )
    return known[0]


def _target(args: argparse.Namespace, fleet: LoadedFleet) -> dict[str, float]:
    """Return the wait target of each tier."""
    return {
        tier: args.wait_target or limits_of_file(fleet, tier).wait_target_seconds
        for tier in fleet.snapshot.tiers
    }


def _trace(args: argparse.Namespace) -> Trace:
    if args.trace.startswith(RECORDED):
        since = args.trace.removeprefix(RECORDED)
        raise UsageError(
            f"--trace {args.trace}: what the running fleet did is planned with "
            f"--since {since or '24h'}"
        )
    return trace_of_text(args.trace, seed=args.seed)


def _services(args: argparse.Namespace, trace: Trace) -> tuple[Sequence[float], str]:
    chosen: dict[str, float] = {"seconds_per_call": args.seconds_per_call}
    if args.tokens_per_second is not None:
        chosen["tokens_per_second"] = args.tokens_per_second
    return service_seconds(trace, **chosen)


def _items_per_day(calls: Sequence[RecordedCall]) -> float | None:
    span = calls[-1].seconds - calls[0].seconds if calls else 0.0
    return len({call.item for call in calls}) / span * 86_400 if span > 0 else None
