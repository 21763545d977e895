"""`tierpool worker`: runs parts of a fleet until it is told to drain."""

from __future__ import annotations

import argparse
import asyncio
import re
import socket
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import structlog
from temporalio.runtime import Runtime

from tierpool.cli.common import DONE, USAGE, connected, load
from tierpool.cli.numbers import read_number
from tierpool.errors import UsageError
from tierpool.fleet import LoadedFleet
from tierpool.pools.endpoint import Listen, metrics_runtime
from tierpool.pools.processes.children import HTTP_FD, PARENT_FD
from tierpool.pools.processes.lifeline import hold_lifeline
from tierpool.pools.processes.pages import serve_supervisor
from tierpool.pools.processes.supervisor import Supervisor
from tierpool.pools.processes.view import Limits
from tierpool.tracing import tracing
from tierpool.worker import DEFAULT_GRACE, Served, run_workers, stop_on_signals

_MOST_PROCESSES = 256
_OFF = "off"

_log = structlog.get_logger()


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the sub-parser."""
    this = commands.add_parser(
        "worker", parents=[common],
        help="run parts of the fleet, in one process or several",
    )  # fmt: skip
    this.add_argument("--flows", action="store_true", help="run the flows")
    this.add_argument(
        "--tools", action="store_true", help="run command and python roles"
    )
    this.add_argument(
        "--control",
        action="store_true",
        help="keep the fleet-wide limits, and what `tierpool apply` applies; one "
        "of it is enough",
    )
    this.add_argument(
        "--pool", nargs="+", action="extend", default=[], metavar="TIER",
        help="make the agent calls of these tiers",
    )  # fmt: skip
    add_grace(this)
    add_http(this)
    _add_processes(this)
    for name in (HTTP_FD, PARENT_FD):
        this.add_argument(name, type=int, help=argparse.SUPPRESS)
    this.set_defaults(command=command)


def add_grace(this: argparse.ArgumentParser) -> None:
    """Add the option for draining."""
    this.add_argument(
        "--grace", type=seconds_of, default=DEFAULT_GRACE.total_seconds(),
        metavar="SECONDS",
        help="how long attempts in flight may go on after SIGTERM (default 300)",
    )  # fmt: skip


def add_http(this: argparse.ArgumentParser) -> None:
    """Add the option for metrics and probes."""
    this.add_argument(
        "--http", metavar="HOST:PORT",
        help="where /health, /ready and /metrics are (default 127.0.0.1:8080, or a "
        "free port if that is taken), or `off`",
    )  # fmt: skip


def _add_processes(this: argparse.ArgumentParser) -> None:
    this.add_argument(
        "--processes", type=_range, metavar="N|A..B",
        help="supervise so many worker processes, more of them under backlog",
    )  # fmt: skip
    this.add_argument(
        "--recycle-requests", type=_count, metavar="CALLS",
        help="replace a process after so many calls (default: never)",
    )  # fmt: skip
    this.add_argument(
        "--recycle-age", type=_age, metavar="SECONDS",
        help="replace a process after so long (default: never)",
    )  # fmt: skip
    this.add_argument(
        "--recycle-memory", type=_count, metavar="MB",
        help="replace a process that takes so much memory (default: never)",
    )  # fmt: skip


async def command(args: argparse.Namespace) -> int:
    """Run the workers until SIGTERM or Ctrl-C, then drain."""
    served = Served(
        args.flows, args.tools, tuple(dict.fromkeys(args.pool)), args.control
    )
    fleet = load(args)
    if not served.queues(fleet):
        raise UsageError(
            "nothing to run: pass --flows, --tools, --control or --pool TIER"
        )
    if args.processes is not None:
        return await _supervise(args)
    for name in ("recycle_requests", "recycle_age", "recycle_memory"):
        if getattr(args, name) is not None:
            option = name.replace("_", "-")
            raise UsageError(f"--{option} needs --processes: nobody else would replace")
    return await _work(args, fleet, served)


async def _work(args: argparse.Namespace, fleet: LoadedFleet, served: Served) -> int:
    """Run the workers in this process."""
    grace = timedelta(seconds=args.grace)
    listen = listen_of(args)
    stop = asyncio.Event()
    with stop_on_signals(stop, grace), tracing(fleet) as plugins:
        if args.parent_fd is not None:
            hold_lifeline(args.parent_fd, stop.is_set, grace)
        runtime: Runtime | None = None
        sdk_metrics = None
        if listen is not None:
            runtime, sdk_metrics = metrics_runtime(tags={"fleet": fleet.name})
        client = await connected(fleet, runtime=runtime, plugins=plugins)
        await run_workers(
            client, served, stop, grace=grace, listen=listen, sdk_metrics=sdk_metrics
        )
    return DONE


async def _supervise(args: argparse.Namespace) -> int:
    """Run as many processes as are called for."""
    least, most = args.processes
    memory = args.recycle_memory
    limits = Limits(
        least=least,
        most=most,
        grace=args.grace,
        requests=args.recycle_requests,
        age=args.recycle_age,
        memory_bytes=None if memory is None else memory * 1_000_000,
    )
    supervisor = Supervisor(child_options(args), limits)
    listen = listen_of(args)
    async with AsyncExitStack() as stack:
        if listen is not None:
            served = serve_supervisor(supervisor, listen)
            url = await stack.enter_async_context(served)
            _log.info("supervisor.listens", url=url)
        status = await supervisor.run()
    if status == USAGE:
        raise UsageError("no worker process can run like this; each has said why")
    return status


def child_options(args: argparse.Namespace) -> list[str]:
    """Return the options of each worker process.

    Not `--json`: standard output takes one document, and it is the supervisor's.
    """
    options = ["--file", args.file, "--grace", str(args.grace)]
    flags = ("flows", "tools", "control", "verbose")
    options += [f"--{flag}" for flag in flags if getattr(args, flag)]
    return options + (["--pool", *args.pool] if args.pool else [])


def listen_of(args: argparse.Namespace) -> Listen | None:
    """Return where to answer over HTTP; None: nowhere."""
    if getattr(args, "http_fd", None) is not None:
        return Listen(sock=socket.socket(fileno=args.http_fd))
    if args.http == _OFF:
        return None
    return Listen() if args.http is None else Listen.parse(args.http, required=True)


def _range(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([0-9]{1,9})(?:\.\.([0-9]{1,9}))?", text)
    if not found:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number of processes; write N or A..B, such as 4 or 1..4"
        )
    least, most = int(found[1]), int(found[2] or found[1])
    if least < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: there is one process at least")
    if least > most:
        raise argparse.ArgumentTypeError(
            f"{text!r}: the least number comes first, as in 1..4"
        )
    if most > _MOST_PROCESSES:
        raise argparse.ArgumentTypeError(
            f"{text!r}: {_MOST_PROCESSES} processes are the most; "
            "one carries hundreds of calls at a time"
        )
    return least, most


def _count(text: str) -> int:
    if not re.fullmatch("[0-9]{1,12}", text) or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def seconds_of(text: str) -> float:
    """Read an option that is a number of seconds."""
    seconds = read_number(text)
    if not 0 <= seconds <= timedelta(days=365).total_seconds():
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number of seconds from 0 up to a year"
        )
    return seconds


def _age(text: str) -> float:
    age = seconds_of(text)
    if not age:
        raise argparse.ArgumentTypeError("0 would replace a process all the time")
    return age
