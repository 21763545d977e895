"""What the commands share: output, the fleet file, the connection."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic_core import to_jsonable_python
from rich.console import Console
from rich.table import Table
from temporalio.client import Client, Plugin
from temporalio.runtime import Runtime

from tierpool.client import connect, state_folder
from tierpool.config import load_fleet
from tierpool.devserver import find_dev_server
from tierpool.errors import ConfigError, Problem, TierpoolError
from tierpool.fleet import LoadedFleet
from tierpool.plugin import TierpoolPlugin
from tierpool.pools.observe import PoolStatus

__all__ = [
    "DONE",
    "FAILED",
    "UNREACHABLE",
    "USAGE",
    "connected",
    "console",
    "counted",
    "errors",
    "how_to_start",
    "load",
    "many",
    "plain",
    "print_error",
    "print_json",
    "print_problems",
    "table",
]

DONE, FAILED, USAGE, UNREACHABLE = 0, 1, 2, 3

# what is piped into a file or another program is not folded at 80 columns
_WIDTH = None if sys.stdout.isatty() else 200
# without emoji: `agents.yaml:100:3` is a place, and `:100:` in it no picture
console = Console(highlight=False, emoji=False, width=_WIDTH)
errors = Console(stderr=True, highlight=False, emoji=False)
_NARROW = 100


def load(args: argparse.Namespace) -> LoadedFleet:
    """Read the fleet file that the command line names.

    Raises:
        ConfigError: with all its problems.
    """
    return load_fleet(Path(args.file))


async def connected(
    fleet: LoadedFleet,
    *,
    runtime: Runtime | None = None,
    plugins: Sequence[Plugin] = (),
) -> Client:
    """Connect with the plugin; the embedded server's address is the default.

    Other plugins come before it: what they wrap contains what it does.

    Raises:
        ServerError: if no server answers.
    """
    embedded = find_dev_server(state_folder(fleet.path))
    address = embedded.address if embedded else None
    own = TierpoolPlugin(fleet)
    return await connect([*plugins, own], address=address, runtime=runtime)


def print_json(document: Any) -> None:
    """Write one JSON document on standard output."""
    sys.stdout.write(
        json.dumps(to_jsonable_python(document), ensure_ascii=False) + "\n"
    )
    sys.stdout.flush()  # a program may be waiting for it, as for the ready line of dev


def print_error(args: argparse.Namespace, error: TierpoolError) -> None:
    """Say what went wrong: as JSON on standard output, or for people on the other."""
    if getattr(args, "json", False):
        document: dict[str, Any] = {"error": str(error), "type": error.type_name}
        if isinstance(error, ConfigError):
            document["problems"] = [p.as_dict() for p in error.problems]
        print_json(document)
    elif isinstance(error, ConfigError):
        print_problems(error.problems)
    else:
        errors.print(f"[red]error:[/] {plain(str(error))}", soft_wrap=True)


def print_problems(problems: Sequence[Problem]) -> None:
    """Write problems for people, one a line, on standard error."""
    colours = {"error": "red", "warning": "yellow"}
    for problem in problems:
        text = plain(str(problem))
        word = f"{problem.severity}:"
        shown = text.replace(word, f"[{colours[problem.severity]}]{word}[/]", 1)
        errors.print(shown, soft_wrap=True)


def table(
    columns: Sequence[str], rows: Sequence[Sequence[object]], title: str = ""
) -> Table:
    """Make a table; columns that start with `>` are aligned to the right.

    Where the terminal is narrow, names are folded before numbers are.
    """
    made = Table(
        title=title or None,
        title_justify="left",
        box=None,
        pad_edge=False,
        collapse_padding=console.width < _NARROW,
    )
    for column in columns:
        right = column.startswith(">")
        made.add_column(
            column.lstrip(">"),
            justify="right" if right else "left",
            overflow="fold",
            no_wrap=right,
        )
    for row in rows:
        made.add_row(*(plain(str(cell)) for cell in row))
    return made


def plain(text: str) -> str:
    """Keep rich from reading brackets in our texts as styles."""
    return text.replace("[", "\\[")


def how_to_start(args: argparse.Namespace, pool: PoolStatus) -> str:
    """Say how to serve a pool that nobody serves, as far as is known."""
    own = {"flows": "--flows", "tools": "--tools"}
    flag = own.get(pool.pool, f"--pool {pool.pool}")
    what = f"no worker for {pool.pool}; start one"
    if pool.silent:
        what = f"no worker for {pool.pool} reports; if those are gone, start one"
    return f"{what}: tierpool worker {flag} --file {args.file}"


def many(count: int, one: str, more: str = "") -> str:
    """Write a number of things: `1 worker`, `2 workers`."""
    return f"{count:,} {one if count == 1 else more or one + 's'}"


def counted(counts: Mapping[str, int]) -> str:
    """Write counts such as `3 done, 1 failed`."""
    return ", ".join(f"{n} {name}" for name, n in counts.items()) or "none"
