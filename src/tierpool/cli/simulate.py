"""`tierpool simulate`: what scaling policies would have done with a trace."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from tierpool.cli.common import (
    DONE,
    console,
    errors,
    load,
    plain,
    print_json,
)
from tierpool.cli.numbers import number
from tierpool.cli.recording import RECORDED, check_target, record, recorded, since_of
from tierpool.cli.simulated import Replay, Run, cost_of_trace, document, render
from tierpool.errors import UnknownName, UsageError
from tierpool.fleet import LoadedFleet
from tierpool.scaling.ceilings import Bounded
from tierpool.scaling.file_limits import limits_of_file
from tierpool.scaling.plots import draw_png, draw_terminal, need
from tierpool.scaling.policies import NAMES, by_name
from tierpool.scaling.recorded import trace_of_calls
from tierpool.scaling.simulator import Oracle, Setup, Workload, simulate
from tierpool.scaling.synthetic import KINDS
from tierpool.scaling.trace_files import trace_of_text
from tierpool.scaling.traces import (
    MOST_SERVICE_SECONDS,
    OUTPUT_TOKENS_PER_SECOND,
    Trace,
    gaps,
    service_seconds,
)

_ORACLE = "oracle"
_WIDEST = 120
_MOST = 100_000
"""Instances of one pool that are simulated."""


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the sub-parser."""
    this = commands.add_parser(
        "simulate", parents=[common],
        help="replay a trace through scaling policies",
        description="Replays calls through a simulated pool with the limits of the "
        "fleet file, and shows waits, instance-hours and changes of each policy. With "
        "--record, writes what a running fleet has done as a trace.",
    )  # fmt: skip
    kinds = "; ".join(KINDS.values())
    this.add_argument(
        "--trace", metavar="FILE|SPEC",
        help="a .csv or .npz file; recorded:1h (what the running fleet did in the last "
        f"hour); or invented calls, RATE in calls per second: {kinds}; with duration=1h,"
        "input=1000,output=200,cv=1,seed=0",
    )  # fmt: skip
    _add_choices(this)
    _add_setup(this)
    of_record = this.add_argument_group("recording")
    of_record.add_argument(
        "--record", type=Path, metavar="FILE.csv", help="write a trace and stop"
    )
    of_record.add_argument(
        "--since", type=since_of, default=timedelta(hours=1), metavar="TIME",
        help="how far back: 30m, 1h (default), 7d; 30d at most",
    )  # fmt: skip
    of_record.add_argument(
        "--workflow", action="append", default=[], metavar="TYPE",
        help="type of workflows of your own that call agents, where the ledger does "
        "not know them; may be given several times",
    )  # fmt: skip
    this.set_defaults(command=command)


def _add_choices(this: argparse.ArgumentParser) -> None:
    tiers = this.add_mutually_exclusive_group()
    tiers.add_argument(
        "--tier",
        metavar="T",
        help="pool whose limits hold; needed if there are several",
    )
    tiers.add_argument("--all", action="store_true", help="every tier's pool in turn")
    this.add_argument(
        "--policy", nargs="+", action="extend", default=[], metavar="NAME",
        help=f"one or more of {', '.join(NAMES)}, {_ORACLE}; default: that of the file",
    )  # fmt: skip
    this.add_argument(
        "--compare", action="store_true", help="all policies, and the oracle"
    )
    this.add_argument("--plot", type=Path, metavar="FILE.png", help="draw a PNG")
    this.add_argument(
        "--no-draw", action="store_true", help="draw nothing in the terminal"
    )


def _add_setup(this: argparse.ArgumentParser) -> None:
    setup = this.add_argument_group("what is assumed")
    setup.add_argument(
        "--lead", type=number(0, 86_400), default=2.0, metavar="SECONDS",
        help="until a new instance takes calls: 2 (default) for a process, about 45 "
        "for a pod",
    )  # fmt: skip
    setup.add_argument(
        "--every", type=number(0.1, 86_400), default=10.0, metavar="SECONDS",
        help="time between decisions (default: 10)",
    )  # fmt: skip
    setup.add_argument(
        "--seconds-per-call", type=number(0.001, MOST_SERVICE_SECONDS),
        metavar="SECONDS",
        help="the same for every call, instead of what was measured",
    )  # fmt: skip
    setup.add_argument(
        "--tokens-per-second", type=number(0.001, 1e6), default=OUTPUT_TOKENS_PER_SECOND,
        metavar="N", help="output of a model, where no durations were measured "
        "(default: 50)",
    )  # fmt: skip
    setup.add_argument(
        "--instances", type=_range, metavar="A..B",
        help="of the whole pool, instead of the file's workers and instances",
    )  # fmt: skip
    setup.add_argument(
        "--step", type=_size, metavar="N", help="instances of one worker process"
    )
    setup.add_argument(
        "--seed", type=int, default=0, metavar="N",
        help="of invented calls and of missing observations (default: 0)",
    )  # fmt: skip


async def command(args: argparse.Namespace) -> int:
    """Record, or simulate and print."""
    fleet = load(args)
    if args.record is not None:
        return await record(args, fleet)
    if args.trace is None:
        raise UsageError(
            "nothing to simulate: pass --trace FILE|SPEC, or --record FILE"
        )
    tiers, policies = _tiers(args, fleet), _policies(args)
    if args.plot is not None:
        need("matplotlib", "--plot")
        check_target("--plot", args.plot, ".png")
    if args.trace.startswith(RECORDED):
        traces, notes = await _recorded_traces(args, fleet, tiers)
    else:
        trace, notes = _trace(args.trace, args.seed, tiers)
        traces = dict.fromkeys(tiers, trace)
    replays = [
        _replay(args, fleet, tier, trace, policies) for tier, trace in traces.items()
    ]
    pictures = _draw(args, replays)
    if args.json:
        print_json(document(fleet.name, replays, notes, pictures))
        return DONE
    for replay in replays:
        console.print(render(replay))
        if not args.no_draw:
            _draw_terminal(replay)
    for line in (*notes, *(f"drawn: {path}" for path in pictures)):
        console.print(plain(line), soft_wrap=True)
    return DONE


def _tiers(args: argparse.Namespace, fleet: LoadedFleet) -> list[str]:
    known = list(fleet.fleet.tiers)
    if args.tier is not None and args.tier not in known:
        raise UnknownName("tier", args.tier, known)
    if args.tier is None and len(known) > 1 and not args.all:
        raise UsageError(
            f"which pool? pass --tier with one of {', '.join(known)}, or --all"
        )
    return [args.tier] if args.tier is not None else known


def _policies(args: argparse.Namespace) -> list[str]:
    """Return the names that were asked for; none: the file decides."""
    names = list(dict.fromkeys(args.policy))
    for name in names:
        if name not in (*NAMES, _ORACLE):
            raise UnknownName("policy", name, (*NAMES, _ORACLE))
    if args.compare:
        names += [name for name in (*NAMES, _ORACLE) if name not in names]
    return names


def _trace(text: str, seed: int, tiers: Sequence[str]) -> tuple[Trace, list[str]]:
    """Read or make the trace that goes through each pool."""
    trace = trace_of_text(text, seed=seed)
    notes = gaps(trace)
    if len(tiers) > 1:
        notes.append("the same calls were replayed through each pool")
    return trace, notes


async def _recorded_traces(
    args: argparse.Namespace, fleet: LoadedFleet, tiers: Sequence[str]
) -> tuple[dict[str, Trace], list[str]]:
    """Read what the running fleet did: the calls of each pool."""
    try:
        since = since_of(args.trace.removeprefix(RECORDED))
    except argparse.ArgumentTypeError as error:
        raise UsageError(f"--trace {args.trace}: {error}") from None
    seen = await recorded(args, fleet, since, tiers)
    found = {
        tier: trace_of_calls(seen.calls, args.trace, tiers=[tier]) for tier in tiers
    }
    quiet = [tier for tier, trace in found.items() if not len(trace)]
    if len(quiet) == len(found):
        raise UsageError(
            f"no call of {', '.join(tiers)} has ended within that time; take a longer one"
        )
    notes = [*seen.notes, *(f"{tier}: no calls in that time" for tier in quiet)]
    return {tier: trace for tier, trace in found.items() if len(trace)}, notes


def _replay(
    args: argparse.Namespace,
    fleet: LoadedFleet,
    tier: str,
    trace: Trace,
    policies: Sequence[str],
) -> Replay:
    """Simulate one pool under each policy."""
    limits = limits_of_file(
        fleet, tier, lead_seconds=args.lead, instances=args.instances, step=args.step
    )
    if limits.max_instances == 0:
        raise UsageError(f"the pool {tier} is paused: its max_instances is 0")
    services, source = service_seconds(
        trace,
        seconds_per_call=args.seconds_per_call,
        tokens_per_second=args.tokens_per_second,
    )
    tokens = [
        read + written
        for read, written in zip(trace.input_tokens, trace.output_tokens, strict=True)
    ]
    work = Workload(trace.seconds, services, tokens)
    model = fleet.snapshot.tiers[tier].models[0]
    cost = cost_of_trace(trace, model.price)
    setup = Setup(
        lead_seconds=args.lead,
        decide_every=args.every,
        seed=args.seed,
        usd_per_call=cost / len(trace),
        limits=limits,
    )
    names = policies or [fleet.fleet.tiers[tier].pool.scaling.policy]
    runs = tuple(_run(name, work, setup) for name in names)
    if not any(run.outcome for run in runs):
        # what is wrong with the trace is wrong for each policy
        raise UsageError("; ".join(dict.fromkeys(run.failed for run in runs)))
    return Replay(tier, model.model, trace, work, setup, source, cost, runs)


def _run(name: str, work: Workload, setup: Setup) -> Run:
    try:
        if name == _ORACLE:
            oracle = Bounded(Oracle(work, setup.decide_every))
            return Run(name, simulate(work, oracle, setup))
        return Run(name, simulate(work, by_name(name), setup))
    except UsageError as error:  # a policy that leaves calls waiting for ever
        return Run(name, None, str(error))


def _draw(args: argparse.Namespace, replays: Sequence[Replay]) -> list[Path]:
    """Draw a PNG of each pool; with several pools each name gets its tier."""
    if args.plot is None:
        return []
    drawn = []
    for replay in replays:
        path: Path = args.plot
        if len(replays) > 1:
            path = path.with_stem(f"{path.stem}-{replay.tier}")
        draw_png(path, replay.work, replay.outcomes)
        drawn.append(path)
    return drawn


def _draw_terminal(replay: Replay) -> None:
    if not replay.outcomes[0].timeline:
        return
    width = min(console.width, _WIDEST)
    try:
        text = draw_terminal(
            replay.work, replay.outcomes[0], width=width, colour=console.is_terminal
        )
    except UsageError as error:  # the numbers are there without it
        errors.print(f"[yellow]{plain(str(error))}[/]", soft_wrap=True)
        return
    console.file.write(text + "\n\n")


def _size(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def _range(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([0-9]{1,6})\.\.([0-9]{1,6})", text)
    if not found or not int(found[1]) <= int(found[2]) <= _MOST or not int(found[2]):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no range of instances; write it like 2..40, {_MOST} at most"
        )
    return int(found[1]), int(found[2])
