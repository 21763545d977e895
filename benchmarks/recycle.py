"""What it costs when workers are killed, and when they are renewed.

Starts Temporal servers, scripted providers and supervised worker processes, kills
processes in the middle of calls, measures throughput while instances and processes
are renewed, prints tables, and at last one line of JSON. See README.md beside this
file for what is measured and why.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from _program import MEMORY, Target, console, print_targets, run_program
from _recycle_kills import HEALTHY_S, Kills, Terms, measure_kills
from _recycle_rates import SIDES, Rates, RateTerms, measure_rates
from rich.table import Table

from tierpool.workflows.stubs import HEARTBEAT_TIMEOUT

PARTS = ("kills", "rates")
WORKS_AGAIN_S = HEARTBEAT_TIMEOUT.total_seconds() + 1
THROUGHPUT = 0.97


@dataclass(frozen=True, slots=True)
class Found:
    """What was measured, of what was asked for."""

    kills: Kills | None
    rates: Rates | None


async def measure(args: argparse.Namespace) -> Found:
    """Measure both parts, one after the other."""
    kills = rates = None
    if "kills" in args.parts:
        with tempfile.TemporaryDirectory(prefix="tierpool-bench-", dir=MEMORY) as one:
            kills = await measure_kills(Path(one), kill_terms(args))
    if "rates" in args.parts:
        with tempfile.TemporaryDirectory(prefix="tierpool-bench-", dir=MEMORY) as one:
            rates = await measure_rates(Path(one), rate_terms(args))
    return Found(kills, rates)


def kill_terms(args: argparse.Namespace) -> Terms:
    """Say how processes are killed."""
    return Terms(
        processes=args.processes,
        instances=2,
        kills=args.kills,
        call_s=2.0 if args.quick else 5.0,
        every_s=args.every,
        healthy_s=5.0 if args.quick else HEALTHY_S,
    )


def rate_terms(args: argparse.Namespace) -> RateTerms:
    """Say how throughput is measured."""
    return RateTerms(
        instances=args.instances,
        requests=20,
        process_s=5.0 if args.quick else 10.0,
        rounds=args.rounds,
        window_s=2.5,
    )


def show_kills(kills: Kills) -> None:
    """Print what came of the kills."""
    title = f"{len(kills.killed)} processes killed: seconds from each kill"
    table = Table(title=title, title_justify="left", box=None)
    table.add_column("until")
    for name in ("p50", "p95", "max"):
        table.add_column(name, justify="right")
    rows = {
        "its successor is started": [one.started for one in kills.killed],
        "as many calls are under way in that": [one.slots for one in kills.killed],
        "each killed call is made again": [
            s for one in kills.killed for s in one.again
        ],
    }
    for name, seconds in rows.items():
        shares = (f"{quantile(seconds, share):.2f}" for share in (0.5, 0.95, 1.0))
        table.add_row(name, *shares)
    console(110).print(table)
    done, terms = kills.done, kills.terms
    print(
        f"{terms.slots} slots in {terms.processes} processes; {kills.hit} calls were "
        f"under way in the killed ones\n"
        f"{len(done.asked)} parts, {done.attempts} attempts, {done.unsure} of them "
        f"unsure; {kills.repeats} requests for a part asked for before\n"
        f"afterwards: {kills.busy_at_rest} instances busy at rest, "
        f"{kills.reached} calls at a time under a fresh load"
    )


def show_rates(rates: Rates) -> None:
    """Print what renewal costs."""
    terms = rates.terms
    title = (
        f"Throughput of {terms.instances} instances: nothing renewed, instances every "
        f"{terms.requests} calls, processes every {terms.process_requests}"
    )
    table = Table(title=title, title_justify="left", box=None)
    table.add_column("renewed")
    for name in ("calls", "calls/s", "ratios in a round", "ratio", "CPU ms/call"):
        table.add_column(name, justify="right")
    for side in SIDES:
        whole, ratios = rates.overall(side), rates.ratios(side)
        table.add_row(
            side,
            str(whole.calls),
            f"{whole.rate:.1f}",
            f"{min(ratios):.3f} to {max(ratios):.3f}",
            f"{ratio(rates, side):.3f}",
            f"{1000 * whole.cpu_s / whole.calls:.1f}",
        )
    console(110).print(table)
    print(f"{rates.replaced} processes were replaced")


def ratio(rates: Rates, side: str) -> float:
    """Compare a side with the one that renews nothing.

    Replaced processes are in few of the windows: the median would not see them.
    """
    if side == "processes":
        return rates.overall(side).rate / rates.overall("never").rate
    return median(rates.ratios(side))


def verdict(found: Found) -> dict[str, Target]:
    """Compare with the targets."""
    targets = {}
    if found.kills is not None:
        kills = found.kills
        slots = quantile([one.slots for one in kills.killed], 0.95)
        lost = len(kills.done.asked) - len(kills.done.answered)
        targets["slots_leaked"] = Target(kills.leaked, 0)
        targets["slot_works_again_p95_s"] = Target(slots, WORKS_AGAIN_S)
        targets["calls_lost"] = Target(lost, 0)
    if found.rates is not None:
        for side in SIDES[1:]:
            value = ratio(found.rates, side)
            targets[f"throughput_{side}_renewed"] = Target(value, THROUGHPUT, True)
    return targets


def quantile(values: Sequence[float], share: float) -> float:
    """Return a quantile of what was measured."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def show(found: Found) -> None:
    """Print what was found; the last line is JSON."""
    if found.kills is not None:
        show_kills(found.kills)
    if found.rates is not None:
        show_rates(found.rates)
    print_targets("recycle", verdict(found))


def options(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--kills", type=int, default=100, help="processes to kill")
    parser.add_argument("--processes", type=int, default=28, help="to kill among")
    parser.add_argument(
        "--every", type=float, default=2.4, help="seconds between two kills at least"
    )
    parser.add_argument("--rounds", type=int, default=10, help="of throughput")
    parser.add_argument(
        "--instances", type=int, default=8, help="of the pools of throughput"
    )
    parser.add_argument("--quick", action="store_true", help="a smoke test")
    args = parser.parse_args(argv)
    if args.quick:
        args.kills, args.processes, args.every, args.rounds = 3, 3, 4.0, 2
    return args


if __name__ == "__main__":
    chosen = options(sys.argv[1:])
    run_program(lambda: measure(chosen), show)
