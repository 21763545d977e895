"""`tierpool apply`: brings the limits of a fleet file to the running fleet."""

from __future__ import annotations

import argparse
from typing import Any

from temporalio.client import Client
from temporalio.service import RPCError

from tierpool.cli.common import (
    DONE,
    FAILED,
    connected,
    console,
    errors,
    load,
    print_json,
    table,
)
from tierpool.contracts.limits import AppliedLimits, PoolLimits
from tierpool.contracts.reports import WorkerReport
from tierpool.errors import ConfigError, ServerError, TierpoolError
from tierpool.fleet import LoadedFleet
from tierpool.pools.announce import announced
from tierpool.pools.apply import (
    apply_limits,
    pool_limits,
    refusals,
    wait_for_followers,
)
from tierpool.pools.limits import applied_limits


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the sub-parser."""
    this = commands.add_parser(
        "apply", parents=[common],
        help="change the sizes of pools while the fleet runs",
        description="Brings the pools of the file to all running workers, which "
        "kill nothing and need no restart. Running items keep what they know of the "
        "fleet. What is applied goes before the files of the workers, also of those "
        "that start later, until it is withdrawn or something else is applied.",
    )  # fmt: skip
    this.add_argument(
        "path", nargs="?", metavar="FILE", help="the fleet file (as --file)"
    )
    this.add_argument(
        "--dry-run", action="store_true", help="show what would change, and stop"
    )
    this.add_argument(
        "--withdraw", action="store_true",
        help="let every worker follow its own file again",
    )  # fmt: skip
    this.set_defaults(command=command)


async def command(args: argparse.Namespace) -> int:
    """Compare, refuse or apply, and wait for the workers."""
    args.file = args.path or args.file
    fleet = load(args)
    client = await connected(fleet)
    try:
        workers, before = await _running(client, fleet)
        if workers is not None and not args.withdraw:
            _refuse(fleet, workers)
        wanted = {} if args.withdraw else pool_limits(fleet)
        if args.dry_run:
            _tell(args, before, wanted, "would be applied")
            return DONE
        applied = await apply_limits(client, fleet.name, wanted)
        if workers is None:
            _tell(
                args, applied, wanted, "applied; this server does not tell who follows"
            )
            return DONE
        follow, behind = await wait_for_followers(client, fleet.name, applied)
    except RPCError as error:
        raise ServerError(f"the server does not answer: {error.message}") from error
    done = f"applied (generation {applied.generation}); {len(follow)} workers follow"
    _tell(args, applied, wanted, done, behind)
    return FAILED if behind else DONE


async def _running(
    client: Client, fleet: LoadedFleet
) -> tuple[list[WorkerReport] | None, AppliedLimits]:
    """Return the workers with pools, if the server knows them, and what they follow.

    Raises:
        TierpoolError: if there are none.
    """
    found = await announced(client, fleet.name)
    workers = None if found is None else [one for one in found if one.pools]
    if workers is not None and not workers:
        raise TierpoolError(
            f"no worker of the fleet {fleet.name} runs a pool: start them with this file"
        )
    return workers, await applied_limits(client, fleet.name)


def _refuse(fleet: LoadedFleet, workers: list[WorkerReport]) -> None:
    problems = refusals(fleet, workers)
    if problems:
        raise ConfigError(problems)


def _tell(
    args: argparse.Namespace,
    limits: AppliedLimits,
    pools: dict[str, PoolLimits],
    what: str,
    behind: list[WorkerReport] | None = None,
) -> None:
    """Show what was asked for, and who does not follow."""
    missing = [f"{worker.host}:{worker.pid}" for worker in behind or ()]
    if args.json:
        print_json(
            {"applied": not args.dry_run, "generation": limits.generation,
             "pools": {n: p.model_dump() for n, p in pools.items()},
             "not_following": missing}
        )  # fmt: skip
        return
    rows = [[name, *_numbers(pool)] for name, pool in pools.items()]
    columns = ["pool", *(f">{name}" for name in PoolLimits.model_fields)]
    if rows:
        console.print(table(columns, rows))
    console.print(what)
    if not rows:
        console.print("every worker follows the file that it was started with")
    if missing:
        errors.print(f"[red]do not follow (yet): {', '.join(missing)}[/]")


def _numbers(pool: PoolLimits) -> list[int]:
    return [getattr(pool, name) for name in PoolLimits.model_fields]
