"""Which Deployments a fleet needs, and what each one runs."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tierpool.blueprint import Blueprint
from tierpool.errors import Problem
from tierpool.fleet import TOOLS, LoadedFleet, pool_specs
from tierpool.manifests.files import FLEET_FILE, FLEET_FOLDER, STATE_FOLDER, FleetFile

__all__ = [
    "AUTOSCALER",
    "GRACE_SECONDS",
    "Part",
    "autoscale_args",
    "check_workdir",
    "parts_of",
    "workdir_of",
]

AUTOSCALER = "autoscaler"
GRACE_SECONDS = 300
"""What calls in flight get after SIGTERM; a pod gets 30 s more."""
_HTTP = "0.0.0.0:8080"


@dataclass(frozen=True, slots=True)
class Part:
    """One Deployment."""

    name: str
    """`flows`, `control`, `tools`, `autoscaler` or a tier."""
    kind: Literal["pool", "tools", "flows", "control", "autoscaler"]
    args: tuple[str, ...]
    """Command line of tierpool."""
    replicas: int | None = None
    """None: an autoscaler owns the number."""
    secrets: tuple[str, ...] = ()
    """Variables without which it does not start."""
    optional: tuple[str, ...] = ()
    """Variables that it takes if the Secret has them."""
    slots: int = 0
    """Calls that it makes at a time."""
    workdir: str | None = None
    """Folder of command roles that needs a volume of its own."""


def parts_of(fleet: LoadedFleet, secrets: Mapping[str, Sequence[str]]) -> list[Part]:
    """Return the Deployments of a fleet, tiers last and in their order.

    Args:
        fleet: The fleet.
        secrets: Variables with the keys that the models of each tier need.
    """
    specs = pool_specs(fleet)
    found = [
        Part("control", "control", _worker("--control"), replicas=1),
        # two, so that work items go on while one is replaced
        Part("flows", "flows", _worker("--flows"), replicas=2),
        Part(
            AUTOSCALER,
            "autoscaler",
            autoscale_args("--advise"),
            replicas=1,
        ),
    ]
    tools = [role for role in _tools(fleet) if role.tier.fixed is None]
    if tools:
        found.append(_tools_part(fleet, tools, specs[TOOLS].max_instances))
    return found + [
        _pool(fleet, name, tuple(dict.fromkeys(secrets.get(name, ()))))
        for name in fleet.fleet.tiers
    ]


def _tools_part(fleet: LoadedFleet, roles: Sequence[Blueprint], slots: int) -> Part:
    return Part(
        TOOLS,
        "tools",
        _worker("--tools"),
        # a folder of an item is on one pod: see docs/kubernetes.md
        replicas=1,
        optional=_passed(roles),
        slots=slots,
        workdir=_mounted(fleet, roles),
    )


def _pool(fleet: LoadedFleet, tier: str, secrets: tuple[str, ...]) -> Part:
    roles = [role for role in _tools(fleet) if role.tier.fixed == tier]
    return Part(
        tier,
        "pool",
        _worker("--pool", tier),
        secrets=secrets,
        optional=tuple(name for name in _passed(roles) if name not in secrets),
        slots=fleet.fleet.tiers[tier].pool.max_instances,
        workdir=_mounted(fleet, roles),
    )


def autoscale_args(*what: str) -> tuple[str, ...]:
    """Return the command line of the autoscaler."""
    file = f"{FLEET_FOLDER}/{FLEET_FILE}"
    return ("autoscale", *what, "--file", file, "--http", _HTTP)


def _worker(*what: str) -> tuple[str, ...]:
    return (
        "worker", *what, "--file", f"{FLEET_FOLDER}/{FLEET_FILE}",
        "--grace", str(GRACE_SECONDS), "--http", _HTTP,
    )  # fmt: skip


def _tools(fleet: LoadedFleet) -> list[Blueprint]:
    return [r for r in fleet.fleet.agents.values() if r.type in ("command", "python")]


def _passed(roles: Sequence[Blueprint]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for role in roles for name in role.pass_env))


def workdir_of(fleet: LoadedFleet) -> str:
    """Return the folder of command roles as a pod sees it."""
    return posixpath.normpath(
        posixpath.join(FLEET_FOLDER, fleet.fleet.workdir or f"{STATE_FOLDER}/work")
    )


def _mounted(fleet: LoadedFleet, roles: Sequence[Blueprint]) -> str | None:
    """Return the folder if these roles need it and no other volume has it."""
    folder = workdir_of(fleet)
    if not any(role.type == "command" for role in roles):
        return None
    return None if _below(folder, STATE_FOLDER) or _below(folder, "/tmp") else folder


def check_workdir(fleet: LoadedFleet, files: Sequence[FleetFile]) -> list[Problem]:
    """Refuse a folder of command roles that would cover something else."""
    if fleet.fleet.workdir is None:
        return []
    folder = workdir_of(fleet)
    covered = [f"{FLEET_FOLDER}/{file.path}" for file in files]
    first = f"{FLEET_FOLDER}/{posixpath.relpath(folder, FLEET_FOLDER).split('/')[0]}"
    hidden = [path for path in covered if _below(path, folder)]
    if _below(folder, FLEET_FOLDER) and folder != FLEET_FOLDER:
        hidden += [path for path in covered if _below(path, first)]
    if folder in ("/", STATE_FOLDER) or hidden:
        return [
            Problem(
                f"the folder {folder} would cover "
                f"{hidden[0] if hidden else 'what the pod needs itself'}; name a "
                "folder of its own, such as /var/lib/tierpool",
                path="workdir",
                value=repr(fleet.fleet.workdir),
            )
        ]
    return []


def _below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")
