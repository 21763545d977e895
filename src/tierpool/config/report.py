"""Collects problems and finds the place of each in the file.

A `Node` is a value of the file with its place; `Report` turns a path such as
`("tiers", "nano", "pool")` into line, column and the text as written. What is
wrong is decided elsewhere.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from tierpool.errors import Problem, nearest

__all__ = ["Key", "Mark", "Node", "Plain", "Report", "known_names", "path_text"]

Key: TypeAlias = str | int
Plain: TypeAlias = "bool | int | float | str | list[Plain] | dict[str, Plain] | None"

SHOWN_CHARACTERS = 60
"""Longest value that is shown whole."""

_HIDDEN = frozenset({"api_key_env", "base_url", "alert_webhook", "run"})
"""Keys whose value may turn out to be a secret written in the wrong place."""

_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in the file; both numbers count from 1."""

    line: int
    column: int


@dataclass(slots=True)
class Node:
    """A value of the file, with the places of its parts."""

    mark: Mark
    text: str | None = None
    """A scalar as written; None for mappings and lists."""
    scalar: bool | int | float | str | None = None
    items: list[Node] | None = None
    """Elements of a list."""
    entries: dict[str, Node] | None = None
    """Values of a mapping, in the order of the file."""
    keys: dict[str, Mark] = field(default_factory=dict)
    """Places of the keys of a mapping."""

    def plain(self) -> Plain:
        """Return the value without places."""
        if self.entries is not None:
            return {key: node.plain() for key, node in self.entries.items()}
        if self.items is not None:
            return [node.plain() for node in self.items]
        return self.scalar

    def child(self, key: Key) -> Node | None:
        """Return a part, or None if there is no such part."""
        if self.entries is not None and isinstance(key, str):
            return self.entries.get(key)
        inside = self.items is not None and isinstance(key, int)
        if inside and self.items is not None and 0 <= int(key) < len(self.items):
            return self.items[int(key)]
        return None


class Report:
    """The problems found so far, without repetitions."""

    def __init__(self, file: str) -> None:
        """Start empty; `root` is set once the file could be read."""
        self.file = file
        self.root: Node | None = None
        self._found: dict[tuple[str, int, str], Problem] = {}

    def problems(self) -> tuple[Problem, ...]:
        """Return everything found, in the order of the file."""
        return tuple(
            sorted(
                self._found.values(),
                key=lambda p: (p.line, p.column, p.path, p.message),
            )
        )

    @property
    def failed(self) -> bool:
        """Whether there is an error among the problems."""
        return any(p.severity == "error" for p in self._found.values())

    def has_error(self, path: Sequence[Key]) -> bool:
        """Tell whether this very place was found wrong already."""
        text = path_text(path)
        return any(
            p.path == text and p.severity == "error" for p in self._found.values()
        )

    def at(
        self,
        mark: Mark | None,
        path: Sequence[Key],
        message: str,
        *,
        value: str | None = None,
        hint: str | None = None,
        severity: Literal["error", "warning"] = "error",
    ) -> None:
        """Add a problem whose place is known already."""
        problem = Problem(
            message=message,
            path=path_text(path),
            file=self.file,
            line=mark.line if mark else 0,
            column=mark.column if mark else 0,
            value=value,
            hint=hint,
            severity=severity,
        )
        self._found.setdefault((problem.path, problem.line, message), problem)

    def error(
        self,
        path: Sequence[Key],
        message: str,
        *,
        hint: str | None = None,
        at: Literal["key", "value"] = "value",
    ) -> None:
        """Add an error; a value is shown where the path leads to a scalar.

        A path that leads past the file (a missing key, a short form) is placed
        at the last part that exists, there at its key.
        """
        mark, node = self._locate(path, at)
        shown = self._shown(path, node) if at == "value" else None
        self.at(mark, path, message, value=shown, hint=hint)

    def warning(
        self, path: Sequence[Key], message: str, *, hint: str | None = None
    ) -> None:
        """Add a warning, placed at the key."""
        mark, _ = self._locate(path, "key")
        self.at(mark, path, message, hint=hint, severity="warning")

    def node(self, path: Sequence[Key]) -> Node | None:
        """Return what the file has at this path, or None."""
        node = self.root
        for key in path:
            node = node.child(key) if node is not None else None
        return node

    def line(self, path: Sequence[Key]) -> int:
        """Return the line of a key, or of the last part that exists."""
        mark, _ = self._locate(path, "key")
        return mark.line if mark else 0

    def _locate(
        self, path: Sequence[Key], at: Literal["key", "value"]
    ) -> tuple[Mark | None, Node | None]:
        node = self.root
        if node is None:
            return None, None
        key_mark = node.mark
        for key in path:
            child = node.child(key)
            if child is None:
                written = at == "value" and bool(node.text)
                return (node.mark, node) if written else (key_mark, None)
            key_mark = (
                node.keys.get(key, child.mark) if isinstance(key, str) else child.mark
            )
            node = child
        return (node.mark if at == "value" and node.text else key_mark), node

    @staticmethod
    def _shown(path: Sequence[Key], node: Node | None) -> str | None:
        if node is None or node.text is None:
            return None
        if _HIDDEN.intersection(map(str, path)) or "\n" in str(node.scalar):
            return None
        text = " ".join(node.text.split())
        if not text:
            return "nothing"
        if len(text) > SHOWN_CHARACTERS:
            return text[: SHOWN_CHARACTERS - 1] + "…"
        return text


def path_text(path: Iterable[Key]) -> str:
    """Write a path as `tiers.nano.fallback[0]["odd key"]`."""
    text = ""
    for key in path:
        if isinstance(key, int):
            text += f"[{key}]"
        elif _PLAIN_KEY.fullmatch(key):
            text += f".{key}" if text else key
        else:
            text += f"[{json.dumps(key, ensure_ascii=False)}]"
    return text


def known_names(name: str, known: Iterable[str]) -> str:
    """Name the nearest known name, if one is near, and what is known."""
    names = list(known)
    near = nearest(name, names)
    listed = ", ".join(names[:30]) + (", …" if len(names) > 30 else "")
    return (f"did you mean {near!r}? " if near else "") + f"known: {listed or 'none'}"
