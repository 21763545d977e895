"""Slots that a pool needs: predicted from figures of a trace against simulated.

Takes a folder of traces, finds for each part of each the fewest slots with which
the p95 wait is within 5 s, and compares what formulas predict without replaying
it; prints a table, and at last one line of JSON. See docs/plan.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from _capacity_methods import METHODS, OURS
from _capacity_segments import Segment, of_folder, of_random_arrivals, of_specs
from _program import Target, console, print_targets, progress, run_program
from rich.table import Table

from tierpool.scaling.replay import slots_by_replay

ERLANG = "Erlang-C"


@dataclass(frozen=True, slots=True)
class Row:
    """One part of a trace."""

    segment: Segment
    simulated: int
    predicted: dict[str, int]

    def error(self, method: str) -> float:
        """Return the relative error; above 0: too many slots."""
        return self.predicted[method] / self.simulated - 1


@dataclass(frozen=True, slots=True)
class Found:
    """All rows."""

    traces: list[Row]
    random: list[Row]


def row_of(segment: Segment, target: float) -> Row:
    """Simulate and predict one part."""
    progress(f"{segment.trace}, {segment.part}: {len(segment.arrivals):,} calls")
    calls = (segment.arrivals, segment.services, target)
    predicted = {name: predict(*calls) for name, predict in METHODS.items()}
    return Row(segment, slots_by_replay(*calls), predicted)


async def measure(args: argparse.Namespace) -> Found:
    """Measure all parts; invented ones for a smoke test."""
    parts = of_specs() if args.quick else of_folder(args.folder, long=not args.short)
    rows = [row_of(one, args.target) for one in parts if len(one.arrivals) >= 200]
    return Found(rows, [row_of(one, args.target) for one in of_random_arrivals()])


def mean_error(rows: Sequence[Row], method: str) -> float:
    """Return the mean absolute relative error."""
    return sum(abs(row.error(method)) for row in rows) / len(rows)


def show(found: Found, args: argparse.Namespace) -> None:
    """Print what was found; the last line is JSON."""
    title = f"Slots for p95 wait within {args.target:g} s"
    table = Table(title=title, title_justify="left", box=None)
    for name in ("trace", "part"):
        table.add_column(name)
    for name in ("calls", "simulated", *METHODS):
        table.add_column(name, justify="right")
    for row in [*found.traces, *found.random]:
        told = [
            f"{count} ({row.error(name):+.0%})" for name, count in row.predicted.items()
        ]
        calls = f"{len(row.segment.arrivals):,}"
        table.add_row(
            row.segment.trace, row.segment.part, calls, str(row.simulated), *told
        )
    console(190).print(table)
    print(f"\nover {len(found.traces)} parts of traces, M/M/c left out:")
    for name in METHODS:
        errors = [row.error(name) for row in found.traces]
        print(
            f"{name:20} mean absolute error {mean_error(found.traces, name):5.1%}, "
            f"mean error {sum(errors) / len(errors):+6.1%}, "
            f"from {min(errors):+.0%} to {max(errors):+.0%}"
        )
    print_targets(
        "capacity",
        {
            "mean_absolute_error": Target(mean_error(found.traces, OURS), 0.12),
            "over_erlang_c": Target(
                mean_error(found.traces, OURS) / mean_error(found.traces, ERLANG), 1.0
            ),
            "m_m_c_error": Target(mean_error(found.random, OURS), 0.05),
        },
    )


def options(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "folder", type=Path, nargs="?", help="traces: .npz (dt_ms, inp, out) or .csv"
    )
    parser.add_argument(
        "--target", type=float, default=5.0, help="p95 wait in seconds (default: 5)"
    )
    parser.add_argument(
        "--short", action="store_true", help="without the variants with long calls"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a smoke test; needs no folder"
    )
    args = parser.parse_args(argv)
    if not args.quick:
        if args.folder is None:
            parser.error("pass a folder of traces, or --quick")
        if not any(args.folder.glob("*.npz")) and not any(args.folder.glob("*.csv")):
            parser.error(f"no trace in {args.folder}: no .npz and no .csv file")
    return args


if __name__ == "__main__":
    chosen = options(sys.argv[1:])
    run_program(lambda: measure(chosen), lambda found: show(found, chosen))
