"""Whether a budget holds when everything happens at once, and is used up.

Callers in one workflow, and in a parent with children, ask until they are
denied, while calls fail, replies break off and workers are killed. Prints
tables and at last one line of JSON. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from decimal import ROUND_CEILING, Decimal
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

from _program import (
    MEMORY,
    Target,
    console,
    print_targets,
    progress,
    run_program,
)
from _race_load import CAPS_USD
from _race_run import LAYOUTS, Figures, Stage, run_stage
from rich.table import Table

from tierpool.devserver import embedded_server

STAGES = (
    Stage(1, "wait", 1, "none"),
    Stage(2, "wait", 4, "none"),
    Stage(3, "wait", 1, "errors"),
    Stage(4, "wait", 4, "errors"),
    Stage(5, "wait", 1, "kill"),
    Stage(6, "wait", 4, "kill"),
    Stage(7, "fail", 1, "none"),
    Stage(8, "fail", 4, "cut"),
)
USUAL = (1, 4, 5, 6, 8)
QUICK = (1, 6)

Raced: TypeAlias = tuple[list[Figures], Any | None]


async def race_ours(args: argparse.Namespace) -> list[Figures]:
    """Run all stages on one server, one after the other."""
    found: list[Figures] = []
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="tierpool-bench-", dir=MEMORY)
        )
        scratch = Path(folder)
        server = await stack.enter_async_context(
            embedded_server(scratch / "server", ui=False)
        )

        async def stage_of(stage: Stage) -> list[Figures]:
            begun = time.perf_counter()
            rows = await run_stage(
                stage, args.callers, args.layouts, server.address, scratch
            )
            took = time.perf_counter() - begun
            progress(
                f"stage {stage.number}: {stage.mode}, {stage.processes} pool "
                f"processes, faults: {stage.faults} ({took:.0f} s)"
            )
            return rows

        for stage in (one for one in args.stages if one.faults != "kill"):
            found += await stage_of(stage)
        # these mostly wait, for heartbeats that do not come
        killed = (stage_of(one) for one in args.stages if one.faults == "kill")
        found += chain.from_iterable(await asyncio.gather(*killed))
    return found


async def race_others(args: argparse.Namespace) -> Any | None:
    """Let the peers race; return their table, or None if they are not there."""
    try:
        from _peers import peer_table, race_peers
    except ImportError as error:
        progress(f"no peers: {error}")
        return None
    with tempfile.TemporaryDirectory(prefix="tierpool-peers-") as folder:
        try:
            rows = await race_peers(args.peer_cache or Path(folder), args.callers)
        except Exception as error:  # noqa: BLE001 - theirs must not hide our figures
            progress(f"no peers: {type(error).__name__}: {error}")
            return None
    return peer_table(rows)


def table_of(found: Sequence[Figures]) -> Table:
    """Make the table: one row for each race."""
    table = Table(
        title="One budget until it is exhausted", title_justify="left", box=None
    )
    for name in ("faults", "mode", "layout"):
        table.add_column(name)
    for name in (
        *("processes", "callers", "provider / cap", "charged / cap", "most held / cap"),
        *("calls", "lost or cut", "no usage", "failed calls"),
        *("charged, not billed", "denials", "wrongful", "unused"),
    ):
        table.add_column(name, justify="right")
    for one in found:
        stage, outcomes = one.stage, one.outcomes
        head = (stage.faults, stage.mode, one.layout, str(stage.processes))
        if outcomes is None:
            table.add_row(*head, str(one.callers), "-")
            continue
        table.add_row(
            *(*head, str(one.callers)),
            *(f"{_up(one.ratio)}", f"{_up(one.charged / one.cap)}"),
            *(f"{_up(one.most_held / one.cap)}", str(one.calls)),
            *(str(outcomes["ambiguous"]), str(outcomes["no usage"])),
            *(str(one.failed_calls), f"{one.charged - one.provider_usd:.4f}"),
            *(str(one.denials), str(len(one.wrongful)), f"{one.unused_calls:.2f}"),
        )
    return table


def _up(figure: Decimal) -> Decimal:
    """Round up, so that nothing above a limit looks like the limit."""
    return figure.quantize(Decimal("0.0001"), ROUND_CEILING)


def verdict(found: Sequence[Figures]) -> dict[str, Target]:
    """Compare the worst of all races with the targets."""
    ended = [one for one in found if one.outcomes is not None]
    most = Decimal("Infinity")
    values = {
        "ratio": (max((one.ratio for one in ended), default=most), 1),
        "held_ratio": (
            max((one.most_held / one.cap for one in ended), default=most),
            1,
        ),
        "held_above_grant": (Decimal(sum(len(one.over) for one in ended)), 0),
        "wrongful_refusals": (Decimal(sum(len(one.wrongful) for one in ended)), 0),
        "unused_calls": (max((one.unused_calls for one in ended), default=most), 1),
        "races_with_problems": (Decimal(sum(bool(one.problem) for one in found)), 0),
    }
    return {
        name: Target(float(value), target, shown=float(_up(value)))
        for name, (value, target) in values.items()
    }


def show(raced: Raced) -> None:
    """Print what was found; the last line is JSON."""
    found, peers = raced
    out = console(170)
    out.print(table_of(found))
    for one in found:
        where = f"stage {one.stage.number}, {one.layout}, {one.callers} callers"
        for words in (*filter(None, [one.problem]), *one.wrongful, *one.over):
            out.print(f"VIOLATION in {where}: {words}", markup=False)
    if peers is not None:
        out.print(peers)
    print_targets("budget_race", verdict(found))


def options(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--callers", type=int, nargs="+", choices=list(CAPS_USD), default=list(CAPS_USD)
    )
    numbers = [stage.number for stage in STAGES]
    parser.add_argument(
        "--stages", type=int, nargs="+", choices=numbers, default=list(USUAL)
    )
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    parser.add_argument("--no-peers", action="store_true", help="race ours alone")
    parser.add_argument("--peer-cache", type=Path, help="folder of environments, kept")
    parser.add_argument(
        "--quick", action="store_true", help="a smoke test: two stages, no peers"
    )
    args = parser.parse_args(argv)
    if args.quick:
        args.stages, args.callers, args.no_peers = QUICK, [1, 8], True
    args.stages = [stage for stage in STAGES if stage.number in args.stages]
    return args


async def run(args: argparse.Namespace) -> Raced:
    """Let ours race, then the others."""
    ours = await race_ours(args)
    return ours, None if args.no_peers else await race_others(args)


if __name__ == "__main__":
    chosen = options(sys.argv[1:])
    run_program(lambda: run(chosen), show)
