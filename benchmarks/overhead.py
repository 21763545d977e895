"""What tierpool costs on top of plain Temporal, measured side by side in one run.

Starts a Temporal server, a scripted provider and one worker process for each
variant, prints a table, and at last one line of JSON. See README.md beside
this file for what is measured and why.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path

import aiohttp
from _load import BARE, DELAY_S, VARIANTS, Variant, write_fleet
from _measure import Bench, history_of, latency_of, window_of
from _processes import Child, python, rss_bytes
from _program import MEMORY, console, print_targets, progress, run_program
from _report import Found, notes, size_table, speed_table, verdict
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from tierpool import TierpoolPlugin, load_fleet
from tierpool.devserver import embedded_server

HERE = Path(__file__).parent
MORE_POOLS = 10


async def measure_dev(scratch: Path, times: int) -> list[float]:
    """Return the seconds from `tierpool dev` on a new state folder to its ready line."""
    fleet = write_fleet(
        scratch, "bench-dev", ("nano", "standard"), "auto", "http://127.0.0.1:9"
    )
    seconds = []
    for number in range(times):
        state = str(scratch / f"state-{number}")
        arguments = ("dev", "--json", "--file", str(fleet), "--state", state)
        begun = time.perf_counter()
        async with python("-m", "tierpool", *arguments, log=scratch / "dev.log"):
            seconds.append(time.perf_counter() - begun)
    return seconds


async def measure_memory(scratch: Path, address: str) -> float:
    """Return the resident bytes that one more pool takes in a worker process."""
    sizes = []
    for count in (1, 1 + MORE_POOLS):
        tiers = tuple(f"t{number}" for number in range(count))
        name = f"bench-memory-{count}"
        fleet = write_fleet(scratch / name, name, tiers, "t0", "http://127.0.0.1:9")
        arguments = ("pools", "--address", address, "--fleet", str(fleet))
        worker = str(HERE / "_workers.py")
        async with python(worker, *arguments, log=scratch / "memory.log") as child:
            await asyncio.sleep(2)  # until all pollers have polled
            sizes.append(rss_bytes(child.pid))
    return (sizes[1] - sizes[0]) / MORE_POOLS


async def measure_provider(bench: Bench, calls: int) -> float:
    """Return how many calls a second the provider answers to a cheap client.

    Far above what the variants reach, or the provider would hide differences.
    """
    body = {
        "model": "scripted",
        "messages": [{"role": "user", "content": "x"}],
        "stream": True,
    }
    address = f"{bench.provider}/v1/chat/completions"
    waiting = iter(range(calls))

    async def lane() -> None:
        for _ in waiting:
            async with bench.http.post(address, json=body) as answer:
                await answer.read()

    begun = time.perf_counter()
    await asyncio.gather(*(lane() for _ in range(200)))
    return calls / (time.perf_counter() - begun)


async def start_variant(
    stack: AsyncExitStack, scratch: Path, variant: Variant, address: str, provider: str
) -> tuple[Client, tuple[int, ...]]:
    """Start the processes of a variant; return a client for it and their PIDs."""
    pids: list[int] = []
    arguments = [variant.name, "--address", address]
    if variant.kind == "bare":
        arguments += ["--provider", provider]
        client = await Client.connect(address, data_converter=pydantic_data_converter)
    else:
        role_tier = "auto" if variant.routed else "standard"
        folder = scratch / variant.name
        fleet = write_fleet(
            folder, variant.fleet, variant.tiers, role_tier, provider, variant.cap_usd,
            limits=variant.limits, claims=variant.claims,
        )  # fmt: skip
        if variant.limits:
            control = _control(fleet, address, scratch)
            pids.append((await stack.enter_async_context(control)).pid)
        arguments += ["--fleet", str(fleet)]
        plugin = TierpoolPlugin(load_fleet(fleet))
        client = await Client.connect(address, plugins=[plugin])
    child = await stack.enter_async_context(
        python(
            str(HERE / "_workers.py"), *arguments, log=scratch / f"{variant.name}.log"
        )
    )
    return client, (child.pid, *pids)


def _control(
    fleet: Path, address: str, scratch: Path
) -> AbstractAsyncContextManager[Child]:
    """Run the ledger and the claims in a process of their own, as is recommended."""
    return python(
        *(str(HERE / "_workers.py"), "control", "--address", address),
        *("--fleet", str(fleet)),
        log=scratch / "control.log",
    )


async def start_bench(
    stack: AsyncExitStack, scratch: Path, address: str, variants: Sequence[Variant]
) -> Bench:
    """Start the provider and all workers."""
    arguments = ("--port", "0", "--delay", str(DELAY_S))
    provider = await stack.enter_async_context(
        python("-m", "tierpool.testing.provider", *arguments, log=scratch / "p.log")
    )
    base_url = provider.said["base_url"]
    connector = aiohttp.TCPConnector(limit=300)
    http = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
    pids: dict[str, tuple[int, ...]] = {"provider": (provider.pid,)}
    clients: dict[str, Client] = {}
    for variant in variants:
        clients[variant.name], pids[variant.name] = await start_variant(
            stack, scratch, variant, address, base_url
        )
    return Bench(base_url, http, pids, clients)


async def measure_items(bench: Bench, args: argparse.Namespace, found: Found) -> None:
    """Measure history and latency of single items."""
    progress("history of one item of each variant")
    for variant in found.variants:
        found.histories[variant.name] = await history_of(bench, variant)
    progress(f"latency: {args.latency_items} items of each variant, one at a time")
    for number in range(args.latency_items):
        for variant in turn(number, found.variants):
            seconds = await latency_of(bench, variant)
            found.latencies.setdefault(variant.name, []).append(seconds)


async def measure_calls(
    bench: Bench, args: argparse.Namespace, found: Found, deadline: float
) -> None:
    """Measure throughput, the variants always in turn."""
    longest = 0.0
    for number in range(args.rounds):
        variants = turn(number, found.variants)
        if number and time.perf_counter() + longest * len(variants) > deadline:
            progress("no time for another round")
            break
        progress(f"throughput: round {number + 1} of {args.rounds}")
        for variant in variants:
            begun = time.perf_counter()
            found.windows.setdefault(variant.name, {})[number] = await window_of(
                bench, variant, in_flight=args.in_flight, items=args.items
            )
            longest = max(longest, time.perf_counter() - begun)


async def measure_pairs(bench: Bench, args: argparse.Namespace, found: Found) -> None:
    """Compare calls with and without pools, which differ by little: many short windows."""
    pair = [v for v in VARIANTS if v.name in ("fixed", "unpooled")]
    for number in range(args.pairs):
        progress(f"with and without pools: pair {number + 1} of {args.pairs}")
        speeds = {}
        for variant in pair[::-1] if number % 2 else pair:
            window = await window_of(
                bench, variant, in_flight=args.in_flight, items=args.items
            )
            speeds[variant.name] = window.speed
        found.pairs.append(speeds["fixed"] / speeds["unpooled"])


def turn(number: int, variants: Sequence[Variant]) -> list[Variant]:
    """Return the variants of a turn: there and back again, so that none is always late.

    The flows are extra figures without a target: every fourth time is enough.
    """
    taken = [v for v in variants if v.kind != "flow" or number % 4 == 0]
    return taken[::-1] if number % 2 else taken


async def run(args: argparse.Namespace) -> Found:
    """Start everything, measure, stop everything."""
    found = Found([v for v in VARIANTS if v is BARE or v.name in args.only])
    whole = len(found.variants) == len(VARIANTS)
    with tempfile.TemporaryDirectory(prefix="tierpool-bench-") as folder:
        scratch = Path(folder)
        if whole:
            progress("time from `tierpool dev` to ready")
            found.dev_ready_s = await measure_dev(scratch / "dev", args.dev_starts)
        async with AsyncExitStack() as stack:
            database = stack.enter_context(
                tempfile.TemporaryDirectory(prefix="tierpool-bench-", dir=MEMORY)
            )
            server = await stack.enter_async_context(
                embedded_server(Path(database), ui=False)
            )
            if whole:
                progress("memory of a pool")
                found.pool_bytes = await measure_memory(scratch, server.address)
            bench = await start_bench(stack, scratch, server.address, found.variants)
            bench.pids = {**bench.pids, "server": (server.pid,)}
            progress("what the provider can do alone")
            found.provider_calls_per_s = await measure_provider(bench, 2000)
            if whole:
                await measure_items(bench, args, found)
            deadline = time.perf_counter() + args.seconds
            await measure_calls(bench, args, found, deadline)
            if whole:
                await measure_pairs(bench, args, found)
    return found


def show(found: Found, args: argparse.Namespace) -> None:
    """Print what was found; the last line is JSON."""
    tables = [speed_table(found)] + ([size_table(found)] if found.histories else [])
    console(110).print(*tables, *notes(found, args.in_flight), sep="\n")
    print_targets("overhead", verdict(found))


def options(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=6, help="windows per variant")
    parser.add_argument("--in-flight", type=int, default=100, help="items at a time")
    parser.add_argument(
        "--items", type=int, default=50, help="items whose calls make up a window"
    )
    parser.add_argument("--latency-items", type=int, default=15, help="per variant")
    parser.add_argument("--dev-starts", type=int, default=3, help="of tierpool dev")
    parser.add_argument("--pairs", type=int, default=8, help="with and without pools")
    parser.add_argument(
        "--seconds", type=float, default=280,
        help="begin no round of windows that ends later",
    )  # fmt: skip
    parser.add_argument(
        "--only", nargs="+", choices=[v.name for v in VARIANTS], metavar="VARIANT",
        default=[v.name for v in VARIANTS],
        help="measure nothing but the throughput of these variants, beside bare",
    )  # fmt: skip
    parser.add_argument(
        "--quick", action="store_true", help="a smoke test; its figures say little"
    )
    args = parser.parse_args(argv)
    if args.quick:
        args.rounds, args.in_flight, args.items = 1, 20, 20
        args.latency_items, args.dev_starts, args.pairs = 3, 1, 1
    return args


if __name__ == "__main__":
    chosen = options(sys.argv[1:])
    run_program(lambda: run(chosen), lambda found: show(found, chosen))
