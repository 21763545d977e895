"""What becomes of calls that are under way when something has to stop.

Starts, for each case, a Temporal server, a scripted provider and real worker
processes, tells one of them to stop in the middle of its calls, prints a table,
and at last one line of JSON. See README.md beside this file for what is measured
and why.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _drain_cases import CASES, Drain, Size
from _parts_bench import bench_on, busy, services
from _parts_load import Done, part_name
from _program import (
    MEMORY,
    Target,
    console,
    print_targets,
    progress,
    run_program,
)
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Found:
    """What came of one case."""

    case: str
    in_flight: int
    """At the provider, when the first signal was given."""
    drains: tuple[Drain, ...]
    done: Done
    repeated: tuple[str, ...]
    """Parts that the provider was asked for again, once for each time."""
    lost: tuple[str, ...]
    """Parts without a reply at the end."""


async def measure_case(name: str, size: Size) -> Found:
    """Let one case happen, and compare both sides of it."""
    progress(f"{name}")
    with tempfile.TemporaryDirectory(prefix="tierpool-bench-", dir=MEMORY) as folder:
        async with (
            services(Path(folder), size.call_s) as given,
            bench_on(given, "bench-drain") as bench,
        ):
            drains = await CASES[name](bench, size)
            done, calls = await bench.done(), await given.calls()
    if not drains:
        raise RuntimeError(f"{name}: nothing drained while it had calls")
    return judged(name, drains, done, calls)


def judged(
    name: str, drains: Sequence[Drain], done: Done, calls: list[dict[str, Any]]
) -> Found:
    """Count what was done twice, and what was not done."""
    seen = Counter(call["label"] for call in calls)
    missing = set(done.asked) - set(done.answered)
    return Found(
        name,
        busy(calls, min(one.told for one in drains)),
        tuple(drains),
        done,
        tuple((seen - Counter(set(seen))).elements()),
        tuple(part_name(number) for number in sorted(missing)),
    )


async def measure(args: argparse.Namespace) -> list[Found]:
    """Let all cases happen, one after the other."""
    size = Size(args.calls, args.seconds, args.waiting)
    return [await measure_case(name, size) for name in args.cases]


COLUMNS = (
    "calls",
    "in flight",
    "draining",
    "s to exit",
    "status",
    "attempts",
    "unsure",
    "repeated",
    "lost",
)


def row(one: Found) -> list[str]:
    """Return the cells of a case."""
    seconds = [drain.over - drain.told for drain in one.drains]
    statuses = {drain.status for drain in one.drains} - {None}
    return [
        str(len(one.done.asked)),
        str(one.in_flight),
        "+".join(str(drain.calls) for drain in one.drains),
        "/".join(f"{s:.1f}" for s in seconds),
        "/".join(str(status) for status in sorted(statuses, key=str)) or "-",
        str(one.done.attempts),
        str(one.done.unsure),
        str(len(one.repeated)),
        str(len(one.lost)),
    ]


def show(found: Sequence[Found]) -> None:
    """Print what was found; the last line is JSON."""
    title = "Calls under way when something has to stop"
    table = Table(title=title, title_justify="left", box=None)
    table.add_column("case")
    for name in COLUMNS:
        table.add_column(name, justify="right")
    for one in found:
        table.add_row(one.case, *row(one))
    console(110).print(table)
    for one in found:
        for words in (*one.done.failures, *(f"{p}: repeated" for p in one.repeated)):
            print(f"{one.case}: {words}")
    print_targets(
        "drain",
        {
            "calls_repeated": Target(sum(len(one.repeated) for one in found), 0),
            "calls_lost": Target(sum(len(one.lost) for one in found), 0),
        },
    )


def options(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    usual = Size()
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--calls", type=int, default=usual.calls, help="under way")
    parser.add_argument(
        "--waiting", type=int, default=usual.waiting, help="calls beyond that"
    )
    parser.add_argument(
        "--seconds", type=float, default=usual.call_s, help="that a call takes"
    )
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--quick", action="store_true", help="a smoke test")
    args = parser.parse_args(argv)
    if args.quick:
        args.calls, args.waiting, args.seconds = 10, 5, 3.0
    return args


if __name__ == "__main__":
    chosen = options(sys.argv[1:])
    run_program(lambda: measure(chosen), show)
