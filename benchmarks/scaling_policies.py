"""Scaling policies side by side on recorded traces, in the simulator.

Replays every trace of a folder through each policy, with a lead time of 2 s (a
process) and of 45 s (a pod), prints a table for each, and at last one line of
JSON. See docs/scaling-policies.md for what is measured and why.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _program import Target, console, print_targets, progress
from _scaling_cases import Case, read_case, synthetic, traces
from rich.table import Table

from tierpool.scaling.ceilings import Bounded
from tierpool.scaling.policies import Fixed, by_name
from tierpool.scaling.policy import Limits, Policy
from tierpool.scaling.simulator import Oracle, Setup, simulate

POLICIES = (
    "fixed",
    "threshold",
    "utilisation",
    "hpa",
    "keda",
    "ewma",
    "predictive",
    "oracle",
)
TITLES = {
    "fixed": "fixed, 2 x mean",
    "hpa": "HPA rule, backlog",
    "keda": "KEDA rule",
    "ewma": "EWMA + square root",
}
RIVALS = ("threshold", "utilisation", "hpa", "keda", "ewma")
LIMITS = Limits(min_instances=1, max_instances=100_000)


@dataclass(frozen=True, slots=True)
class Row:
    """One policy on one trace with one lead time."""

    case: str
    lead: float
    policy: str
    hours: float
    """Worker-hours over those of a pool that is never idle."""
    within_5: float
    within_30: float
    p95: float
    changes: float
    """A day."""
    killed: int


def rows(case: Case, args: argparse.Namespace) -> Iterator[Row]:
    """Replay a trace through all policies."""
    for lead in args.leads:
        setup = Setup(
            lead_seconds=lead,
            decide_every=args.every,
            missing=args.missing,
            seed=args.seed,
            limits=LIMITS,
        )
        for name in args.policies:
            outcome = simulate(case.load, _policy(name, case, args), setup)
            yield Row(
                case=case.name,
                lead=lead,
                policy=name,
                hours=outcome.cost_ratio,
                within_5=outcome.share_within(5.0),
                within_30=outcome.share_within(30.0),
                p95=outcome.p95,
                changes=outcome.changes_per_day,
                killed=outcome.killed,
            )


def _policy(name: str, case: Case, args: argparse.Namespace) -> Policy[Any]:
    """Return a policy; two of them know the trace."""
    if name == "fixed":
        return Bounded(Fixed(math.ceil(2 * case.load.mean_load)))
    if name == "oracle":
        return Oracle(case.load, args.every)
    return by_name(name)


def replay(job: tuple[Path | None, argparse.Namespace]) -> list[Row]:
    """Replay one file; None: the trace that is made up."""
    path, args = job
    begun = time.perf_counter()
    cases = [synthetic()] if path is None else read_case(path, args.thin)
    found = [row for case in cases for row in rows(case, args)]
    name = "synthetic" if path is None else path.stem
    progress(f"{name}: {time.perf_counter() - begun:.0f} s")
    return found


def mean_row(found: Sequence[Row], lead: float, policy: str) -> Row:
    """Return the means over all traces; the geometric one for worker-hours."""
    some = [row for row in found if (row.lead, row.policy) == (lead, policy)]
    return Row(
        case="all traces",
        lead=lead,
        policy=policy,
        hours=statistics.geometric_mean(row.hours for row in some),
        within_5=statistics.fmean(row.within_5 for row in some),
        within_30=statistics.fmean(row.within_30 for row in some),
        p95=statistics.fmean(row.p95 for row in some),
        changes=statistics.fmean(row.changes for row in some),
        killed=sum(row.killed for row in some),
    )


def show(found: Sequence[Row], args: argparse.Namespace) -> None:
    """Print one table for each lead time, where others win, and the targets."""
    for lead in args.leads:
        table = Table(title=f"Lead time {lead:g} s", title_justify="left", box=None)
        table.add_column("policy")
        for name in (
            *("worker-hours", "<= 5 s", "worst", "<= 30 s", "worst"),
            *("changes/day", "killed"),
        ):
            table.add_column(name, justify="right")
        for policy in args.policies:
            mean = mean_row(found, lead, policy)
            some = [row for row in found if (row.lead, row.policy) == (lead, policy)]
            table.add_row(
                TITLES.get(policy, policy),
                f"{mean.hours:.2f}",
                f"{mean.within_5:.4f}",
                f"{min(row.within_5 for row in some):.4f}",
                f"{mean.within_30:.4f}",
                f"{min(row.within_30 for row in some):.4f}",
                f"{mean.changes:.0f}",
                str(mean.killed),
            )
        console(110).print(table)
        _show_traces(found, lead, args)
    figures: dict[str, Target] = {}
    if {"keda", "predictive"} <= set(args.policies):
        for lead in args.leads:
            figures |= targets(found, lead)
    print_targets("scaling_policies", figures)


def _show_traces(found: Sequence[Row], lead: float, args: argparse.Namespace) -> None:
    """Print every trace, predictive beside the rivals, and who beats it there."""
    shown = [name for name in args.policies if name != "fixed"]
    table = Table(title_justify="left", box=None)
    table.title = f"Each trace, lead time {lead:g} s: worker-hours, share <= 5 s"
    table.add_column("trace")
    for name in shown:
        table.add_column(name, justify="right")
    table.add_column("beats predictive")
    for case in dict.fromkeys(row.case for row in found):
        of = {row.policy: row for row in found if (row.case, row.lead) == (case, lead)}
        cells = [f"{of[name].hours:.2f} {of[name].within_5:.3f}" for name in shown]
        table.add_row(case, *cells, ", ".join(winners(of)) or "-")
    console(170).print(table)


def winners(of: Mapping[str, Row]) -> list[str]:
    """Return who serves no worse for less, or better for no more."""
    mine = of.get("predictive")
    if mine is None:
        return []
    return [
        name
        for name in RIVALS
        if name in of
        and of[name].within_5 >= mine.within_5
        and of[name].hours <= mine.hours
    ]


def targets(found: Sequence[Row], lead: float) -> dict[str, Target]:
    """Compare predictive with the KEDA rule."""

    def worst(policy: str) -> float:
        some = [r.within_5 for r in found if (r.lead, r.policy) == (lead, policy)]
        return min(some)

    mine, keda = mean_row(found, lead, "predictive"), mean_row(found, lead, "keda")
    tag = f"lead_{lead:g}"
    least = keda.within_5 - 0.003
    lowest = worst("keda") - 0.01
    return {
        f"{tag}_sla5": Target(mine.within_5, round(least, 4), at_least=True),
        f"{tag}_worst_sla5": Target(worst("predictive"), round(lowest, 4), True),
        f"{tag}_worker_hours_over_keda": Target(mine.hours / keda.hours, 0.89),
        f"{tag}_within_30": Target(
            mine.within_30, 0.999, True, shown=round(mine.within_30, 4)
        ),
        f"{tag}_changes_a_day": Target(mine.changes, 350, shown=round(mine.changes)),
        f"{tag}_killed": Target(mine.killed, 0),
    }


def options(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, help="with traces, *.npz")
    parser.add_argument("--leads", type=float, nargs="+", default=[2.0, 45.0])
    parser.add_argument(
        "--policies", nargs="+", choices=POLICIES, default=list(POLICIES)
    )
    parser.add_argument("--every", type=float, default=10.0, help="decision, seconds")
    parser.add_argument("--missing", type=float, default=0.01, help="share of data")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--thin", type=int, default=1, help="keep every Nth request")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="a smoke test, no folder")
    args = parser.parse_args(argv)
    if not args.quick and args.folder is None:
        parser.error("a folder with traces is needed, or --quick")
    return args


def main(argv: Sequence[str]) -> int:
    """Run; 0 when everything could be measured, 2 without traces."""
    args, begun = options(argv), time.perf_counter()
    try:
        files = [None] if args.quick else traces(args.folder)
    except FileNotFoundError as error:
        progress(str(error))
        return 2
    jobs = [(path, args) for path in files]
    if args.processes > 1:
        with multiprocessing.Pool(args.processes) as pool:
            parts = pool.map(replay, jobs, chunksize=1)
    else:
        parts = [replay(job) for job in jobs]
    progress(f"took {time.perf_counter() - begun:.0f} s")
    show([row for part in parts for row in part], args)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
