"""`tierpool manifests`: Kubernetes manifests of the fleet."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tierpool import __version__
from tierpool.cli.common import (
    DONE,
    FAILED,
    console,
    load,
    plain,
    print_json,
    print_problems,
)
from tierpool.config.credentials import credential, models_of
from tierpool.errors import ConfigError, Problem
from tierpool.fleet import LoadedFleet
from tierpool.manifests import Manifests, Settings, named_files, render
from tierpool.manifests.texts import HEADER

_DEFAULTS = Settings(image=f"tierpool:{__version__}")
_MISSING, _CHANGED, _STALE = "missing", "differs", "not written any more"


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the sub-parser."""
    this = commands.add_parser(
        "manifests", parents=[common],
        help="write Kubernetes manifests of the fleet: a kustomize base and overlays",
    )  # fmt: skip
    this.add_argument(
        "--out", default="deploy/k8s", metavar="DIR",
        help="where base/ and overlays/ go (default %(default)s)",
    )  # fmt: skip
    this.add_argument(
        "--check", action="store_true",
        help="write nothing; exit status 1 if DIR holds something else",
    )  # fmt: skip
    this.add_argument(
        "--namespace", metavar="N",
        help="namespace of Kubernetes (default: the one that is current on applying)",
    )  # fmt: skip
    for name, metavar, what in (
        ("image", "IMAGE", "image of the workers, with a tag or digest"),
        ("temporal-address", "HOST:PORT", "the Temporal server, seen from the cluster"),
        ("temporal-namespace", "NAME", "namespace of Temporal"),
        ("prometheus-url", "URL", "what KEDA asks for the metric"),
        ("local-model-url", "URL", "where models named local:… are served"),
    ):
        default = asdict(_DEFAULTS)[name.replace("-", "_")]
        this.add_argument(
            f"--{name}", default=default, metavar=metavar,
            help=f"{what} (default {default})",
        )  # fmt: skip
    this.set_defaults(command=command)


def command(args: argparse.Namespace) -> int:
    """Write the files, or compare them with what is there."""
    settings = Settings(**{name: getattr(args, name) for name in asdict(_DEFAULTS)})
    made = _rendered(load(args), settings)
    folder = Path(args.out)
    different = _compare(folder, made.files)
    if args.check:
        return _tell_differences(args, different, made)
    _refuse_foreign(folder, made.files)
    _write(folder, made.files)
    stale = [path for path, state in different.items() if state == _STALE]
    if args.json:
        warnings = [problem.as_dict() for problem in made.warnings]
        written = [str(folder / path) for path in made.files]
        print_json({"written": written, "stale": stale, "warnings": warnings})
        return DONE
    print_problems(made.warnings)
    console.print(plain(f"wrote {len(made.files)} files to {folder}"))
    for path in stale:
        console.print(plain(f"no longer written, and left alone: {folder / path}"))
    console.print(
        plain(f"\nnext: kubectl apply --server-side -k {folder}/overlays/keda")
    )
    return DONE


def _rendered(fleet: LoadedFleet, settings: Settings) -> Manifests:
    """Render with the files that the fleet names, all of them read before."""
    folder = fleet.path.parent
    return render(
        fleet,
        settings,
        text=_read(fleet.path),
        parts={name: _read(folder / name) for name in named_files(fleet)},
        secrets={
            name: [key for _, model in models_of(tier) if (key := credential(model))]
            for name, tier in fleet.fleet.tiers.items()
        },
    )


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        # it was readable when the fleet was loaded
        raise ConfigError(
            [Problem(f"cannot be read: {error}", file=str(path))]
        ) from None


def _compare(folder: Path, files: Mapping[str, str]) -> dict[str, str]:
    """Return what is different in a folder, by path."""
    found = {}
    for path, text in files.items():
        try:
            same = (folder / path).read_bytes() == text.encode()
        except OSError:
            found[path] = _MISSING
        else:
            if not same:
                found[path] = _CHANGED
    for there in _there(folder):
        path = there.relative_to(folder).as_posix()
        if path not in files and _is_ours(there):
            found[path] = _STALE
    return found


def _there(folder: Path) -> list[Path]:
    """Return what stands where this command writes; nothing if that cannot be told."""
    try:
        return [
            path
            for pattern in ("base/**/*", "overlays/*/*")
            for path in sorted(folder.glob(pattern))
            if path.is_file()
        ]
    except OSError:  # a name too long, a folder that may not be entered
        return []


def _is_ours(path: Path) -> bool:
    """Tell what this command wrote: by its first line, or in the fleet's folder."""
    if path.parent.name == "fleet":
        return True
    try:
        with path.open("rb") as file:
            return file.read(len(HEADER)) == HEADER.encode()
    except OSError:  # a folder, or not for us to read
        return False


def _tell_differences(
    args: argparse.Namespace, different: Mapping[str, str], made: Manifests
) -> int:
    if args.json:
        print_json({"different": different, "files": len(made.files)})
    elif different:
        for path, state in different.items():
            console.print(plain(f"{Path(args.out) / path}: {state}"))
    else:
        console.print(plain(f"{len(made.files)} files in {args.out} are up to date"))
    return FAILED if different else DONE


def _refuse_foreign(folder: Path, files: Iterable[str]) -> None:
    """Write over nothing that somebody else wrote.

    Raises:
        ConfigError: naming every such file.
    """
    message = (
        "was not written by this command; nothing was written: name another folder "
        "with --out, or move it away"
    )
    found = [path for name in files if os.path.lexists(path := folder / name)]
    foreign = [path for path in found if not _is_ours(path)]
    if foreign:
        raise ConfigError([Problem(message, file=str(path)) for path in foreign])


def _write(folder: Path, files: Mapping[str, str]) -> None:
    for path, text in files.items():
        target = folder / path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(text.encode())
        except OSError as error:
            message = f"cannot be written: {error.strerror}"
            raise ConfigError([Problem(message, file=str(target))]) from error
