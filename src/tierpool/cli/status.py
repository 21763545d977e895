"""`tierpool status`: pools and items, from any machine that reaches Temporal."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

from rich.console import Group
from rich.live import Live
from temporalio.client import Client

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
from tierpool.cli.scaling import scaling_lines
from tierpool.cli.shared import shared_lines
from tierpool.errors import ServerError
from tierpool.fleet import LoadedFleet
from tierpool.pools.observe import WITHOUT_CALLS, FleetStatus, PoolStatus, observe

_WATCH_SECONDS = 2.0
_OLD = "this is what was known before"
_COLUMNS = (
    "pool", ">workers", ">limit", ">ready", ">busy", ">cool", ">drain", ">used",
    ">backlog", ">oldest", ">in/s", ">done", ">mean",
)  # fmt: skip
_LEGEND = "cool: in cooldown. used, done, mean: within 5 minutes. oldest, mean: seconds"


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
    if args.watch and not args.json and console.is_terminal:
        await _show_live(args, client, fleet, status)
    _print(args, status)
    while args.watch:
        status = await _again(client, fleet, status)
        _print(args, status)
    return DONE


async def _show_live(
    args: argparse.Namespace, client: Client, fleet: LoadedFleet, status: FleetStatus
) -> None:
    with Live(_render(args, status), console=console, auto_refresh=False) as live:
        while True:
            status = await _again(client, fleet, status)
            live.update(_render(args, status), refresh=True)


async def _again(
    client: Client, fleet: LoadedFleet, before: FleetStatus
) -> FleetStatus:
    """Look again; while the server does not answer, go on with what was known."""
    await asyncio.sleep(_WATCH_SECONDS)
    try:
        return await observe(client, fleet)
    except ServerError as error:
        old = f"{error}; {_OLD}"
        notes = tuple(note for note in before.notes if not note.endswith(_OLD))
        return replace(before, notes=(*notes, old))


def _print(args: argparse.Namespace, status: FleetStatus) -> None:
    """Write one document; with --watch one after the other."""
    if args.json:
        workers = [worker.whole() for worker in status.workers]
        limits = status.limits.whole()
        scaling = status.scaling.whole() if status.scaling else None
        whole = {"workers": workers, "limits": limits, "scaling": scaling}
        print_json(asdict(status) | whole)
    else:
        console.print(_render(args, status))


def _render(args: argparse.Namespace, status: FleetStatus) -> Group:
    rows = [_row(pool) for pool in status.pools]
    parts: list[Any] = [table(_COLUMNS, rows, f"fleet {status.fleet}"), _LEGEND, ""]
    parts += [
        f"{pool.pool}: {plain(line)}"
        for pool in status.pools
        if (line := _about(pool)) and pool.pool not in WITHOUT_CALLS
    ]
    parts += [plain(line) for line in scaling_lines(status.scaling, datetime.now(UTC))]
    parts += [plain(line) for line in shared_lines(status.shared)]
    limits = status.limits
    if limits.pools and limits.at:
        names = [*limits.pools, *(["the fleet-wide limits"] if limits.shared else [])]
        parts.append(
            f"limits applied at {limits.at:%Y-%m-%d %H:%M:%S} UTC by {plain(limits.by)}: "
            f"{', '.join(names)} (generation {limits.generation})"
        )
    parts += [f"[yellow]{plain(line)}[/]" for line in _warnings(args, status)]
    items = [[i.flow, i.state, i.items] for i in status.items]
    title = "running items" + ("" if status.items_complete else " (of the first 5,000)")
    listed = table(["flow", "state", ">items"], items, title)
    return Group(*parts, "", listed if items else "no running items")


def _about(pool: PoolStatus) -> str:
    """Write the models of a pool, and what holds it back."""
    held = ""
    if pool.workers and pool.bound not in (None, "backlog"):
        held = f"held back by {pool.bound}: {pool.reason}"
    return " · ".join(filter(None, [", ".join(pool.models), held]))


def _warnings(args: argparse.Namespace, status: FleetStatus) -> Iterator[str]:
    for pool in status.pools:
        if pool.sizing and pool.utilisation is not None:
            yield (
                f"{pool.pool}: {pool.sizing}, {pool.utilisation:.0%} of its instances "
                "were in use within the last minutes"
            )
    yield from status.notes
    for pool in status.pools:
        if not pool.workers and pool.pool != "control":
            yield how_to_start(args, pool)


def _row(pool: PoolStatus) -> list[object]:
    """Write a pool's line; what is not known is left empty."""
    counted = pool.pool not in WITHOUT_CALLS and pool.workers
    states = [pool.limit, pool.ready, pool.busy, pool.cooldown, pool.draining]
    used = "" if pool.utilisation is None else f"{pool.utilisation:.0%}"
    mean = "" if pool.mean_seconds is None else f"{pool.mean_seconds:.1f}"
    return [
        pool.pool,
        pool.workers,
        *(states if counted else [""] * len(states)),
        used,
        pool.backlog,
        f"{pool.oldest_seconds:.0f}",
        pool.arrivals_per_second,
        pool.completed if counted else "",
        mean,
    ]
