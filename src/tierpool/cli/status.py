"""`tierpool status`: pools and items, from any machine that reaches Temporal."""

from __future__ import annotations

import argparse
import asyncio
from dataclasses import asdict
from typing import Any

from rich.console import Group
from rich.live import Live

from tierpool.cli.common import (
    DONE,
    connected,
    console,
    how_to_start,
    load,
    plain,
    print_json,
    table,
)
from tierpool.pools.observe import FleetStatus, PoolStatus, observe

_WATCH_SECONDS = 2.0
_COLUMNS = (
    "pool", "model", ">workers", ">limit", ">ready", ">busy", ">cooldown", ">draining",
    ">used 5 min", ">backlog", ">oldest s", ">in/s", ">done 5 min", ">mean s",
    "held back by",
)  # fmt: skip


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
    status = await observe(client, fleet)
    if args.watch and not args.json:
        with Live(_render(args, status), console=console, auto_refresh=False) as live:
            while True:
                await asyncio.sleep(_WATCH_SECONDS)
                live.update(_render(args, await observe(client, fleet)), refresh=True)
    _print(args, status)
    while args.watch:
        await asyncio.sleep(_WATCH_SECONDS)
        _print(args, await observe(client, fleet))
    return DONE


def _print(args: argparse.Namespace, status: FleetStatus) -> None:
    """Write one document; with --watch one line after the other."""
    if args.json:
        workers = [worker.whole() for worker in status.workers]
        print_json(
            asdict(status) | {"workers": workers, "limits": status.limits.whole()}
        )
    else:
        console.print(_render(args, status))


def _render(args: argparse.Namespace, status: FleetStatus) -> Group:
    rows = [_row(pool) for pool in status.pools]
    parts: list[Any] = [table(_COLUMNS, rows, f"fleet {status.fleet}")]
    limits = status.limits
    if limits.pools and limits.at:
        parts.append(
            f"limits applied at {limits.at:%Y-%m-%d %H:%M:%S} UTC by {plain(limits.by)}: "
            f"{', '.join(limits.pools)} (generation {limits.generation})"
        )
    parts += [
        f"[yellow]{pool.pool}: {pool.sizing}, {pool.utilisation:.0%} of its instances "
        "were in use within the last minutes[/]"
        for pool in status.pools
        if pool.sizing and pool.utilisation is not None
    ]
    parts += [f"[yellow]{plain(note)}[/]" for note in status.notes]
    parts += [
        f"[yellow]{how_to_start(args, pool)}[/]"
        for pool in status.pools
        if not pool.workers
    ]
    items = [[i.flow, i.state, i.items] for i in status.items]
    title = "running items" + ("" if status.items_complete else " (of the first 5,000)")
    listed = table(["flow", "state", ">items"], items, title)
    return Group(*parts, "", listed if items else "no running items")


def _row(pool: PoolStatus) -> list[object]:
    """Write a pool's line; what is not known is left empty."""
    counted = pool.pool not in ("flows", "control") and pool.workers
    states = [pool.limit, pool.ready, pool.busy, pool.cooldown, pool.draining]
    used = "" if pool.utilisation is None else f"{pool.utilisation:.0%}"
    mean = "" if pool.mean_seconds is None else f"{pool.mean_seconds:.1f}"
    held = f"{pool.bound}: {pool.reason}" if counted and pool.reason else ""
    return [
        pool.pool,
        ", ".join(pool.models),
        pool.workers,
        *(states if counted else [""] * len(states)),
        used,
        pool.backlog,
        f"{pool.oldest_seconds:.0f}",
        pool.arrivals_per_second,
        pool.completed if counted else "",
        mean,
        held,
    ]
