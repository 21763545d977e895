"""Metrics of several processes as one page, told apart by a label."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["labelled"]

_SAMPLE = re.compile(r"([A-Za-z_:][A-Za-z0-9_:]*)(?:\{(.*)\})? (\S+(?: \S+)?)")
_PARTS = ("", "_bucket", "_sum", "_count")
"""What the samples of a histogram or summary add to its name."""


def labelled(label: str, pages: Iterable[tuple[str, str]]) -> str:
    """Put pages in Prometheus's text format 0.0.4 together.

    Every sample gets the label; every metric is announced once and stands in
    one piece, as the format asks for.

    Args:
        label: Name of the label.
        pages: Its value, and the page.
    """
    heads: dict[str, dict[str, str]] = {}
    samples: dict[str, list[str]] = {}
    for value, page in pages:
        escaped = value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
        added = f'{label}="{escaped}"'
        current = ""
        # not splitlines(): it would also cut at characters that labels may have
        for line in page.split("\n"):
            if line.startswith(("# HELP ", "# TYPE ")):
                kind, current = line[2:6], line.split(" ", 3)[2]
                samples.setdefault(current, [])
                heads.setdefault(current, {}).setdefault(kind, line)
            elif found := _SAMPLE.fullmatch(line):
                name, labels, rest = found.groups()
                metric = current if name in {current + p for p in _PARTS} else name
                all_labels = f"{added},{labels}" if labels else added
                sample = f"{name}{{{all_labels}}} {rest}"
                samples.setdefault(metric, []).append(sample)
    lines = (
        line
        for metric, found in samples.items()
        for line in (*heads.get(metric, {}).values(), *found)
    )
    return "".join(f"{line}\n" for line in lines)
