"""Checks across the parts of a file: tiers, roles, flows, credentials, use.

Errors make a file unusable; warnings name what will probably surprise.
"""

from __future__ import annotations

from collections.abc import Mapping

from tierpool.blueprint import RESERVED_TIERS
from tierpool.config.credentials import check_credentials
from tierpool.config.flow_checks import check_flows
from tierpool.config.limits import check_limits
from tierpool.config.parts import Parts
from tierpool.config.report import Report
from tierpool.config.roles import RoleTexts, allowed_tiers, check_roles

__all__ = ["check_parts"]


def check_parts(
    parts: Parts, texts: RoleTexts, environ: Mapping[str, str], report: Report
) -> None:
    """Run every check that needs more than one part of the file."""
    _tier_names(parts, report)
    check_roles(parts, report)
    check_flows(parts, texts, report)
    check_credentials(parts.tiers, environ, report)
    _sizes(parts, report)
    check_limits(parts, report)
    _unused(parts, report)


def _tier_names(parts: Parts, report: Report) -> None:
    for name in parts.tiers:
        if name in RESERVED_TIERS:
            report.error(
                ("tiers", name),
                f"the tier name {name!r} is reserved for a queue of its own",
                hint=f"reserved: {', '.join(sorted(RESERVED_TIERS))}",
                at="key",
            )
        if "--" in name:
            report.error(
                ("tiers", name),
                f"the tier name {name!r} contains `--`",
                hint="that marks the queue of a fallback; use a single `-`",
                at="key",
            )


def _sizes(parts: Parts, report: Report) -> None:
    wide = parts.max_concurrent
    for name, tier in parts.tiers.items():
        size = tier.pool.max_instances if tier is not None else 0
        if wide is not None and size > wide:
            report.warning(
                ("tiers", name, "pool", "max_instances"),
                f"a pool of {size} instances is larger than max_concurrent {wide}",
            )


def _unused(parts: Parts, report: Report) -> None:
    if parts.flows:
        _unused_roles(parts, report)
        held = {s.holds for flow in parts.flows for s in flow.states.values() if s}
        for limit in parts.limits:
            if limit not in held:
                report.warning(("backpressure", limit), "no state holds this WIP limit")
    used: set[str] = set()
    for role in parts.agents.values():
        if role is None:
            return
        if role.type == "llm" or role.tier.fixed:
            used.update(allowed_tiers(role, parts))
    for name in parts.tiers:
        if name not in used:
            report.warning(("tiers", name), "no role may use this tier")


def _unused_roles(parts: Parts, report: Report) -> None:
    transitions = [edge.transition for flow in parts.flows for edge in flow.edges]
    if None in transitions:
        return
    named = {role for t in transitions if t for role in (t.agent, t.verify)}
    for name in parts.agents:
        if name not in named:
            report.warning(
                ("agents", name),
                "no flow names this role",
                hint="fine if your own workflows call it",
            )
