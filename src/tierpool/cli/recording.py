"""`tierpool simulate --record`: what a running fleet did, as a trace."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path

from tierpool.cli.common import DONE, connected, console, many, plain, print_json
from tierpool.cli.numbers import read_time
from tierpool.errors import UsageError
from tierpool.fleet import LoadedFleet
from tierpool.pools.recorded import Recorded, recorded_calls
from tierpool.scaling.recorded import trace_of_calls
from tierpool.scaling.trace_files import write_trace
from tierpool.scaling.traces import Trace

__all__ = ["RECORDED", "check_target", "record", "recorded", "since_of"]

RECORDED = "recorded:"
"""Begins the name of a trace that is read from the running fleet."""

_LONGEST = timedelta(days=30)


async def recorded(
    args: argparse.Namespace,
    fleet: LoadedFleet,
    since: timedelta,
    tiers: Sequence[str] = (),
) -> Recorded:
    """Read the calls of a running fleet.

    Raises:
        ServerError: if no server answers.
    """
    client = await connected(fleet)
    return await recorded_calls(client, fleet, since, tiers=tiers, types=args.workflow)


async def record(args: argparse.Namespace, fleet: LoadedFleet) -> int:
    """Write one trace, or one for each tier; return the exit status."""
    if args.trace is not None:
        raise UsageError(
            "--record writes a trace, --trace replays one: pass one of them"
        )
    check_target("--record", args.record, ".csv")
    known = list(fleet.fleet.tiers)
    tiers = [args.tier] if args.tier else known
    seen = await recorded(args, fleet, args.since, tiers)
    parts: Mapping[Path, list[str]] = {args.record: tiers}
    if args.all:
        stem = args.record.stem
        parts = {args.record.with_stem(f"{stem}-{tier}"): [tier] for tier in known}
    written: list[tuple[Path, list[str], int]] = []
    for path, of in parts.items():
        trace = trace_of_calls(seen.calls, path.stem, tiers=of)
        if not len(trace):
            continue
        _write(trace, path)
        written.append((path, of, len(trace)))
    if not written:
        raise UsageError(
            f"no call of {', '.join(tiers)} has ended since "
            f"{seen.begin:%Y-%m-%d %H:%M} UTC: nothing was written"
        )
    if args.json:
        files = [{"file": str(p), "tiers": of, "calls": n} for p, of, n in written]
        told = {"unfinished": seen.unfinished, "sent_back": seen.sent_back}
        print_json({"written": files, **told, "notes": seen.notes})
        return DONE
    for path, of, calls in written:
        console.print(plain(f"{path}: {many(calls, 'call')} of {', '.join(of)}"))
    for note in seen.notes:
        console.print(f"[yellow]{plain(note)}[/]", soft_wrap=True)
    return DONE


def _write(trace: Trace, path: Path) -> None:
    try:
        write_trace(trace, path)
    except OSError as error:
        raise UsageError(
            f"--record: {path} cannot be written: {error.strerror}"
        ) from error


def check_target(option: str, path: Path, ending: str) -> None:
    """Refuse a file that could not be written, before the work is done."""
    if path.suffix.lower() != ending:
        raise UsageError(f"{option} {path}: a name that ends in {ending} is right")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{option} {path}: there is no folder {path.parent}")


def since_of(text: str) -> timedelta:
    """Read a time such as 30m, 24h or 7d, for argparse."""
    since = read_time(text)
    if since is None or not timedelta() < since <= _LONGEST:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no time within 30 days; write a number of minutes, hours or "
            "days, such as 30m, 24h or 7d"
        )
    return since
