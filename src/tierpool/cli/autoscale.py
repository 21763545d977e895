"""`tierpool autoscale`: sizes the pools of a running fleet until it is stopped."""

from __future__ import annotations

import argparse
import asyncio
import re
import signal
import string
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from typing import Any

import structlog
from temporalio.client import Client

from tierpool.cli.common import DONE, connected, load
from tierpool.cli.worker import (
    add_grace,
    add_http,
    child_options,
    listen_of,
    seconds_of,
)
from tierpool.errors import UnknownName, UsageError
from tierpool.fleet import LoadedFleet
from tierpool.manifests.names import fleet_name, object_name
from tierpool.pools.autoscaler.acting import Advice, Slots, Target
from tierpool.pools.autoscaler.deciding import Brain
from tierpool.pools.autoscaler.kubernetes import Cluster, Deployments
from tierpool.pools.autoscaler.loop import Autoscaler
from tierpool.pools.autoscaler.machine import Processes
from tierpool.pools.autoscaler.pages import serve_autoscaler
from tierpool.pools.processes.supervisor import Supervisor
from tierpool.pools.processes.view import Limits
from tierpool.scaling.policies import by_name

_LEAD_SECONDS = {"slots": 2.0, "processes": 5.0, "kubernetes": 45.0, "advise": 45.0}
_SHORTEST, _LONGEST = 1.0, 100.0
_OBJECT = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
"""What a cluster takes as the name of a Deployment."""

_log = structlog.get_logger()


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the sub-parser."""
    this = commands.add_parser(
        "autoscale", parents=[common],
        help="size the pools by forecast, rates and money; one leads at a time",
    )  # fmt: skip
    this.add_argument(
        "--act", choices=("slots", "processes", "kubernetes"), default="slots",
        help="change the instances of running workers (default), worker processes of "
        "this machine, or Deployments of a cluster",
    )  # fmt: skip
    this.add_argument(
        "--advise", action="store_true",
        help="change nothing: decide, log, and export tierpool_desired_instances",
    )  # fmt: skip
    this.add_argument(
        "--pool", nargs="+", action="extend", default=[], metavar="TIER",
        help="the pools to size (default: of every tier)",
    )  # fmt: skip
    this.add_argument(
        "--every", type=seconds_of, default=10.0, metavar="SECONDS",
        help="time between two decisions (default 10)",
    )  # fmt: skip
    this.add_argument(
        "--lead", type=seconds_of, metavar="SECONDS",
        help="time until more capacity takes calls (default: slots 2, processes 5, "
        "else 45)",
    )  # fmt: skip
    add_grace(this)
    add_http(this)
    _add_cluster(this)
    this.set_defaults(command=command)


def _add_cluster(this: argparse.ArgumentParser) -> None:
    this.add_argument(
        "--deployment", metavar="NAME", default="{fleet}-{pool}",
        help="Deployment of a pool (default {fleet}-{pool})",
    )  # fmt: skip
    this.add_argument(
        "--namespace",
        metavar="NAME",
        help="of the Deployments (default: the pod's own)",
    )
    this.add_argument(
        "--kubernetes-api", metavar="URL",
        help="API of the cluster, such as `kubectl proxy` gives (default: the cluster "
        "that this runs in)",
    )  # fmt: skip


async def command(args: argparse.Namespace) -> int:
    """Scale until SIGTERM or Ctrl-C."""
    fleet = load(args)
    pools = args.pool or list(fleet.fleet.tiers)
    for name in pools:
        if name not in fleet.fleet.tiers:
            raise UnknownName("pool", name, fleet.fleet.tiers)
    if args.every < _SHORTEST:
        raise UsageError(f"--every {args.every:g}: one second is the least")
    if args.every > _LONGEST:
        raise UsageError(
            f"--every {args.every:g}: {_LONGEST:g} seconds are the most; who is silent "
            "for three periods leads no more"
        )
    policies = {n: by_name(fleet.fleet.tiers[n].pool.scaling.policy) for n in pools}
    act = "advise" if args.advise else args.act
    lead = _LEAD_SECONDS[act] if args.lead is None else args.lead
    listen = listen_of(args)
    prepared = _target(args, act, fleet, pools, lead)
    client = await connected(fleet)
    target = prepared(client)
    scaler = Autoscaler(client, fleet, target, Brain(policies), every=args.every)
    stop = asyncio.Event()
    async with AsyncExitStack() as stack:
        abort = target.abort if isinstance(target, Processes) else None
        stack.enter_context(_stopped_by_signals(stop, abort))
        if listen is not None:
            served = serve_autoscaler(scaler, listen)
            url = await stack.enter_async_context(served)
            _log.info("autoscaler.listens", url=url)
        _log.info("autoscaler.starts", fleet=fleet.name, pools=pools, act=act)
        await scaler.run(stop)
    return DONE


def _target(
    args: argparse.Namespace,
    act: str,
    fleet: LoadedFleet,
    pools: list[str],
    lead: float,
) -> Callable[[Client], Target]:
    """Check what a target needs; it is made once there is a client."""
    if act == "advise":
        return lambda _: Advice(lead)
    if act == "slots":
        return lambda client: Slots(client, fleet.name, lead)
    if act == "processes":
        supervisors = _supervisors(args, fleet, pools)
        return lambda _: Processes(supervisors, lead)
    cluster, names = _cluster(args), _deployments(args, fleet, pools)
    return lambda _: Deployments(cluster, names, lead)


def _supervisors(
    args: argparse.Namespace, fleet: LoadedFleet, pools: list[str]
) -> Mapping[str, Supervisor]:
    found = {}
    for name in pools:
        scaling = fleet.fleet.tiers[name].pool.scaling
        mine = argparse.Namespace(**vars(args))
        mine.pool, mine.flows, mine.tools, mine.control = [name], False, False, False
        limits = Limits(0, scaling.max_workers, grace=args.grace)
        found[name] = Supervisor(child_options(mine), limits)
    return found


def _cluster(args: argparse.Namespace) -> Cluster:
    if args.kubernetes_api is None:
        around = Cluster.around()
        if args.namespace is None:
            return around
        return Cluster(around.url, args.namespace, around.token, around.authority)
    if not args.kubernetes_api.startswith(("http://", "https://")):
        raise UsageError(
            f"--kubernetes-api {args.kubernetes_api!r} is no address; write "
            "http://127.0.0.1:8001, say"
        )
    return Cluster(args.kubernetes_api, args.namespace or "default")


def _deployments(
    args: argparse.Namespace, fleet: LoadedFleet, pools: list[str]
) -> Mapping[str, str]:
    for field in _fields(args.deployment):
        if field not in ("fleet", "pool"):
            raise UsageError(
                f"--deployment {args.deployment!r}: only {{fleet}} and {{pool}} may "
                "stand in braces"
            )
    first = fleet_name(fleet.name)
    names = {n: args.deployment.format(fleet=first, pool=object_name(n)) for n in pools}
    for pool, name in names.items():
        if not _OBJECT.fullmatch(name):
            raise UsageError(
                f"--deployment {args.deployment!r}: {name!r}, for {pool}, cannot be the "
                "name of a Deployment: small letters, digits, '-' and '.' can"
            )
    if len(set(names.values())) < len(names):
        raise UsageError(
            f"--deployment {args.deployment!r} names one Deployment for several pools: "
            "put {pool} into it"
        )
    return names


def _fields(template: str) -> list[str]:
    """Return what stands in braces, with all that follows the name there."""
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError:
        return [template]  # a brace that is never closed, say
    return [
        f"{name}{conversion or ''}{form}"
        for _, name, form, conversion in parts
        if name is not None
    ]


@contextmanager
def _stopped_by_signals(
    stop: asyncio.Event, abort: Callable[[], None] | None
) -> Iterator[None]:
    """Stop at the first SIGTERM or Ctrl-C; at the next one abort what still drains."""
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)

    def told() -> None:
        if not stop.is_set():
            _log.info("autoscaler.stops")
            stop.set()
        elif abort is not None:
            abort()

    for number in numbers:
        loop.add_signal_handler(number, told)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
