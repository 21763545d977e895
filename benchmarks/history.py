"""How a long conversation's history grows, measured side by side in one run.

Starts a Temporal server and a scripted provider, lets tierpool and the official
OpenAI Agents plugin hold the same conversations, prints tables, and at last one
line of JSON. See README.md beside this file for what is measured and why.
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
from pathlib import Path

from _history_load import Case, replies_as_steps
from _history_report import Found, longest_table, notes, size_table, verdict
from _history_sides import SIDES, Bench, Side, run_side
from _processes import clean_env, python
from rich.console import Console

from tierpool.devserver import embedded_server

MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""Where the server's database is: a disk's mood would be most of the time seen."""

START_BYTES = (0, 800_000)


def progress(text: str) -> None:
    """Tell whoever watches what is going on."""
    print(text, file=sys.stderr, flush=True)


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
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
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
    console = Console(width=None if sys.stdout.isatty() else 130, highlight=False)
    console.print(size_table(found), longest_table(found), *notes(found), sep="\n")
    targets = verdict(found)
    for name, figure in targets.items():
        mark = "holds " if figure["holds"] else "MISSED"
        console.print(f"{mark} {name} {figure['value']} (target {figure['target']})")
    print(json.dumps({"benchmark": "history", "targets": targets}))


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


def main() -> int:
    """Run the benchmark."""
    args = options(sys.argv[1:])
    clean = clean_env({})
    for name in os.environ.keys() - clean.keys():
        del os.environ[name]
    os.environ.update(clean)
    begun = time.perf_counter()
    with contextlib.suppress(asyncio.CancelledError):
        found = asyncio.run(run(args))
        show(found)
        progress(f"took {time.perf_counter() - begun:.0f} s")
        return 0
    progress("stopped")
    return 130


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # the SDK's threads can abort an ordinary exit
