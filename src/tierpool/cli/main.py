"""Parses the command line, runs one command, turns errors into exit codes."""

from __future__ import annotations

import argparse
import asyncio
import logging
from collections.abc import Sequence
from types import ModuleType

from temporalio.service import RPCError

from tierpool import __version__
from tierpool.cli import (
    apply,
    autoscale,
    check,
    codec_server,
    costs,
    dev,
    doctor,
    init,
    ledger,
    manifests,
    plan,
    run,
    simulate,
    status,
    worker,
)
from tierpool.cli.common import DONE, FAILED, UNREACHABLE, USAGE, print_error
from tierpool.errors import (
    ConfigError,
    PayloadTooLarge,
    ServerError,
    TierpoolError,
    UnknownName,
    UsageError,
)
from tierpool.logs import configure_logs

__all__ = ["build_parser", "main"]

_COMMANDS: tuple[ModuleType, ...] = (
    init, check, dev, worker, run, status, costs, apply, autoscale, ledger, doctor,
    manifests, plan, simulate, codec_server,
)  # fmt: skip
_USAGE_ERRORS = (ConfigError, UnknownName, UsageError, PayloadTooLarge)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; every command is a sub-parser with its own `command`."""
    top = argparse.ArgumentParser(
        prog="tierpool",
        description="Pools of LLM agents on Temporal.",
        epilog="Exit status: 0 done, 1 failed, 2 bad usage or configuration, "
        "3 no server. The connection to Temporal follows Temporal's own client "
        "configuration (TOML profiles, TEMPORAL_* variables).",
    )
    top.add_argument("--version", action="version", version=f"tierpool {__version__}")
    commands = top.add_subparsers(dest="name", required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--file", "-f", default="agents.yaml", metavar="PATH", help="the fleet file"
    )
    common.add_argument(
        "--json", action="store_true", help="one JSON document on standard output"
    )
    common.add_argument(
        "--verbose", "-v", action="store_true", help="more log lines on standard error"
    )
    for module in _COMMANDS:
        module.add(commands, common)
    return top


def main(argv: Sequence[str]) -> int:
    """Run one command and return its exit status."""
    try:
        args = build_parser().parse_args(argv)
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else USAGE
    quiet = (
        logging.INFO
        if args.verbose or args.name in ("worker", "autoscale")
        else logging.WARNING
    )
    configure_logs(level=quiet)
    try:
        result = args.command(args)
        return int(asyncio.run(result) if asyncio.iscoroutine(result) else result)
    except TierpoolError as error:
        print_error(args, error)
        if isinstance(error, ServerError):
            return UNREACHABLE
        return USAGE if isinstance(error, _USAGE_ERRORS) else FAILED
    except RPCError as error:  # it went away under a command that waits
        told = f"the Temporal server says: {error.message}; what was started goes on"
        print_error(args, ServerError(told))
        return UNREACHABLE
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output went away
        return DONE
