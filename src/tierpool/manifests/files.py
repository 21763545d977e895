"""The files of a fleet that its pods need, as keys of one ConfigMap."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tierpool.errors import Problem
from tierpool.fleet import LoadedFleet

__all__ = [
    "FLEET_FILE",
    "FLEET_FOLDER",
    "MOST_BYTES",
    "STATE_FOLDER",
    "FleetFile",
    "check_files",
    "fleet_files",
    "named_code",
    "named_files",
]

FLEET_FOLDER = "/etc/tierpool"
"""Where a pod sees the fleet file and what it names."""
FLEET_FILE = "agents.yaml"
"""Its name there, whatever it is called here."""
STATE_FOLDER = f"{FLEET_FOLDER}/.tierpool"
"""Where a process keeps the journal of its lease, and by default command roles work."""
MOST_BYTES = 1024 * 1024
"""Of all keys and values of a ConfigMap."""

_MODEL = re.compile(r"[\w.]+:[\w.]+")


def named_code(fleet: LoadedFleet) -> dict[str, str]:
    """Return the programs and Python objects that roles name, by their place."""
    found: dict[str, str] = {}
    for name, role in fleet.fleet.agents.items():
        if role.run:
            found[f"agents.{name}.run"] = role.run[0]
        if role.call:
            found[f"agents.{name}.call"] = role.call
        if isinstance(role.output, str) and _MODEL.fullmatch(role.output):
            found[f"agents.{name}.output"] = role.output
    return found


@dataclass(frozen=True, slots=True)
class FleetFile:
    """One file of the ConfigMap."""

    key: str
    """Letters, digits, `-`, `_`, `.`: what a ConfigMap takes."""
    path: str
    """Relative to the fleet's folder, as the pods see it."""
    text: str


def named_files(fleet: LoadedFleet) -> dict[str, str]:
    """Return the prompt and schema files that roles name, with their place."""
    found: dict[str, str] = {}
    for name, role in fleet.fleet.agents.items():
        if role.prompt is not None and "\n" not in role.prompt:
            found.setdefault(role.prompt, f"agents.{name}.prompt")
        if isinstance(role.output, str) and not _MODEL.fullmatch(role.output):
            found.setdefault(role.output, f"agents.{name}.output")
    return found


def fleet_files(text: str, parts: Mapping[str, str]) -> list[FleetFile]:
    """Put files together, the fleet file first and the others by name."""
    rest = {posixpath.normpath(name): body for name, body in parts.items()}
    return [FleetFile(FLEET_FILE, FLEET_FILE, text)] + [
        FleetFile(re.sub(r"[^A-Za-z0-9_.-]+", ".", path).lstrip("."), path, body)
        for path, body in sorted(rest.items())
    ]


def check_files(
    fleet: LoadedFleet, files: Sequence[FleetFile], places: Mapping[str, str]
) -> list[Problem]:
    """Return the files that a ConfigMap cannot hold, or a pod not see."""
    found = []
    where = {posixpath.normpath(name): place for name, place in places.items()}
    taken: dict[str, str] = {}
    for file in files:
        why = _unseen(file.path) if file.path in where else None
        if file.key in taken:
            why = f"would be the key {file.key!r} of {taken[file.key]!r} too; rename it"
        taken.setdefault(file.key, file.path)
        if why is not None:
            path = where.get(file.path, "")
            found.append(Problem(f"the file {file.path!r} {why}", path=path))
    size = sum(len(f.key) + len(f.text.encode()) for f in files)
    if size > MOST_BYTES:
        largest = sorted(files, key=lambda f: -len(f.text.encode()))[:3]
        named = ", ".join(f"{f.path} {len(f.text.encode()):,}" for f in largest)
        found.append(
            Problem(
                f"the fleet file and what it names take {size:,} bytes and a ConfigMap "
                f"holds {MOST_BYTES:,}; shorten the largest: {named}",
                file=str(fleet.path),
            )
        )
    return found


def _unseen(path: str) -> str | None:
    if path.startswith("/"):
        return "has an absolute path; write it relative to the fleet file"
    if path.startswith(".."):
        return "begins with `..`, which a volume takes for its own; rename it"
    if path.split("/")[0] == ".tierpool":
        return "is in .tierpool, where a pod has its own state; move it"
    return None
