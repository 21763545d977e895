"""Caps on calls in flight, over processes, while workers and items come to their end.

Starts Temporal servers, providers that keep books and worker processes, lets more
items call than a role's cap and the fleet's allow, kills workers and stops items,
does the same load with the peers, prints tables, and at last one line of JSON. See
README.md beside this file for what is measured and why.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from _books import (
    Served,
    Terms,
    accountant,
    hand_overs,
    most_at_a_time,
    quantile,
    seconds_busy,
)
from _caps_load import Order
from _caps_own import FLEET_CAP, ROLE_CAP, Phase, Size, faults, priority, steady
from _limits_fleet import server
from _peers import Peer
from _program import MEMORY, Target, console, print_targets, progress, run_program
from _rates_peer import Absent, run_peer
from rich.table import Table

CALL_S = (0.5, 4.0)
SHORT_S = (0.05, 0.05)
PARTS = ("steady", "short", "priority", "faults", "peers")
PEERS = (
    Peer(
        "Temporal, 4 workers of 8 slots",
        "_caps_raw",
        ("temporalio>=1.35,<2",),
        environment="temporal",
    ),
    Peer("DBOS queue", "_caps_dbos", ("dbos>=3.4,<4",), environment="dbos"),
    Peer(
        "Prefect limit",
        "_caps_prefect",
        # its server does not start with later ones
        ("prefect>=3.4,<3.9", "fastapi>=0.139,<0.145"),
        environment="prefect",
    ),
)


@dataclass
class PeerFound:
    """What came of a peer, of each load."""

    name: str
    version: str = ""
    phases: dict[str, Phase] = field(default_factory=dict)
    absent: str = ""


@dataclass
class Found:
    """All that was measured, of what was asked for."""

    steady: Phase | None = None
    short: Phase | None = None
    faults: Sequence[Phase] = ()
    priority: Phase | None = None
    ranks: Mapping[str, int] = field(default_factory=dict)
    peers: Sequence[PeerFound] = ()


async def measure(args: argparse.Namespace) -> Found:
    """Measure all parts, one after the other."""
    found, size = Found(), size_of(args)
    with tempfile.TemporaryDirectory(prefix="tierpool-bench-", dir=MEMORY) as name:
        scratch = Path(name)
        if "steady" in args.parts:
            found.steady = await steady("caps-steady", CALL_S, scratch, size)
        if "short" in args.parts:
            short = replace(size, steady_s=size.steady_s / 3)
            found.short = await steady("caps-short", SHORT_S, scratch, short, 0)
        if "priority" in args.parts:
            found.priority, found.ranks = await priority(scratch, size)
        if "faults" in args.parts:
            found.faults = await faults(args.runs, scratch, size)
        if "peers" in args.parts:
            cache = args.peer_cache or scratch / "peers"
            found.peers = [await _peer(one, scratch, cache, size) for one in PEERS]
    return found


async def _peer(peer: Peer, scratch: Path, cache: Path, size: Size) -> PeerFound:
    """Let a peer make the three loads that it can make."""
    found = PeerFound(peer.name)
    loads = {"steady": (CALL_S, 0.0), "short": (SHORT_S, 0.0),
             "faults": (CALL_S, size.kill_every_s)}  # fmt: skip
    for what, (call_s, kill_every_s) in loads.items():
        progress(f"{peer.name}: {what}")
        folder = scratch / f"{peer.folder}-{what}"
        folder.mkdir()
        seconds = size.faults_s if what == "faults" else 2 * size.steady_s / 3
        async with (
            server(folder / "server") as temporal,
            accountant(Terms(call_s=call_s), folder / "provider.log") as books,
        ):
            order = Order(
                *(books.base_url, temporal.address, str(folder), 4, ROLE_CAP),
                waiting=4 * ROLE_CAP,
                seconds=seconds,
                kill_every_s=kill_every_s,
            )
            try:
                said = await run_peer(peer, order, cache)
            except Absent as why:
                found.absent = f"{what}: {why}"
                return found
            calls = await books.calls()
        begin = min((c.started for c in calls), default=0.0)
        end = max((c.started for c in calls), default=0.0)
        found.version = said["version"]
        found.phases[what] = Phase(calls, min(begin + 5, end), end)
    return found


def size_of(args: argparse.Namespace) -> Size:
    """Say how long and how much."""
    if args.quick:
        return Size(steady_s=10, faults_s=10, kill_every_s=3, waiting=40)
    return Size()


def peaks(calls: Sequence[Served]) -> tuple[int, int]:
    """Return the most calls at a time, of the capped role and in all."""
    return most_at_a_time(calls, "clerk"), most_at_a_time(calls)


def between(phase: Phase) -> list[float]:
    """Return the times of handing over while others waited."""
    calls = [c for c in phase.calls if c.started < phase.end and c.ended < phase.end]
    return hand_overs(calls, "clerk", ROLE_CAP, phase.begin)


def used(phase: Phase) -> float:
    """Return the share of the role's cap that was in use."""
    seconds = phase.end - phase.begin
    if seconds <= 0:
        return 0.0
    busy = seconds_busy(phase.calls, phase.begin, phase.end, "clerk")
    return busy / (ROLE_CAP * seconds)


def per_s(phase: Phase) -> float:
    """Return the calls that began in a second."""
    begun = [c for c in phase.calls if phase.begin <= c.started < phase.end]
    return len(begun) / max(phase.end - phase.begin, 0.001)


def inversions(phase: Phase, ranks: Mapping[str, int]) -> int:
    """Count the calls that began before a more urgent one that had waited, too.

    As many as the cap may begin at once, in any order.
    """
    order = [
        ranks[c.label]
        for c in sorted(phase.calls, key=lambda c: c.started)
        if c.taken and c.label in ranks
    ]
    return sum(
        1
        for at, rank in enumerate(order)
        if any(later < rank for later in order[at + ROLE_CAP :])
    )


COLUMNS = (
    *("version", "calls", "calls/s", "most of the role", "most in all"),
    *("hand-over p50 ms", "p95 ms", "used %", "kills", "items stopped"),
)


def row(name: str, version: str, phase: Phase, *, waits: bool) -> list[str]:
    """Return the cells of a phase; hand-over where others waited all the while."""
    gaps = between(phase) if waits else []
    cells = [f"{1000 * quantile(gaps, share):.0f}" for share in (0.5, 0.95)]
    role, whole = peaks(phase.calls)
    return [
        *(name, version, str(len(phase.calls)), f"{per_s(phase):.1f}"),
        *(str(role), str(whole)),
        *(cells if gaps else ("-", "-")),
        f"{100 * used(phase):.0f}",
        str(phase.kills or "-"),
        str(phase.stopped or "-"),
    ]


def show(found: Found) -> None:
    """Print what was found; the last line is JSON."""
    title = f"Role cap {ROLE_CAP}, fleet cap {FLEET_CAP} (peers: {ROLE_CAP} alone)"
    table = Table(title=title, title_justify="left", box=None)
    table.add_column("load")
    for name in COLUMNS:
        table.add_column(name, justify="right")
    own = {"steady": found.steady, "short": found.short, "priority": found.priority}
    for name, phase in own.items():
        if phase is not None:
            table.add_row(*row(name, "tierpool", phase, waits=name != "priority"))
    for number, phase in enumerate(found.faults, 1):
        table.add_row(*row(f"faults {number}", "tierpool", phase, waits=False))
    for peer in found.peers:
        for name, phase in peer.phases.items():
            # a peer whose peak is above the cap hands nothing over
            waits = name != "faults" and most_at_a_time(phase.calls) <= ROLE_CAP + 1
            cells = row(f"{peer.name}: {name}", peer.version, phase, waits=waits)
            table.add_row(*cells)
    console(160).print(table)
    for peer in found.peers:
        if peer.absent:
            print(f"{peer.name} is absent: {peer.absent}")
    print_targets("caps", verdict(found))


def verdict(found: Found) -> dict[str, Target]:
    """Compare the figures with their targets."""
    targets: dict[str, Target] = {}
    own = (found.steady, found.short, found.priority, *found.faults)
    seen = [peaks(phase.calls) for phase in own if phase is not None]
    if seen:
        targets["most_of_the_role"] = Target(max(role for role, _ in seen), ROLE_CAP)
        targets["most_in_all"] = Target(max(whole for _, whole in seen), FLEET_CAP)
    if found.steady is not None:
        gaps = between(found.steady)
        targets["hand_over_p50_s"] = Target(quantile(gaps, 0.5), 0.1)
        targets["hand_over_p95_s"] = Target(quantile(gaps, 0.95), 0.35)
        targets["role_capacity_used"] = Target(used(found.steady), 0.85, at_least=True)
    if found.short is not None:
        targets["claims_per_s"] = Target(per_s(found.short), 20, at_least=True)
    if found.priority is not None:
        served = sum(c.taken and c.label in found.ranks for c in found.priority.calls)
        targets["waiting_not_served"] = Target(len(found.ranks) - served, 0)
        wrong = inversions(found.priority, found.ranks)
        targets["served_before_more_urgent"] = Target(wrong, 0)
    return targets


def options(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--runs", type=int, default=5, help="with faults")
    parser.add_argument("--peer-cache", type=Path, help="folder of environments")
    parser.add_argument("--quick", action="store_true", help="a smoke test")
    args = parser.parse_args(argv)
    if args.quick:
        args.runs = 1
    return args


if __name__ == "__main__":
    chosen = options(sys.argv[1:])
    run_program(lambda: measure(chosen), show)
