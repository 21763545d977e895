"""Whether the hourly cap stands while workers and the server are killed.

Starts, for each run, a Temporal server, a provider that keeps books, and worker
processes; kills them with SIGKILL in the middle of calls, lets the cap be used up,
raises it, prints a table, and at last one line of JSON. See README.md beside this
file for what is measured and why.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

from _chaos_run import Plan, Ran, run_plan
from _program import MEMORY, Target, console, print_targets, run_program
from rich.table import Table

CALM = Plan("calm", Decimal("4.0"))
FEW = Plan("few-kills", Decimal("4.0"), kills=24)
STORM = Plan(
    "storm", Decimal("2.5"), kills=95, server_kills=3, hour_s=30, checks_leaks=True
)
GALE = Plan("gale", Decimal("2.5"), kills=95, server_kills=2, hour_s=30)
PLANS = {plan.name: plan for plan in (CALM, FEW, STORM, GALE)}
QUICK = {
    "calm": Plan("calm", Decimal("1.0")),
    "few-kills": Plan("few-kills", Decimal("1.0"), kills=4, server_kills=1),
}
UNUSED_CALM = 0.02
UNUSED_KILLED = 0.08


async def measure(args: argparse.Namespace) -> list[Ran]:
    """Let all runs happen; one begins when the one before only waits for its items."""
    plans = QUICK if args.quick else PLANS
    running: list[asyncio.Task[Ran]] = []
    with tempfile.TemporaryDirectory(prefix="tierpool-bench-", dir=MEMORY) as folder:
        try:
            for name in (one for one in args.runs if one in plans):
                calm = asyncio.Event()
                run = run_plan(plans[name], Path(folder), calm)
                running.append(asyncio.create_task(run))
                await calm.wait()
            return [await one for one in running]
        finally:
            for one in running:
                one.cancel()
            await asyncio.gather(*running, return_exceptions=True)


COLUMNS = (
    *("cap USD", "window s", "kills", "mid-call", "of the server", "calls"),
    *("broken off", "dollars / cap", "unused %", "of it unknown %"),
    *("after the window %", "items", "lost"),
)


def row(one: Ran) -> list[str]:
    """Return the cells of a run."""
    plan = one.plan
    return [
        f"{plan.cap_usd}",
        f"{plan.hour_s:.0f}",
        str(one.kills),
        str(one.mid_call),
        str(one.server_kills),
        str(len(one.calls) + len(one.fresh)),
        str(sum(c.aborted for c in one.calls)),
        f"{one.ratio:.4f}",
        "-" if plan.rolls else f"{100 * one.unused:.2f}",
        "-" if plan.rolls else f"{100 * one.unknown:.2f}",
        f"{100 * one.unused_after:.2f}" if one.fresh else "-",
        str(one.ended.total()),
        str(one.lost),
    ]


def show(found: Sequence[Ran]) -> None:
    """Print what was found; the last line is JSON."""
    table = Table(title="The hourly cap", title_justify="left", box=None)
    table.add_column("run")
    for name in COLUMNS:
        table.add_column(name, justify="right")
    for one in found:
        table.add_row(one.plan.name, *row(one))
    console(150).print(table)
    for one in found:
        if one.lost:
            print(f"{one.plan.name}: items ended as {dict(one.ended)}")
    print_targets("chaos_budget", verdict(found))


def verdict(found: Sequence[Ran]) -> dict[str, Target]:
    """Compare the figures with their targets; the worst run counts."""
    by_name = {one.plan.name: one for one in found}
    worst = max(float(one.ratio) for one in found)
    targets = {
        "dollars_to_cap": Target(worst, 1, shown=round(worst, 4)),
        "items_lost": Target(sum(one.lost for one in found), 0),
    }
    if "calm" in by_name:
        calm = by_name["calm"].unused
        targets["unused_without_kills"] = Target(calm, UNUSED_CALM)
    if "few-kills" in by_name:
        killed = by_name["few-kills"].unused
        targets["unused_with_24_kills"] = Target(killed, UNUSED_KILLED)
    after = [one.unused_after for one in found if one.fresh]
    if after:
        # a share of the cap that a fresh load cannot use, though a calm one could
        leaked = max(0.0, max(after) - UNUSED_CALM)
        targets["leaked_after_the_window"] = Target(leaked, 0)
    if len(found) == len(PLANS):
        mid_call = sum(one.mid_call for one in found)
        targets["kills_in_the_middle_of_calls"] = Target(mid_call, 200, at_least=True)
    return targets


def options(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", nargs="+", choices=PLANS, default=list(PLANS))
    parser.add_argument("--quick", action="store_true", help="a smoke test")
    return parser.parse_args(argv)


if __name__ == "__main__":
    chosen = options(sys.argv[1:])
    run_program(lambda: measure(chosen), show)
