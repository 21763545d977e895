"""How a long conversation's history grows, measured side by side in one run.

Starts a Temporal server and a scripted provider, lets tierpool and the official
OpenAI Agents plugin hold the same conversations, prints tables, and at last one
line of JSON. See README.md beside this file for what is measured and why.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from _history_load import Case, replies_as_steps
from _history_report import Found, longest_table, notes, size_table, verdict
from _history_sides import SIDES, Bench, Side, run_side
from _processes import python
from _program import MEMORY, console, print_targets, progress, run_program

from tierpool.devserver import embedded_server

START_BYTES = (0, 800_000)


def cases_of(side: Side, args: argparse.Namespace) -> list[Case]:
    """Return the conversations that a side holds.

    The figures are tierpool's as it comes; beside it fewer lengths show as much.
    """
    found = []
    for start in args.start:
        lengths = args.turns
        if side is not SIDES[0]:
            few = args.peer_turns
            lengths = few if not start else sorted({few[0], few[-1]})
        found += [Case(turns, start) for turns in lengths]
    return found


async def run(args: argparse.Namespace) -> Found:
    """Let all sides hold their conversations, one after the other."""
    found = Found()
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="tierpool-bench-", dir=MEMORY)
        )
        scratch = Path(folder)
        cache = args.peer_cache or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="tierpool-peers-"))
        )
        server = await stack.enter_async_context(
            embedded_server(scratch / "server", ui=False)
        )
        steps = ("--port", "0", "--steps", replies_as_steps())
        provider = await stack.enter_async_context(
            python("-m", "tierpool.testing.provider", *steps, log=scratch / "p.log")
        )
        bench = Bench(server.address, provider.said["base_url"], scratch, cache)
        for side in SIDES:
            if side.is_peer and args.no_peers:
                found.absent[side.name] = "left out by --no-peers"
                continue
            progress(f"{side.name}")
            said = await run_side(bench, side, cases_of(side, args), args.limit)
            found.add(side, said)
    return found


def show(found: Found) -> None:
    """Print what was found; the last line is JSON."""
    tables = (size_table(found), longest_table(found))
    console(130).print(*tables, *notes(found), sep="\n")
    print_targets("history", verdict(found))


def options(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--turns", type=int, nargs="+", default=[10, 20, 40, 80, 200])
    parser.add_argument(
        "--start", type=int, nargs="+", default=list(START_BYTES), help="bytes"
    )
    parser.add_argument(
        "--peer-turns",
        type=int,
        nargs="+",
        default=[10, 40, 80],
        help="for all sides but tierpool as it comes",
    )
    parser.add_argument(
        "--limit", type=float, default=120, help="seconds of a run; then it is given up"
    )
    parser.add_argument(
        "--peer-cache", type=Path, help="folder of the peers' environment; kept"
    )
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument(
        "--quick", action="store_true", help="a smoke test; its figures say little"
    )
    args = parser.parse_args(argv)
    if args.quick:
        args.turns, args.peer_turns = [4, 8, 16], [4, 8]
    args.turns, args.peer_turns = sorted(set(args.turns)), sorted(set(args.peer_turns))
    if len(args.turns) < 3:
        parser.error("--turns: give three numbers at least, for two slopes")
    if min(args.turns[0], args.peer_turns[0]) < 1:
        parser.error("--turns and --peer-turns: a run has one turn at least")
    return args


if __name__ == "__main__":
    chosen = options(sys.argv[1:])
    run_program(lambda: run(chosen), show)
