"""`tierpool worker`: runs parts of a fleet until it is told to drain."""

from __future__ import annotations

import argparse
import asyncio
from datetime import timedelta
from typing import Any

from tierpool.cli.common import DONE, connected, load
from tierpool.errors import UsageError
from tierpool.worker import DEFAULT_GRACE, Served, run_workers, stop_on_signals


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the sub-parser."""
    this = commands.add_parser(
        "worker", parents=[common], help="run parts of the fleet in this process"
    )
    this.add_argument("--flows", action="store_true", help="run the flows")
    this.add_argument(
        "--tools", action="store_true", help="run command and python roles"
    )
    this.add_argument(
        "--pool", nargs="+", action="extend", default=[], metavar="TIER",
        help="make the agent calls of these tiers",
    )  # fmt: skip
    add_grace(this)
    this.set_defaults(command=command)


def add_grace(this: argparse.ArgumentParser) -> None:
    """Add the option for draining."""
    this.add_argument(
        "--grace", type=float, default=DEFAULT_GRACE.total_seconds(), metavar="SECONDS",
        help="how long attempts in flight may go on after SIGTERM (default 300)",
    )  # fmt: skip


async def command(args: argparse.Namespace) -> int:
    """Run the workers until SIGTERM or Ctrl-C, then drain."""
    served = Served(args.flows, args.tools, tuple(dict.fromkeys(args.pool)))
    fleet = load(args)
    if not served.queues(fleet) and not served.pools:
        raise UsageError("nothing to run: pass --flows, --tools or --pool TIER")
    grace = timedelta(seconds=args.grace)
    stop = asyncio.Event()
    with stop_on_signals(stop, grace):
        client = await connected(fleet)
        await run_workers(client, served, stop, grace=grace)
    return DONE
