"""Whether a budget holds when everything happens at once, and is used up.

Callers in one workflow, and in a parent with children, ask until they are
denied, while calls fail, replies break off and workers are killed. Prints
tables and at last one line of JSON. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from decimal import ROUND_CEILING, Decimal
from itertools import chain
from pathlib import Path
from typing import Any

from _processes import clean_env
from _race_load import CAPS_USD
from _race_run import LAYOUTS, Figures, Stage, run_stage
from rich.console import Console
from rich.table import Table

from tierpool.devserver import embedded_server

MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""Where the server's database is: a disk's mood would be most of what is seen."""

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


def progress(text: str) -> None:
    """Tell whoever watches what is going on."""
    print(text, file=sys.stderr, flush=True)


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


def verdict(found: Sequence[Figures]) -> dict[str, dict[str, float | bool]]:
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
        name: {"value": float(_up(value)), "target": target, "holds": value <= target}
        for name, (value, target) in values.items()
    }


def show(found: Sequence[Figures], peers: Any | None) -> None:
    """Print what was found; the last line is JSON."""
    console = Console(width=None if sys.stdout.isatty() else 170, highlight=False)
    console.print(table_of(found))
    for one in found:
        where = f"stage {one.stage.number}, {one.layout}, {one.callers} callers"
        for words in (*filter(None, [one.problem]), *one.wrongful, *one.over):
            console.print(f"VIOLATION in {where}: {words}", markup=False)
    if peers is not None:
        console.print(peers)
    targets = verdict(found)
    for name, figure in targets.items():
        mark = "holds " if figure["holds"] else "MISSED"
        console.print(f"{mark} {name} {figure['value']} (target {figure['target']})")
    print(json.dumps({"benchmark": "budget_race", "targets": targets}))


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


async def run(args: argparse.Namespace) -> tuple[list[Figures], Any | None]:
    """Run everything; let Ctrl-C and SIGTERM stop all processes."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    ours = await race_ours(args)
    return ours, None if args.no_peers else await race_others(args)


def main() -> int:
    """Run the benchmark."""
    args = options(sys.argv[1:])
    clean = clean_env({})
    for name in os.environ.keys() - clean.keys():
        del os.environ[name]
    os.environ.update(clean)
    begun = time.perf_counter()
    with contextlib.suppress(asyncio.CancelledError):
        found, peers = asyncio.run(run(args))
        show(found, peers)
        progress(f"took {time.perf_counter() - begun:.0f} s")
        return 0
    progress("stopped")
    return 130


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # the SDK's threads can abort an ordinary exit
