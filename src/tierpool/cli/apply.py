"""`tierpool apply`: brings the limits of a fleet file to the running fleet."""

from __future__ import annotations

import argparse
from typing import Any

from temporalio.client import Client
from temporalio.service import RPCError

from tierpool.budget.resources import told
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
from tierpool.contracts.limits import (
    AppliedLimits,
    LimitsRequest,
    PoolLimits,
    limits_of,
)
from tierpool.contracts.reports import WorkerReport
from tierpool.errors import ConfigError, ServerError, TierpoolError
from tierpool.fleet import LoadedFleet
from tierpool.leases.applied import applied_limits
from tierpool.pools.announce import living_workers
from tierpool.pools.apply import (
    apply_limits,
    is_kept,
    refusals,
    wait_for_followers,
    wanted_limits,
)
from tierpool.pools.shared import claimed_as


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the sub-parser."""
    this = commands.add_parser(
        "apply", parents=[common],
        help="change the limits of the fleet while it runs",
        description="Brings the pools and the fleet-wide limits of the file to all "
        "running workers, which kill nothing and need no restart. Running items keep "
        "what they know of the fleet. What is applied goes before the files of the workers, also of those "
        "that start later, until it is withdrawn or something else is applied.",
    )  # fmt: skip
    this.add_argument(
        "path", nargs="?", metavar="FILE", help="the fleet file (as --file)"
    )
    this.add_argument(
        "--dry-run", action="store_true", help="show what would be applied, and stop"
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
        return await _apply(args, client, fleet)
    except RPCError as error:
        raise ServerError(f"the Temporal server says: {error.message}") from error


async def _apply(args: argparse.Namespace, client: Client, fleet: LoadedFleet) -> int:
    workers = await _workers(client, fleet)
    before = await applied_limits(client, fleet.name)
    if workers is not None and not args.withdraw:
        _refuse(fleet, workers)
    wanted = LimitsRequest() if args.withdraw else wanted_limits(fleet)
    if limits_of(wanted) == limits_of(before):
        _tell(args, before, wanted, f"{_again(before)}; nothing changes")
        return DONE
    if not await is_kept(client, fleet.name):
        raise TierpoolError(
            f"nobody keeps the limits of the fleet {fleet.name}; start "
            f"`tierpool worker --control --file {args.file}` beside its other workers"
        )
    if args.dry_run:
        what = "withdrawn" if args.withdraw else "applied"
        _tell(args, before, wanted, f"would be {what}")
        return DONE
    applied = await apply_limits(client, fleet.name, wanted)
    done = "withdrawn" if args.withdraw else "applied"
    done += f" (generation {applied.generation})"
    if workers is None:
        _tell(args, applied, wanted, f"{done}; this server does not tell who follows")
        return DONE
    follow, behind = await wait_for_followers(client, fleet.name, applied)
    who = "1 worker follows" if len(follow) == 1 else f"{len(follow)} workers follow"
    _tell(args, applied, wanted, f"{done}; {who}", behind)
    return FAILED if behind else DONE


def _again(before: AppliedLimits) -> str:
    if before.pools:
        return f"applied already (generation {before.generation})"
    return "nothing is applied"


async def _workers(client: Client, fleet: LoadedFleet) -> list[WorkerReport] | None:
    """Return the workers that report; None if the server keeps no registry.

    Raises:
        TierpoolError: if none of them runs a pool.
    """
    workers = await living_workers(client, fleet.name)
    if workers is None:
        return None
    if not any(worker.pools for worker in workers):
        raise TierpoolError(
            f"no worker of the fleet {fleet.name} that reports runs a pool: start "
            "them with this file; a Worker of your own does not follow `apply`"
        )
    return workers


def _refuse(fleet: LoadedFleet, workers: list[WorkerReport]) -> None:
    problems = refusals(fleet, [worker for worker in workers if worker.pools])
    if problems:
        raise ConfigError(problems)


def _tell(
    args: argparse.Namespace,
    limits: AppliedLimits,
    wanted: LimitsRequest,
    what: str,
    behind: list[WorkerReport] | None = None,
) -> None:
    """Show what was asked for, and who does not follow."""
    missing = {w.where: w.refused_limits for w in behind or ()}
    pools, caps = wanted.pools, _caps(wanted)
    if args.json:
        print_json(
            {"applied": not args.dry_run, "generation": limits.generation,
             "pools": {n: p.model_dump() for n, p in pools.items()},
             "caps": dict(caps), "not_following": list(missing)}
        )  # fmt: skip
        return
    if pools:
        rows = [
            [key, *(getattr(pool, key) for pool in pools.values())]
            for key in PoolLimits.model_fields
        ]
        console.print(table(["pool", *(f">{name}" for name in pools)], rows))
    if caps:
        console.print(table(["fleet-wide limit", ">at most"], [list(c) for c in caps]))
    console.print(what)
    if pools:
        console.print(
            "roles, prompts, flows, prices, on_exhausted and the budget per workflow are "
            "not applied: items take them from the file that they are started with",
            soft_wrap=True,
        )
    else:
        console.print("every worker follows the file that it was started with")
    for who, why in missing.items():
        errors.print(f"[red]{who} does not follow{f': {why}' if why else ' (yet)'}[/]")


def _caps(wanted: LimitsRequest) -> list[tuple[str, str]]:
    """Name what holds for the whole fleet, and how much it is."""
    all_caps = [limits.caps for limits in (wanted.shared, wanted.claims) if limits]
    return [
        (claimed_as(name), told(name, some[0].amount))
        for caps in all_caps
        for name, some in caps.items()
    ]
