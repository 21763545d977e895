"""Limits of roles and states that let nothing through, or that can block each other."""

from __future__ import annotations

from tierpool.config.parts import FlowParts, Parts
from tierpool.config.report import Report

__all__ = ["check_limits"]


def check_limits(parts: Parts, report: Report) -> None:
    """Warn of what is allowed but will surprise."""
    _roles(parts, report)
    held = {s.holds for flow in parts.flows for s in flow.states.values() if s}
    known = parts.fleet.backpressure if parts.fleet else {}
    for name, amount in known.items():
        if not amount and name in held:
            report.warning(
                ("backpressure", name),
                "a WIP limit of 0: no item enters a state that holds it",
            )
    _crossing(parts, report)


def _roles(parts: Parts, report: Report) -> None:
    for name, role in parts.agents.items():
        if role is None:
            continue
        if role.type == "human":
            for key in ("max_instances", "rate_limit"):
                if getattr(role, key) is not None:
                    report.warning(
                        ("agents", name, key), "has no effect on a human role"
                    )
        elif role.max_instances == 0:
            report.warning(
                ("agents", name, "max_instances"),
                "0: the role is paused, its calls wait",
            )


def _crossing(parts: Parts, report: Report) -> None:
    """Warn where items of two limits may each wait for the other's slot."""
    moves = {pair for flow in parts.flows for pair in _moves(flow)}
    for name in parts.limits:
        for other in parts.limits:
            if (name, other) in moves and (other, name) in moves and name < other:
                report.warning(
                    ("backpressure", name),
                    f"items move from {name!r} to {other!r} and back: when both are "
                    "full, each waits for the other for ever",
                    hint="let the states hold one limit, or leave by a state without one",
                )


def _moves(flow: FlowParts) -> list[tuple[str, str]]:
    """Return (limit, limit) of transitions from one limit right to another."""
    holds = {name: spec.holds for name, spec in flow.states.items() if spec}
    pairs = ((holds.get(e.source), holds.get(e.target)) for e in flow.edges)
    return [(a, b) for a, b in pairs if a and b and a != b]
