"""Reads files: agents.yaml itself, and the prompts and schemas it names.

Every read is bounded and every failure has a sentence for people. Nothing
outside the folder of agents.yaml is read on its behalf.
"""

from __future__ import annotations

import codecs
from pathlib import Path

from tierpool.config.report import Node, Report
from tierpool.config.yaml_nodes import parse_yaml
from tierpool.errors import nearest

__all__ = ["MAX_FILE_BYTES", "MAX_PART_BYTES", "PartProblem", "read_part", "read_yaml"]

MAX_FILE_BYTES = 1024 * 1024
"""Largest agents.yaml; a larger one is refused before it is parsed."""
MAX_PART_BYTES = 64 * 1024
"""Largest prompt or schema."""


class PartProblem(Exception):
    """Why a prompt or schema cannot be used, with a hint."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        """Keep both for the report."""
        super().__init__(message)
        self.message, self.hint = message, hint


def read_yaml(path: Path, report: Report) -> Node | None:
    """Read agents.yaml; None if it cannot be read, and the report says why."""
    try:
        raw = _read(path, MAX_FILE_BYTES)
        text = _decode(raw)
    except PartProblem as problem:
        report.at(None, (), problem.message, hint=problem.hint)
        return None
    root = parse_yaml(text, report)
    if root is not None and root.entries is None:
        report.at(
            root.mark,
            (),
            "expected a mapping with version, tiers and agents",
        )
        return None
    return root


def read_part(folder: Path, name: str, what: str) -> str:
    """Read a text file that agents.yaml names, relative to its folder.

    Raises:
        PartProblem: if it is missing, outside of the folder, too large, empty
            or not UTF-8.
    """
    path = _inside(folder, name, what)
    text = _decode(
        _read(path, MAX_PART_BYTES, f"the {what} file "), f"the {what} file "
    )
    if not text.strip():
        raise PartProblem(f"the {what} file is empty")
    return text


def _inside(folder: Path, name: str, what: str) -> Path:
    try:
        path = (folder / name).resolve()
        outside = not path.is_relative_to(folder.resolve())
        missing = not path.exists()
    except (OSError, ValueError, RuntimeError):  # too long, NUL, a loop of links
        raise PartProblem(f"not the path of a {what} file") from None
    if outside:
        raise PartProblem(
            f"the {what} file is outside the folder of agents.yaml",
            "keep it beside agents.yaml or below, so that both travel together",
        )
    if missing:
        raise PartProblem(f"the {what} file does not exist", _sibling(path, folder))
    return path


def _sibling(path: Path, folder: Path) -> str:
    """Name the nearest existing file, or say where was looked."""
    try:
        names = [p.name for p in path.parent.iterdir()] if path.parent.exists() else []
    except OSError:
        names = []
    near = nearest(path.name, names)
    looked = f"looked in the folder of agents.yaml, {str(folder) or '.'}"
    return f"did you mean {near!r}?" if near else looked


def _read(path: Path, limit: int, what: str = "") -> bytes:
    try:
        if path.exists() and not path.is_file():
            raise PartProblem(f"{what or 'the path '}is not a regular file")
        with path.open("rb") as file:
            raw = file.read(limit + 1)
    except FileNotFoundError:
        raise PartProblem("the file does not exist") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a valid path"
        raise PartProblem(f"{what}cannot be read: {reason}") from None
    if len(raw) > limit:
        raise PartProblem(f"{what or 'the file '}is larger than {limit // 1024} KiB")
    return raw


def _decode(raw: bytes, what: str = "the file ") -> str:
    try:
        return raw.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        start = error.start + 3 * raw.startswith(codecs.BOM_UTF8)
        raise PartProblem(
            f"{what}is not UTF-8 text: byte 0x{raw[start]:02x} at offset {start}"
        ) from None
