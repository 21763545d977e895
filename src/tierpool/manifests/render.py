"""From a loaded fleet to the text of every file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tierpool.blueprint import split_model
from tierpool.errors import ConfigError, Problem
from tierpool.fleet import LoadedFleet
from tierpool.manifests.base import base_files
from tierpool.manifests.files import check_files, fleet_files, named_code, named_files
from tierpool.manifests.names import check_names
from tierpool.manifests.overlays import overlay_files
from tierpool.manifests.parts import check_workdir, parts_of
from tierpool.manifests.pods import Cluster
from tierpool.manifests.settings import Settings, check_settings

__all__ = ["Manifests", "render"]

_CLIENT_SIDE_BYTES = 200 * 1024
"""`kubectl apply` keeps a copy of an object in an annotation of 256 KiB."""


@dataclass(frozen=True, slots=True)
class Manifests:
    """The files, and what whoever applies them should know."""

    files: Mapping[str, str]
    """Text by path, with `/` between folders; `base/…` and `overlays/…`."""
    warnings: tuple[Problem, ...] = ()


def render(
    fleet: LoadedFleet,
    settings: Settings,
    *,
    text: str,
    parts: Mapping[str, str],
    secrets: Mapping[str, Sequence[str]],
) -> Manifests:
    """Write the base and all overlays; the same input gives the same bytes.

    Args:
        fleet: The fleet.
        settings: Where things are in the cluster.
        text: The fleet file as it stands.
        parts: Text of the files that `named_files` names.
        secrets: Variables with the keys that the models of each tier need.

    Raises:
        ConfigError: with everything that a cluster would not take.
    """
    needed = parts_of(fleet, secrets)
    files = fleet_files(text, parts)
    others = [part.name for part in needed if part.kind != "pool"]
    problems = [
        *check_settings(settings),
        *_in_file(fleet, check_names(fleet.name, fleet.fleet.tiers, others)),
        *_in_file(fleet, check_files(fleet, files, named_files(fleet))),
        *_in_file(fleet, check_workdir(fleet, files)),
    ]
    if problems:
        raise ConfigError(problems)
    cluster = Cluster(fleet.name, settings, files)
    base = base_files(cluster, needed, local=_is_local(fleet))
    overlays = overlay_files(fleet, cluster)
    written = {f"base/{path}": body for path, body in base.items()}
    written |= {f"overlays/{path}": body for path, body in overlays.items()}
    size = sum(len(file.text.encode()) for file in files)
    return Manifests(dict(sorted(written.items())), tuple(_warnings(fleet, size)))


def _in_file(fleet: LoadedFleet, problems: Sequence[Problem]) -> list[Problem]:
    return [replace(problem, file=str(fleet.path)) for problem in problems]


def _is_local(fleet: LoadedFleet) -> bool:
    return any(
        split_model(model.model)[0] == "local" and model.base_url is None
        for tier in fleet.snapshot.tiers.values()
        for model in tier.models
    )


def _warnings(fleet: LoadedFleet, size: int) -> list[Problem]:
    found = []

    def warn(path: str, message: str) -> None:
        found.append(
            Problem(message, path=path, file=str(fleet.path), severity="warning")
        )

    if fleet.fleet.guardrails.alert_webhook is not None:
        warn(
            "guardrails.alert_webhook",
            "the address goes into a config map; whoever may read that can post to it",
        )
    if size > _CLIENT_SIDE_BYTES:
        warn(
            "",
            f"the config map takes {size:,} bytes: apply it with `--server-side`, "
            "without which kubectl keeps a second copy and refuses it",
        )
    for place, what in named_code(fleet).items():
        warn(place, f"{what!r} has to be in the image")
    for name, tier in fleet.fleet.tiers.items():
        if not tier.pool.max_instances:
            warn(f"tiers.{name}.pool.max_instances", "a paused pool is not scaled")
    return found
