"""Keys that this version parses and checks, but does not enforce yet.

One entry for each kind of limit; a version that enforces one deletes its
entry, and nothing else changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

from tierpool.config.report import Key, Node, Report

__all__ = ["NOT_ENFORCED", "report_not_enforced"]

Pattern: TypeAlias = tuple[str, ...]

NOT_ENFORCED: dict[str, tuple[Pattern, ...]] = {
    "cost per hour": tuple(
        ("guardrails", key)
        for key in ("max_cost_per_hour_usd", "alert_threshold_usd", "alert_webhook")
    ),
    "max_concurrent": (("max_concurrent",),),
    "rate_limit": (
        ("tiers", "*", "rate_limit"),
        ("tiers", "*", "fallback", "*", "rate_limit"),
    ),
}
"""Kind of limit: where it stands in the file; `*` is any name or number."""


def report_not_enforced(report: Report) -> None:
    """Warn once for each kind that the file sets."""
    for kind, patterns in NOT_ENFORCED.items():
        places = [p for pattern in patterns for p in _matching(report.root, pattern)]
        if not places:
            continue
        first = min(places, key=report.line)
        more = f" (set in {len(places)} places)" if len(places) > 1 else ""
        report.warning(
            first, f"{kind}: parsed and checked, not enforced in this version{more}"
        )


def _matching(
    node: Node | None, pattern: Sequence[str], path: tuple[Key, ...] = ()
) -> Iterator[tuple[Key, ...]]:
    if node is None:
        return
    if not pattern:
        if node.text is None or node.scalar not in (None, False):
            yield path
        return
    keys: list[Key] = [*(node.entries or ()), *range(len(node.items or ()))]
    for key in keys:
        if pattern[0] in ("*", key):
            yield from _matching(node.child(key), pattern[1:], (*path, key))
