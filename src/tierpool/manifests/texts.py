"""Writes documents as YAML that every reader takes alike.

Readers of YAML 1.1, as in Kubernetes' tools, take `on` and `012` for something
else than readers of 1.2: whatever is not plainly text is quoted.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

__all__ = ["HEADER", "yaml_text"]

HEADER = "# Written by `tierpool manifests`; change agents.yaml and write it again.\n"
"""First line of every YAML file, by which the command knows its own."""

_WIDE = 4096
_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./@%$()|-]*")
_WORDS = frozenset(("y", "n", "yes", "no", "on", "off", "true", "false", "null"))


def yaml_text(documents: Sequence[Mapping[str, Any]], comment: str = "") -> str:
    """Write documents below the header and a comment for people."""
    yaml = YAML()
    yaml.width = _WIDE
    yaml.indent(mapping=2, sequence=4, offset=2)
    parts = []
    for document in documents:
        out = io.StringIO()
        yaml.dump(_quoted(document), out)
        parts.append(out.getvalue())
    lines = "".join(f"# {line}".rstrip() + "\n" for line in comment.splitlines())
    return HEADER + lines + "---\n".join(parts)


def _quoted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _quoted(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_quoted(inner) for inner in value]
    if isinstance(value, str) and (
        not _PLAIN.fullmatch(value) or value.lower() in _WORDS
    ):
        return DoubleQuotedScalarString(value)
    return value
