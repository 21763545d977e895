"""How fast one ledger answers many worker processes.

Starts a Temporal server and the ledger's worker, lets 10, 30 and 100 lessees renew
as they work, also on a server without the raised number of updates in flight,
prints a table, and at last one line of JSON. See README.md beside this file for
what is measured and why.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from _books import quantile
from _ledger_lessees import Scale, measure_lessees
from _program import MEMORY, Target, console, print_targets, progress, run_program
from rich.table import Table

SERVERS = ("raised", "stock")


async def measure(args: argparse.Namespace) -> list[Scale]:
    """Measure each number of lessees on each server."""
    found = []
    with tempfile.TemporaryDirectory(prefix="tierpool-bench-", dir=MEMORY) as folder:
        for server in args.servers:
            for lessees in args.lessees:
                progress(f"{lessees} lessees, {server}")
                raised = server == "raised"
                found.append(
                    await measure_lessees(
                        lessees, args.seconds, Path(folder), raised=raised
                    )
                )
    return found


def show(found: Sequence[Scale]) -> None:
    """Print what was found; the last line is JSON."""
    table = Table(title="Renewals of one ledger", title_justify="left", box=None)
    table.add_column("updates in flight")
    for name in (
        *("lessees", "renewals/s", "calls/s", "p50 ms", "p99 ms", "max ms"),
        *("expired", "stuck", "refused"),
    ):
        table.add_column(name, justify="right")
    for one in found:
        shares = (f"{1000 * quantile(one.took, share):.0f}" for share in (0.5, 0.99, 1))
        table.add_row(
            "500" if one.raised else "10 (stock)",
            str(one.lessees),
            f"{len(one.took) / one.seconds:.1f}",
            f"{one.calls / one.seconds:.0f}",
            *shares,
            *(str(one.expired), str(one.stuck), str(one.refused)),
        )
    console(120).print(table)
    raised = [one for one in found if one.raised]
    stock = [one for one in found if not one.raised]
    targets = {}
    if raised:
        slowest = max(quantile(one.took, 0.99) for one in raised)
        targets["renew_p99_s"] = Target(slowest, 0.12)
        targets["expired"] = Target(sum(one.expired for one in raised), 0)
    if stock:
        targets["stuck_on_stock_server"] = Target(sum(one.stuck for one in stock), 0)
    print_targets("ledger_scale", targets)


def options(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--lessees", type=int, nargs="+", default=[10, 30, 100])
    parser.add_argument("--seconds", type=float, default=30, help="for each number")
    parser.add_argument("--servers", nargs="+", choices=SERVERS, default=list(SERVERS))
    parser.add_argument("--quick", action="store_true", help="a smoke test")
    args = parser.parse_args(argv)
    if args.quick:
        args.lessees, args.seconds = [10, 30], 8.0
    return args


if __name__ == "__main__":
    chosen = options(sys.argv[1:])
    run_program(lambda: measure(chosen), show)
