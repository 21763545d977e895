"""How fast a cancel reaches the provider, and whether anything starts after it.

Starts a Temporal server with worker commands and one without, each with a
worker process and a scripted provider, prints a table, and at last one line of
JSON. See README.md beside this file for what is measured and why.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
from _cancel_cases import CASES, Bench, Seen, measure
from _cancel_load import provider_arguments, write_cancel_fleet
from _cancel_servers import MODES, Mode, serving
from _processes import python
from _program import (
    MEMORY,
    Target,
    console,
    print_targets,
    progress,
    run_program,
)
from rich.table import Table
from temporalio.client import Client

from tierpool import TierpoolPlugin, load_fleet

HERE = Path(__file__).parent
TARGETS_S: dict[Mode, float] = {"worker_commands": 0.3, "heartbeats": 4.0}

Found = dict[Mode, dict[str, Seen]]


async def measure_mode(mode: Mode, args: argparse.Namespace) -> dict[str, Seen]:
    """Start everything for one kind of server, and measure all cases."""
    found = {}
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="tierpool-bench-", dir=MEMORY)
        )
        scratch = Path(folder)
        address = await stack.enter_async_context(serving(mode, scratch))
        provider = await stack.enter_async_context(
            python(
                "-m",
                "tierpool.testing.provider",
                *provider_arguments(),
                log=scratch / "provider.log",
            )
        )
        base_url = provider.said["base_url"]
        fleet = write_cancel_fleet(scratch / "fleet", base_url)
        await stack.enter_async_context(
            python(
                *(str(HERE / "_cancel_worker.py"), "--address", address),
                *("--fleet", str(fleet)),
                log=scratch / "worker.log",
            )
        )
        http = await stack.enter_async_context(aiohttp.ClientSession())
        plugin = TierpoolPlugin(load_fleet(fleet))
        client = await Client.connect(address, plugins=[plugin])
        bench = Bench(client, base_url, http)
        for case in (case for case in CASES if case.name in args.cases):
            progress(f"{mode}: {case.name}")
            found[case.name] = await measure(bench, case, args.items)
    return found


def table_of(found: Found) -> Table:
    """Make the table: one row for each case on each kind of server."""
    title = "Seconds from a cancel to the aborted connection, as the provider saw it"
    table = Table(title=title, title_justify="left", box=None)
    for name in ("", "case"):
        table.add_column(name)
    for name in ("calls", "p50", "p95", "max", "not aborted", "started after"):
        table.add_column(name, justify="right")
    for mode, cases in found.items():
        for name, seen in cases.items():
            table.add_row(
                *(mode, name, str(len(seen.aborts_s))),
                *(f"{seen.quantile(share):.3f}" for share in (0.5, 0.95, 1.0)),
                *(str(seen.not_aborted), str(seen.started_after)),
            )
    return table


def verdict(found: Found) -> dict[str, Target]:
    """Compare with the targets: of all cases of a server the slowest counts."""
    values: dict[str, tuple[float, float]] = {
        f"abort_p95_s_{mode}": (
            max(seen.quantile(0.95) for seen in cases.values()),
            TARGETS_S[mode],
        )
        for mode, cases in found.items()
    }
    everything = [seen for cases in found.values() for seen in cases.values()]
    values["calls_not_aborted"] = (sum(seen.not_aborted for seen in everything), 0)
    values["calls_after_cancel"] = (sum(seen.started_after for seen in everything), 0)
    return {name: Target(*figure) for name, figure in values.items()}


def show(found: Found) -> None:
    """Print what was found; the last line is JSON."""
    console(110).print(table_of(found))
    print_targets("cancel", verdict(found))


def options(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    names = [case.name for case in CASES]
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--items", type=int, default=40, help="of each case")
    parser.add_argument("--cases", nargs="+", choices=names, default=names)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument(
        "--quick", action="store_true", help="a smoke test; its figures say little"
    )
    args = parser.parse_args(argv)
    if args.quick:
        args.items = 4
    return args


async def run(args: argparse.Namespace) -> Found:
    """Measure all that was asked for."""
    return {mode: await measure_mode(mode, args) for mode in args.modes}


if __name__ == "__main__":
    chosen = options(sys.argv[1:])
    run_program(lambda: run(chosen), show)
