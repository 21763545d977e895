"""What a warm instance of a pool saves the first call that it makes.

Starts a scripted provider that speaks HTTPS, makes the first calls of cold and of
warm instances, prints tables, and at last one line of JSON. See README.md beside
this file for what is measured and why.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any, Literal, TypeAlias, cast

import httpx2
from _https import OPENSSL, Certificates, https_provider, make_certificates
from _program import (
    MEMORY,
    Target,
    console,
    print_targets,
    progress,
    run_program,
)
from rich.table import Table

from tierpool import TierpoolPlugin, load_fleet
from tierpool.activities.providers import ProviderCall, provider_for
from tierpool.activities.providers.clients import AgentClient
from tierpool.activities.providers.sdk import SdkProvider
from tierpool.fleet import LoadedFleet
from tierpool.pools.instances import Pool

Kind: TypeAlias = Literal["cold", "warm", "idle"]

PROVIDERS = ("openai", "anthropic")
REPLY_S = 0.2
IDLE_S = 2.5
"""Longer than a connection to this machine is kept without use."""
RATIO = 0.7


@dataclass(frozen=True, slots=True)
class First:
    """The first call of an instance."""

    provider: str
    reply_s: float
    """How long the provider took over it."""
    kind: Kind
    seconds: float


@dataclass(slots=True)
class Found:
    """All that was measured; times are seconds."""

    once: dict[str, float] = field(default_factory=dict)
    """What a process pays once, by what it is."""
    building: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Making a client, by provider."""
    connecting: dict[str, list[float]] = field(
        default_factory=lambda: defaultdict(list)
    )
    """TCP and TLS, by provider."""
    calls: list[First] = field(default_factory=list)
    warm_connected: int = 0
    """Warm instances whose first call opened a connection."""

    def ms(self, provider: str, reply_s: float, kind: Kind) -> list[float]:
        """Return how long calls of one kind took, in milliseconds."""
        wanted = (provider, reply_s, kind)
        return [
            1000 * c.seconds
            for c in self.calls
            if (c.provider, c.reply_s, c.kind) == wanted
        ]


class Connections(logging.Handler):
    """Notes when connections are opened: the HTTP client logs it if asked to.

    It costs 0.1 ms a connection, so calls of cold instances go without.
    """

    def __init__(self) -> None:
        super().__init__()
        self._logger = logging.getLogger("httpcore2.connection")
        self._logger.addHandler(self)
        self._logger.propagate = False
        self._began: list[float] = []
        self._ended: list[float] = []

    def emit(self, record: logging.LogRecord) -> None:
        """See base class."""
        said, now = record.getMessage(), time.perf_counter()
        if said.startswith("connect_tcp.started"):
            self._began.append(now)
        elif said.startswith("start_tls.complete"):
            self._ended.append(now)

    @contextmanager
    def noting(self) -> Iterator[list[float]]:
        """Note until the block ends; the list has the seconds of each by then."""
        self._began, self._ended = [], []
        seconds: list[float] = []
        self._logger.setLevel(logging.DEBUG)
        try:
            yield seconds
        finally:
            self._logger.setLevel(logging.WARNING)
            pairs = zip(self._began, self._ended, strict=False)
            seconds.extend(ended - began for began, ended in pairs)


class Bench:
    """Pools of one fleet, and the first calls of their instances."""

    def __init__(
        self, fleet: LoadedFleet, reply_s: float, connections: Connections, found: Found
    ) -> None:
        self._fleet, self._reply_s = fleet, reply_s
        self._connections, self._found = connections, found

    async def round(self, provider: str, number: int, idle: Pool[AgentClient]) -> None:
        """Make one first call of each kind; each kind is first in its turn."""
        kinds: tuple[Kind, ...] = ("cold", "warm", "idle")
        turn = number % len(kinds)
        for kind in kinds[turn:] + kinds[:turn]:
            pool = idle if kind == "idle" else self.pool(provider)
            if kind == "warm":
                seconds = await self._warm_call(provider, pool)
            else:
                seconds = await self.first_call(provider, pool)
            self._found.calls.append(First(provider, self._reply_s, kind, seconds))
            await pool.close()
        await self._build(provider)

    def pool(self, provider: str) -> Pool[AgentClient]:
        """Return a pool as a worker has it, without an instance."""
        return TierpoolPlugin(self._fleet).tierpool_gates[provider].pool

    async def first_call(self, provider: str, pool: Pool[AgentClient]) -> float:
        """Make one call as an attempt makes it; return the seconds."""
        model = self._fleet.snapshot.tiers[provider].models[0]
        begun = time.perf_counter()
        async with pool.lend() as instance:
            client, name = instance.agent.provider_for(model.model)
            await client.complete(
                ProviderCall(
                    model=name,
                    system="Say what is to be done.",
                    messages=(("user", "Part 1."),),
                    max_output_tokens=64,
                    timeout=timedelta(seconds=30),
                    base_url=model.base_url,
                    api_key_env=model.api_key_env,
                )
            )
            return time.perf_counter() - begun

    async def _warm_call(self, provider: str, pool: Pool[AgentClient]) -> float:
        """Build the pool's instance as a worker does before it polls, and call."""
        with self._connections.noting() as opened:
            await pool.ready()
        if len(opened) != 1:
            raise RuntimeError(f"{provider}: warming opened {len(opened)} connections")
        self._found.connecting[provider] += opened
        with self._connections.noting() as opened:
            seconds = await self.first_call(provider, pool)
        self._found.warm_connected += bool(opened)
        return seconds

    async def _build(self, provider: str) -> None:
        """Make nothing but a client."""
        model = self._fleet.snapshot.tiers[provider].models[0]
        fresh = cast(SdkProvider[Any], provider_for(model.model)[0].fresh())
        begun = time.perf_counter()
        opened = fresh._open(model.base_url, "")
        self._found.building[provider].append(time.perf_counter() - begun)
        await opened.client.close()


async def measure(args: argparse.Namespace) -> Found:
    """Measure what is paid once, then first calls with quick and with usual replies."""
    found = Found()
    async with AsyncExitStack() as stack:
        scratch = Path(
            stack.enter_context(
                tempfile.TemporaryDirectory(prefix="tierpool-bench-", dir=MEMORY)
            )
        )
        files = make_certificates(scratch)
        os.environ["SSL_CERT_FILE"] = str(files.trusted)
        pay_once(found)
        connections = Connections()
        for reply_s, pairs in ((0.0, args.pairs), (REPLY_S, args.slow_pairs)):
            async with serving(scratch, files, reply_s) as fleet:
                bench = Bench(fleet, reply_s, connections, found)
                if not reply_s:
                    await first_in_process(bench, found)
                progress(f"{pairs} pairs, replies take {1000 * reply_s:.0f} ms")
                await go_through(bench, pairs)
    return found


def pay_once(found: Found) -> None:
    """Import the SDKs and read the TLS configuration, and note how long it takes."""
    for name in PROVIDERS:
        begun = time.perf_counter()
        provider_for(f"{name}:any")
        found.once[f"import of {name}"] = time.perf_counter() - begun
    begun = time.perf_counter()
    httpx2.create_ssl_context()
    found.once["TLS configuration"] = time.perf_counter() - begun


async def first_in_process(bench: Bench, found: Found) -> None:
    """Make calls that are not counted: the SDKs prepare much in their first ones."""
    for name in PROVIDERS:
        pool = bench.pool(name)
        found.once[f"first call with {name}"] = await bench.first_call(name, pool)
        await pool.close()
    gc.collect()
    gc.freeze()  # else looking through the modules would be what is measured


async def go_through(bench: Bench, pairs: int) -> None:
    """Make all rounds; what is to be idle by then is built before."""
    idle = {name: [bench.pool(name) for _ in range(pairs)] for name in PROVIDERS}
    for pools in idle.values():
        for pool in pools:
            await pool.ready()
    await asyncio.sleep(IDLE_S)
    for number in range(pairs):
        for name in PROVIDERS:
            await bench.round(name, number, idle[name][number])


@asynccontextmanager
async def serving(
    folder: Path, files: Certificates, reply_s: float
) -> AsyncIterator[LoadedFleet]:
    """Run a provider until the block ends; yield a fleet that uses it."""
    async with https_provider(files, reply_s, folder / "provider.log") as address:
        yield load_fleet(write_fleet(folder, address))


def write_fleet(folder: Path, address: str) -> Path:
    """Write a fleet with a tier for each provider, named as it; return its file."""
    tiers = "".join(
        f"""\
  {name}:
    model: {name}:scripted
    base_url: {address}{"/v1" if name == "openai" else ""}
    price: {{input_usd_per_mtok: 1, output_usd_per_mtok: 4}}
    max_output_tokens: 64
    pool: {{min_instances: 1, max_instances: 1}}
"""
        for name in PROVIDERS
    )
    (folder / "prompt.md").write_text("Say what is to be done.\n")
    path = folder / "agents.yaml"
    path.write_text(
        f"""\
version: 1
fleet: bench-warm
tiers:
{tiers}agents:
  clerk: {{prompt: prompt.md, tier: {PROVIDERS[0]}}}
flows:
  unused:
    initial: s0
    transitions:
      "s0 -> done": {{agent: clerk}}
"""
    )
    return path


def quantile(values: Sequence[float], share: float) -> float:
    """Return a quantile of what was measured."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def show(found: Found) -> None:
    """Print what was found; the last line is JSON."""
    console(110).print(calls_table(found), "", parts_table(found), "")
    print("Paid once in a process, before that:")
    for what, seconds in found.once.items():
        print(f"  {what}: {1000 * seconds:.0f} ms")
    targets = {
        f"{name}_warm_to_cold_p50": Target(ratio(found, name, 0.0, "warm"), RATIO)
        for name in PROVIDERS
    }
    opened = Target(found.warm_connected, 0)
    print_targets("warm", {**targets, "warm_calls_that_connected": opened})


def ratio(found: Found, provider: str, reply_s: float, kind: Kind) -> float:
    """Return the median of a kind against that of cold instances."""
    cold = median(found.ms(provider, reply_s, "cold"))
    return median(found.ms(provider, reply_s, kind)) / cold


def calls_table(found: Found) -> Table:
    """Show the first calls."""
    table = Table(title="First calls of instances", title_justify="left", box=None)
    table.add_column("provider")
    columns = ("cold p50 ms", "p95", "warm p50 ms", "p95", "warm/cold")
    for name in ("reply ms", *columns, "idle p50 ms", "p95", "idle/cold"):
        table.add_column(name, justify="right")
    for reply_s in dict.fromkeys(c.reply_s for c in found.calls):
        for provider in PROVIDERS:
            cells = [f"{1000 * reply_s:.0f}"]
            for kind in ("cold", "warm", "idle"):
                ms = found.ms(provider, reply_s, kind)
                cells += [f"{median(ms):.2f}", f"{quantile(ms, 0.95):.2f}"]
                if kind != "cold":
                    cells.append(f"{ratio(found, provider, reply_s, kind):.2f}")
            table.add_row(provider, *cells)
    return table


def parts_table(found: Found) -> Table:
    """Show what a cold call does that a warm one does not."""
    table = Table(title="Parts of cold", title_justify="left", box=None)
    table.add_column("provider")
    for name in ("client p50 ms", "p95", "TCP and TLS p50 ms", "p95"):
        table.add_column(name, justify="right")
    for provider in PROVIDERS:
        parts = (found.building[provider], found.connecting[provider])
        table.add_row(
            provider,
            *(
                f"{1000 * quantile(seconds, share):.2f}"
                for seconds in parts
                for share in (0.5, 0.95)
            ),
        )
    return table


def options(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--pairs", type=int, default=30, help="cold and warm, for each provider"
    )
    parser.add_argument(
        "--slow-pairs", type=int, default=10, help="the same with replies of 200 ms"
    )
    parser.add_argument("--quick", action="store_true", help="a smoke test")
    args = parser.parse_args(argv)
    if args.quick:
        args.pairs, args.slow_pairs = 3, 1
    if min(args.pairs, args.slow_pairs) < 1:
        parser.error("at least one pair is needed")
    return args


if __name__ == "__main__":
    chosen = options(sys.argv[1:])
    if OPENSSL is None:
        sys.exit("warm: the program openssl, which makes the certificate, is missing")
    run_program(lambda: measure(chosen), show)
