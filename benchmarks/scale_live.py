"""A burst of ten times the base rate, scaled by forecast and by threshold in turns.

Starts a Temporal server, a provider, and for each burst a fleet of its own with
`tierpool autoscale --act processes`; gives each policy the same load, one after the
other, prints a table, and at last one line of JSON. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from _fleet_process import FleetProcess, at, fleet_process
from _processes import python
from _program import MEMORY, Target, console, print_targets, progress, run_program
from rich.table import Table
from temporalio.client import Client

from tierpool import TierpoolPlugin, flow_result, load_fleet, start_flow
from tierpool.devserver import embedded_server
from tierpool.pools.recorded import recorded_calls

CALL_S = 2.0
INSTANCES = 4
"""Of each worker process."""
MOST_WORKERS = 8
POLICIES = ("predictive", "threshold")
QUIET_AFTER_S = 30.0
"""Time in which processes that are not needed any more may go."""


@dataclass(frozen=True, slots=True)
class Load:
    """Items a second over time: base, burst, base."""

    base_rate: float
    base_s: float
    burst_s: float
    factor: float = 10.0

    def arrivals(self, seed: int) -> list[float]:
        """Return when items are started, in seconds: at random, by the seed."""
        dice, now, found = random.Random(seed), 0.0, []
        parts = (
            (self.base_s, self.base_rate),
            (self.burst_s, self.factor * self.base_rate),
            (self.base_s, self.base_rate),
        )
        begin = 0.0
        for seconds, rate in parts:
            now = begin + dice.expovariate(rate)
            while now < begin + seconds:
                found.append(now)
                now += dice.expovariate(rate)
            begin += seconds
        return found


@dataclass
class Seen:
    """What one policy did."""

    policy: str
    waits: list[float] = field(default_factory=list)
    attempts: list[int] = field(default_factory=list)
    process_seconds: float = 0.0
    ups: int = 0
    downs: int = 0
    died: int = 0
    flaps: int = 0

    @property
    def repeated(self) -> int:
        """Calls that were made again: something had ended them."""
        return sum(count - 1 for count in self.attempts)

    def add(self, other: Seen) -> None:
        """Add what was seen in another round."""
        self.waits += other.waits
        self.attempts += other.attempts
        self.process_seconds += other.process_seconds
        self.ups += other.ups
        self.downs += other.downs
        self.died += other.died
        self.flaps += other.flaps

    def wait(self, share: float) -> float:
        """Return a percentile of the waits, in seconds."""
        ordered = sorted(self.waits)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def fleet_file(folder: Path, policy: str, turn: int, base_url: str) -> Path:
    """Write a fleet with one role of one call."""
    folder.mkdir(parents=True)
    (folder / "clerk.md").write_text("Answer.\n")
    pool = {
        "min_instances": 1,
        "max_instances": INSTANCES,
        "scale_up_threshold": 4,
        "scale_down_idle_secs": 15,
        "scaling": {"policy": policy, "min_workers": 1, "max_workers": MOST_WORKERS},
    }
    tier = {
        "model": "openai:scripted",
        "base_url": f"{base_url}/v1",
        "price": {"input_usd_per_mtok": 1, "output_usd_per_mtok": 4},
        "pool": pool,
    }
    flow = {
        "initial": "incoming",
        "transitions": {"incoming -> done": {"agent": "clerk"}},
    }
    whole = {
        "version": 1,
        "fleet": f"bench-live-{policy}-{turn}",
        "tiers": {"standard": tier},
        "agents": {"clerk": {"prompt": "clerk.md", "tier": "standard"}},
        "flows": {"work": flow},
    }
    path = folder / "agents.yaml"
    path.write_text(json.dumps(whole))  # JSON is YAML
    return path


@asynccontextmanager
async def one_fleet(
    scratch: Path, policy: str, turn: int, address: str, base_url: str
) -> AsyncIterator[tuple[Client, Path, FleetProcess]]:
    """Run a fleet: its flows and control, and an autoscaler with worker processes."""
    folder = scratch / f"{policy}-{turn}"
    file = fleet_file(folder, policy, turn, base_url)
    own = {"fleet": file, "address": address}
    rest = ("--flows", "--control", "--http", "off")
    options = ("--act", "processes", "--every", "5", "--http", "127.0.0.1:0")
    log = folder / "scaler.log"
    async with (
        fleet_process(*rest, log=folder / "rest.log", **own),
        fleet_process(*options, log=log, name="autoscale", **own) as scaler,
    ):
        plugin = TierpoolPlugin(load_fleet(file))
        client = await Client.connect(address, plugins=[plugin])
        await scaler.saw("process.ready")
        yield client, file, scaler


async def drive(client: Client, policy: str, load: Load, turn: int) -> list[int]:
    """Start items as the load says; return the attempts of each."""
    begun, handles = time.monotonic(), []
    for number, due in enumerate(load.arrivals(turn)):
        await asyncio.sleep(max(0.0, begun + due - time.monotonic()))
        name = f"live-{policy}-{turn}-{number:05}"
        handles.append(await start_flow(client, "work", "text", id=name))
    results = await asyncio.gather(*(flow_result(handle) for handle in handles))
    return [result.attempts for result in results]


async def measure_one(
    client: Client, file: Path, scaler: FleetProcess, policy: str, load: Load, turn: int
) -> Seen:
    """Give one fleet the load, and see what its autoscaler did."""
    begun = time.time()
    attempts = await drive(client, policy, load, turn)
    await asyncio.sleep(QUIET_AFTER_S)
    ended = time.time()
    since = timedelta(seconds=ended - begun + 1)
    found = await recorded_calls(client, load_fleet(file), since)
    return seen_of(policy, scaler, found.calls, attempts, begun, ended)


def seen_of(
    policy: str,
    scaler: FleetProcess,
    calls: Sequence[Any],
    attempts: list[int],
    begun: float,
    ended: float,
) -> Seen:
    """Read the log of an autoscaler: who ran when, and how often it changed its mind."""

    def now(events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        return [one for one in events if begun < at(one) <= ended]

    starts = {one["pid"]: at(one) for one in scaler.children()}
    ends = {one["pid"]: at(one) for one in scaler.events("process.ended")}
    died = len(now(scaler.events("process.ended", reason="by itself")))
    moves = sorted(
        [(at(one), 1) for one in now(scaler.children())]
        + [(at(one), -1) for one in now(scaler.events("process.draining"))]
    )
    flaps = sum(
        1 for (_, first), (_, second) in itertools.pairwise(moves) if first < 0 < second
    )
    return Seen(
        policy,
        waits=[call.wait_seconds for call in calls],
        attempts=attempts,
        process_seconds=sum(
            max(0.0, min(ended, ends.get(pid, ended)) - max(begun, when))
            for pid, when in starts.items()
        ),
        ups=sum(1 for _, move in moves if move > 0),
        downs=sum(1 for _, move in moves if move < 0),
        died=died,
        flaps=flaps,
    )


async def measure(args: argparse.Namespace) -> list[Seen]:
    """Give both policies the same load in turns, every second round the other way round."""
    load = Load(args.base_rate, args.base_seconds, args.burst_seconds)
    with tempfile.TemporaryDirectory(prefix="tierpool-bench-", dir=MEMORY) as folder:
        scratch = Path(folder)
        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(
                embedded_server(scratch / "server", ui=False)
            )
            arguments = ("--port", "0", "--delay", str(CALL_S))
            provider = await stack.enter_async_context(
                python("-m", "tierpool.testing.provider", *arguments,
                       log=scratch / "provider.log")
            )  # fmt: skip
            url = provider.said["base_url"]
            found = {policy: Seen(policy) for policy in POLICIES}
            for turn in range(args.rounds):
                progress(f"round {turn + 1} of {args.rounds}")
                for policy in POLICIES if turn % 2 == 0 else POLICIES[::-1]:
                    fresh = one_fleet(scratch, policy, turn, server.address, url)
                    async with fresh as fleet:
                        seen = await measure_one(*fleet, policy, load, turn)
                    found[policy].add(seen)
            return list(found.values())


def show(found: list[Seen], args: argparse.Namespace) -> None:
    """Print what was seen; the last line is JSON."""
    title = (
        f"{args.base_rate:g} items/s, 10 times as many for {args.burst_seconds:g} s; "
        f"calls of {CALL_S:g} s, {INSTANCES} instances a process; {args.rounds} rounds"
    )
    table = Table(title=title, title_justify="left", box=None)
    names = ("policy", "calls", "wait p50 s", "p95 s", "p99 s", "process-seconds",
             "started", "drained", "died", "flaps", "calls repeated")  # fmt: skip
    for name in names:
        table.add_column(name, justify="left" if name == "policy" else "right")
    for one in found:
        waits = (f"{one.wait(share):.2f}" for share in (0.5, 0.95, 0.99))
        counts = (one.ups, one.downs, one.died, one.flaps, one.repeated)
        table.add_row(
            one.policy, str(len(one.waits)), *waits, f"{one.process_seconds:.0f}",
            *map(str, counts),
        )  # fmt: skip
    console(120).print(table)
    ours, theirs = found
    targets = {
        "wait_p95_to_threshold": Target(
            ours.wait(0.95) / max(0.01, theirs.wait(0.95)), 1.0
        ),
        "calls_killed": Target(ours.repeated + ours.died, 0),
        "flaps": Target(ours.flaps, max(1, theirs.flaps)),
    }
    print_targets("scale_live", targets)


def options(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--base-rate", type=float, default=0.8, help="items a second")
    parser.add_argument(
        "--base-seconds", type=float, default=30, help="before and after"
    )
    parser.add_argument("--burst-seconds", type=float, default=60)
    parser.add_argument("--rounds", type=int, default=2, help="bursts for each policy")
    parser.add_argument(
        "--quick", action="store_true", help="a smoke test; its figures say little"
    )
    args = parser.parse_args(argv)
    if args.quick:
        args.base_rate, args.base_seconds, args.burst_seconds = 0.5, 10.0, 15.0
        args.rounds = 1
    return args


if __name__ == "__main__":
    chosen = options(sys.argv[1:])
    run_program(lambda: measure(chosen), lambda found: show(found, chosen))
