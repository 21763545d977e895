"""Names of Kubernetes objects, and what cannot be one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from tierpool.errors import Problem

__all__ = ["LONGEST", "check_names", "deployment_name", "fleet_name", "object_name"]

LONGEST = 54
"""KEDA puts `keda-hpa-` before the name and all of it into a label, and a label's
value has 63 characters at most. Source: kedacore/keda#7762."""

_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?")


def object_name(text: str) -> str:
    """Convert a name of agents.yaml: small letters, digits and hyphens remain."""
    return text.lower().replace("_", "-").strip("-")


def fleet_name(fleet: str) -> str:
    """Return the first part of all names; a Service has to begin with a letter."""
    name = object_name(fleet)
    return name if name[:1].isalpha() else f"fleet-{name}"


def deployment_name(fleet: str, pool: str) -> str:
    """Name the Deployment of a pool, or of `flows`, `control`, `tools`, `autoscaler`."""
    return f"{fleet_name(fleet)}-{object_name(pool)}"


def check_names(
    fleet: str, tiers: Iterable[str], others: Sequence[str]
) -> list[Problem]:
    """Return what cannot be named in a cluster: bad ends, length, collisions.

    Args:
        fleet: Name of the fleet.
        tiers: Names of the tiers.
        others: Names of the Deployments that are no tiers.
    """
    places = {"fleet": fleet, **{f"tiers.{name}": name for name in tiers}}
    found = [
        _problem(
            path, f"{name!r} cannot be a label: it must end with a letter or digit"
        )
        for path, name in places.items()
        if not _LABEL.fullmatch(name)
    ]
    taken = {deployment_name(fleet, name): name for name in others}
    for path, name in list(places.items())[1:]:
        called = deployment_name(fleet, name)
        if len(called) > LONGEST:
            found.append(_problem(path, _too_long(called)))
        if called in taken:
            found.append(
                _problem(
                    path,
                    f"the Deployment {called!r} would be that of {taken[called]!r} "
                    "too; rename the tier",
                )
            )
        taken.setdefault(called, name)
    if not any(problem.path.startswith("tiers.") for problem in found):
        long = max((deployment_name(fleet, name) for name in others), key=len)
        if len(long) > LONGEST:
            found.append(_problem("fleet", _too_long(long)))
    return found


def _too_long(name: str) -> str:
    return (
        f"the Deployment {name!r} has {len(name)} characters; with KEDA's prefix a "
        f"cluster takes {LONGEST}: shorten the name"
    )


def _problem(path: str, message: str) -> Problem:
    return Problem(message, path=path)
