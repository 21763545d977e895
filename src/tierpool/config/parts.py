"""Validates the parts of a file one by one, so that no error hides another.

A part that is not valid stays known by its name with the value None: other
parts may refer to it without a second error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from tierpool.blueprint import Blueprint, Tier
from tierpool.config.graph import Edge
from tierpool.config.report import Plain, Report
from tierpool.config.schema_errors import report_errors
from tierpool.fleet import Fleet
from tierpool.flow import StateSpec, Transition

__all__ = ["NAME", "TRANSITION", "FlowParts", "Parts", "read_parts"]

M = TypeVar("M", bound=BaseModel)

NAME = r"[A-Za-z][A-Za-z0-9_-]{0,63}"
TRANSITION = re.compile(rf"\s*({NAME})\s*->\s*({NAME})\s*")
"""Key of a transition: `from -> to`."""


@dataclass(frozen=True, slots=True)
class FlowParts:
    """One flow, as far as it could be read."""

    name: str
    initial: str | None
    edges: tuple[Edge, ...]
    """Transitions whose key is `from -> to`."""
    bad_keys: tuple[str, ...]
    """Keys of transitions that are not."""
    states: Mapping[str, StateSpec | None]

    @property
    def whole(self) -> bool:
        """Whether every transition's ends are known."""
        return not self.bad_keys

    def leaving(self, state: str) -> list[Edge]:
        """Return the transitions of a state in the order of the file."""
        return [edge for edge in self.edges if edge.source == state]

    def state_names(self) -> list[str]:
        """Return every state that a transition names."""
        return list(
            dict.fromkeys(s for edge in self.edges for s in (edge.source, edge.target))
        )


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything of a file that could be read."""

    fleet: Fleet | None
    """The whole file, if all of it is valid."""
    prefix: str
    tiers: Mapping[str, Tier | None]
    """Cheapest first."""
    agents: Mapping[str, Blueprint | None]
    flows: tuple[FlowParts, ...]
    limits: tuple[str, ...]
    """Names under `backpressure`."""
    max_concurrent: int | None
    has: frozenset[str] = field(default_factory=frozenset)
    """Sections that are mappings; names are checked only against these."""


def read_parts(report: Report) -> Parts:
    """Validate the file and each of its parts; problems go to the report."""
    plain = report.root.plain() if report.root else {}
    data = _strict(plain)
    fleet = None
    try:
        fleet = Fleet.model_validate(data, strict=True)
    except ValidationError as error:
        report_errors(error, report)
    sections = {
        name: value for name, value in _mapping(data).items() if isinstance(value, dict)
    }
    prefix = _mapping(data).get("fleet", "tierpool")
    wide = _mapping(data).get("max_concurrent")
    return Parts(
        fleet=fleet,
        prefix=prefix if isinstance(prefix, str) else "tierpool",
        tiers=_each(sections.get("tiers"), Tier),
        agents=_each(sections.get("agents"), Blueprint),
        flows=tuple(
            _flow(name, value)
            for name, value in sections.get("flows", {}).items()
            if isinstance(value, dict)
        ),
        limits=tuple(sections.get("backpressure", {})),
        max_concurrent=wide if type(wide) is int else None,
        has=frozenset(sections),
    )


def _flow(name: str, value: dict[str, object]) -> FlowParts:
    initial = value.get("initial")
    edges, bad = [], []
    for key, body in _mapping(value.get("transitions")).items():
        ends = TRANSITION.fullmatch(key)
        if ends is None:
            bad.append(key)
        else:
            edges.append(Edge(key, ends[1], ends[2], _try(Transition, body)))
    return FlowParts(
        name=name,
        initial=initial if isinstance(initial, str) else None,
        edges=tuple(edges),
        bad_keys=tuple(bad),
        states=_each(value.get("states"), StateSpec),
    )


def _each(value: object, model: type[M]) -> dict[str, M | None]:
    return {name: _try(model, part) for name, part in _mapping(value).items()}


def _try(model: type[M], value: object) -> M | None:
    try:
        return model.model_validate(value, strict=True)
    except ValidationError:
        return None


def _mapping(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}


def _strict(value: Plain, path: tuple[str, ...] = ()) -> object:
    """Give pydantic tuples for lists: then it can refuse text for numbers."""
    if _is_free_form(path):
        return value
    if isinstance(value, dict):
        return {key: _strict(one, (*path, key)) for key, one in value.items()}
    if isinstance(value, list):
        return tuple(_strict(one, (*path, "[]")) for one in value)
    return value


def _is_free_form(path: tuple[str, ...]) -> bool:
    """Tell where any JSON may stand: there a list stays a list."""
    if len(path) == 3:
        return path[0] == "agents" and path[2] == "output"
    return len(path) == 5 and (path[0], path[2], path[4]) == (
        "flows",
        "transitions",
        "when",
    )
