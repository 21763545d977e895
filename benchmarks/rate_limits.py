"""What a provider's rate limits let through, and what waiting for them costs.

Starts a provider that enforces requests and tokens per minute and bursts, and lets
tierpool, LiteLLM's Router and Temporal's OpenAI Agents plugin make the same load
against it, one after the other; prints a table, and at last one line of JSON. See
README.md beside this file for what is measured and why.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from _books import Served, Terms, accountant, highest
from _limits_fleet import server
from _peers import Peer
from _program import (
    MEMORY,
    Target,
    console,
    print_targets,
    progress,
    run_program,
)
from _rates_load import OUTPUT_TOKENS, Occupied, Order, occupied_in
from _rates_own import run_own, waited_s
from _rates_peer import Absent, run_peer
from rich.table import Table

OWN = "tierpool"
PEERS = {
    "LiteLLM Router": Peer(
        "LiteLLM Router",
        "_rates_litellm",
        # these two releases were not the maintainers' (BerriAI/litellm#24518)
        ("litellm>=1.106,<2,!=1.82.7,!=1.82.8",),
        environment="litellm_router",
    ),
    "OpenAI Agents plugin": Peer(
        "OpenAI Agents plugin",
        "_rates_agents",
        ("temporalio-openai-agents>=1.1,<2",),
        environment="openai_agents",
    ),
}
SIDES = (OWN, *PEERS)


@dataclass(frozen=True, slots=True)
class Found:
    """What came of one side."""

    side: str
    calls: Sequence[Served] = ()
    uses: Sequence[Occupied] = ()
    begin: float = 0.0
    """Unix time at which what is measured begins."""
    end: float = 0.0
    version: str = ""
    errors: str = ""
    absent: str = ""


async def measure_side(side: str, args: argparse.Namespace, scratch: Path) -> Found:
    """Let one side make the load, against a provider of its own."""
    progress(side)
    folder = scratch / side.replace(" ", "-").lower()
    folder.mkdir()
    terms = Terms(
        call_s=(0.5, 2.5),
        output_tokens=OUTPUT_TOKENS,
        rpm=args.rpm,
        tpm=args.tpm,
        burst=args.burst,
    )
    async with (
        server(folder / "server") as temporal,
        accountant(terms, folder / "provider.log") as books,
    ):
        order = Order(
            base_url=books.base_url,
            address=temporal.address,
            folder=str(folder),
            processes=4,
            slots=args.slots,
            lanes=args.lanes,
            seconds=args.warm + args.seconds,
            rpm=args.rpm,
            tpm=args.tpm,
            burst=args.burst,
        )
        found = await _made(side, order, args.peer_cache or scratch / "peers")
        calls = await books.calls()
    begin = min((c.started for c in calls), default=0.0) + args.warm
    return replace(found, calls=calls, begin=begin, end=begin + args.seconds)


async def _made(side: str, order: Order, cache: Path) -> Found:
    if side == OWN:
        return Found(side, uses=await run_own(order))
    try:
        said = await run_peer(PEERS[side], order, cache)
    except Absent as why:
        return Found(side, absent=str(why))
    uses = list(occupied_in(Path(order.folder)))
    errors = ", ".join(f"{n} {name}" for name, n in said["errors"].items())
    return Found(side, uses=uses, version=said["version"], errors=errors)


async def measure(args: argparse.Namespace) -> list[Found]:
    """Let all sides make the load, one after the other."""
    with tempfile.TemporaryDirectory(prefix="tierpool-bench-", dir=MEMORY) as folder:
        return [await measure_side(side, args, Path(folder)) for side in args.sides]


def refused(one: Found) -> float:
    """Return the 429s of 1,000 requests, from the very start."""
    bad = sum(1 for call in one.calls if call.refused)
    return 1000 * bad / max(1, len(one.calls))


def goodput(one: Found, args: argparse.Namespace) -> float:
    """Return what was served of the limit that binds."""
    mine = [c for c in one.calls if c.taken and one.begin <= c.started < one.end]
    minutes = args.seconds / 60
    return max(
        sum(c.tokens for c in mine) / (args.tpm * minutes),
        len(mine) / (args.rpm * minutes),
    )


def slots_waited(one: Found) -> float:
    """Return the share of slot-seconds that were spent waiting."""
    busy = sum(use.end - use.begin for use in one.uses)
    return waited_s(one.uses, one.calls) / busy if busy else 0.0


def row(one: Found, args: argparse.Namespace) -> list[str]:
    """Return the cells of a side."""
    return [
        one.version,
        str(len(one.calls)),
        f"{refused(one):.1f}",
        f"{100 * goodput(one, args):.1f}",
        f"{highest(one.calls, lambda c: c.tokens, 60):,}",
        str(highest(one.calls, lambda _: 1, 60)),
        str(highest(one.calls, lambda _: 1, 1)),
        f"{sum(use.end - use.begin for use in one.uses):.0f}",
        f"{100 * slots_waited(one):.2f}",
    ]


COLUMNS = (
    *("version", "requests", "429s/1,000", "goodput %", "most tokens/60 s"),
    *("most calls/60 s", "most calls/s", "slot-seconds", "waited %"),
)


def show(found: Sequence[Found], args: argparse.Namespace) -> None:
    """Print what was found; the last line is JSON."""
    title = f"Limits: {args.tpm:,} tokens and {args.rpm} requests a minute, {args.burst} a second"
    table = Table(title=title, title_justify="left", box=None)
    table.add_column("side")
    for name in COLUMNS:
        table.add_column(name, justify="right")
    for one in found:
        if not one.absent:
            table.add_row(one.side, *row(one, args))
    console(140).print(table)
    for one in found:
        if one.absent or one.errors:
            print(f"{one.side}: {one.absent or one.errors}")
    own = next((one for one in found if one.side == OWN), None)
    if own is None:
        print_targets("rate_limits", {})
        return
    print_targets(
        "rate_limits",
        {
            "refused_per_1000_calls": Target(refused(own), 5),
            "goodput": Target(goodput(own, args), 0.9, at_least=True),
            "slot_seconds_waited": Target(
                slots_waited(own), 0.005, shown=round(slots_waited(own), 5)
            ),
        },
    )


def options(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--tpm", type=int, default=240_000, help="tokens per minute")
    parser.add_argument("--rpm", type=int, default=700, help="requests per minute")
    parser.add_argument("--burst", type=int, default=20, help="requests in a second")
    parser.add_argument("--slots", type=int, default=16, help="of each process")
    parser.add_argument("--lanes", type=int, default=120, help="callers")
    parser.add_argument(
        "--warm", type=float, default=60, help="seconds before goodput is measured"
    )
    parser.add_argument(
        "--seconds", type=float, default=90, help="for which goodput is measured"
    )
    parser.add_argument("--peer-cache", type=Path, help="folder of environments")
    parser.add_argument("--quick", action="store_true", help="a smoke test")
    args = parser.parse_args(argv)
    if args.quick:
        args.warm, args.seconds = 5.0, 15.0
        # so that the limit of a minute is that of the test
        args.tpm, args.rpm = args.tpm // 3, args.rpm // 3
    return args


if __name__ == "__main__":
    chosen = options(sys.argv[1:])
    run_program(lambda: measure(chosen), lambda found: show(found, chosen))
