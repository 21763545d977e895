"""`tierpool status`: pools and items, from any machine that reaches Temporal."""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

from rich.console import Group
from rich.live import Live

from tierpool.cli.common import (
    DONE,
    connected,
    console,
    how_to_start,
    load,
    print_json,
    table,
)
from tierpool.pools.observe import FleetView, observe

_WATCH_SECONDS = 2.0


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the sub-parser."""
    this = commands.add_parser(
        "status", parents=[common], help="show pools, backlog and items"
    )
    this.add_argument("--watch", "-w", action="store_true", help="show it live")
    this.set_defaults(command=command)


async def command(args: argparse.Namespace) -> int:
    """Print the fleet once, or until Ctrl-C."""
    fleet = load(args)
    client = await connected(fleet)
    view = await observe(client, fleet)
    if args.json:
        print_json(view)
    elif not args.watch:
        console.print(_render(args, view))
    else:
        with Live(_render(args, view), console=console, auto_refresh=False) as live:
            while True:
                await asyncio.sleep(_WATCH_SECONDS)
                live.update(_render(args, await observe(client, fleet)), refresh=True)
    return DONE


def _render(args: argparse.Namespace, view: FleetView) -> Group:
    rows = [
        [q.pool, q.model, q.workers, "" if q.slots_per_worker is None else q.workers * q.slots_per_worker,
         q.backlog, f"{q.oldest.total_seconds():.0f}", q.added_per_second, q.taken_per_second]
        for q in view.queues
    ]  # fmt: skip
    columns = [
        "pool",
        "model",
        ">workers",
        ">slots",
        ">backlog",
        ">oldest s",
        ">in/s",
        ">out/s",
    ]
    parts: list[Any] = [table(columns, rows, f"fleet {view.fleet}")]
    parts += [
        f"[yellow]{how_to_start(args, q)}[/]" for q in view.queues if not q.workers
    ]
    items = [[i.flow, i.state, i.items] for i in view.items]
    title = "running items" + ("" if view.items_complete else " (of the first 5,000)")
    parts += [
        "",
        table(["flow", "state", ">items"], items, title)
        if items
        else "no running items",
    ]
    return Group(*parts)
