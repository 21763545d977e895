"""`tierpool dev`: server, Web UI and the whole fleet, in one command."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from temporalio.client import Client, Plugin
from temporalio.runtime import Runtime

from tierpool.blueprint import split_model
from tierpool.cli.common import DONE, console, load, print_json
from tierpool.cli.worker import add_grace, add_http, listen_of
from tierpool.client import connect, state_folder
from tierpool.codec import ZlibCodec
from tierpool.devserver import EmbeddedServer, embedded_server, local_model
from tierpool.fleet import LoadedFleet
from tierpool.plugin import TierpoolPlugin
from tierpool.pools.endpoint import Listen, metrics_runtime
from tierpool.pools.endpoint.listen import listening
from tierpool.tracing import tracing
from tierpool.worker import Served, run_workers, stop_on_signals

LOCAL_BASE_URL = "TIERPOOL_LOCAL_BASE_URL"


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the sub-parser."""
    this = commands.add_parser(
        "dev", parents=[common],
        help="run an embedded Temporal server, its Web UI and the whole fleet",
    )  # fmt: skip
    this.add_argument(
        "--state", metavar="DIR", help="where items are kept (default: .tierpool)"
    )
    this.add_argument("--no-ui", action="store_true", help="without the Web UI")
    add_grace(this)
    add_http(this)
    this.set_defaults(command=command)


@dataclass(frozen=True, slots=True)
class DevFleet:
    """A running embedded server and a client for its fleet."""

    server: EmbeddedServer
    client: Client


@asynccontextmanager
async def dev_servers(
    fleet: LoadedFleet,
    state: Path,
    *,
    ui: bool = True,
    runtime: Runtime | None = None,
    plugins: Sequence[Plugin] = (),
) -> AsyncIterator[DevFleet]:
    """Run what a fleet needs on one machine: Temporal and, if asked for, the small model."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(
            embedded_server(state, ui=ui, codec=ZlibCodec())
        )
        if needs_local_model(fleet):
            model = await stack.enter_async_context(local_model(state))
            os.environ[LOCAL_BASE_URL] = model.base_url
        own = TierpoolPlugin(fleet)
        client = await connect([*plugins, own], address=server.address, runtime=runtime)
        yield DevFleet(server, client)


def needs_local_model(fleet: LoadedFleet) -> bool:
    """Tell whether a tier uses the small model without an address of its own."""
    if os.environ.get(LOCAL_BASE_URL):
        return False
    return any(
        split_model(model.model)[0] == "local" and model.base_url is None
        for tier in fleet.snapshot.tiers.values()
        for model in tier.models
    )


async def command(args: argparse.Namespace) -> int:
    """Run everything until Ctrl-C; items go on where they were at the next start."""
    fleet = load(args)
    state = Path(args.state) if args.state else state_folder(fleet.path)
    grace = timedelta(seconds=args.grace)
    stop = asyncio.Event()
    listen, runtime, sdk_metrics, url = listen_of(args), None, None, None
    with stop_on_signals(stop, grace), tracing(fleet) as plugins:
        if listen is not None:
            sock, url = listening(listen)
            listen = Listen(sock=sock)
            runtime, sdk_metrics = metrics_runtime(tags={"fleet": fleet.name})
        ui = not args.no_ui
        async with dev_servers(
            fleet, state, ui=ui, runtime=runtime, plugins=plugins
        ) as dev:
            await run_workers(
                dev.client,
                Served.everything(fleet),
                stop,
                grace=grace,
                on_ready=_announce(args, fleet, dev.server, url),
                listen=listen,
                sdk_metrics=sdk_metrics,
            )
    return DONE


def _announce(
    args: argparse.Namespace,
    fleet: LoadedFleet,
    server: EmbeddedServer,
    http: str | None,
) -> Callable[[Sequence[str]], None]:
    def ready(queues: Sequence[str]) -> None:
        if args.json:
            print_json(
                {"ready": True, "address": server.address, "ui": server.ui_address,
                 "codec": server.codec_endpoint, "http": http, "fleet": fleet.name,
                 "task_queues": list(queues), "pid": os.getpid()}
            )  # fmt: skip
            return
        console.print(f"fleet    {fleet.name}: {', '.join(fleet.fleet.tiers)}")
        console.print(
            f"server   {server.address}"
            + (" (taken up again)" if server.adopted else "")
        )
        if server.ui_address:
            console.print(f"Web UI   {server.ui_address}")
        if server.codec_endpoint:
            console.print(
                f"codec    {server.codec_endpoint} (`temporal … --codec-endpoint`)"
            )
        if http:
            console.print(f"metrics  {http}/metrics (and /health, /ready)")
        console.print("ready; Ctrl-C drains and stops")

    return ready
