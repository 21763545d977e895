"""Checks of flows: names, what a transition asks for, and the graph.

The questions about the graph are answered in `graph`, those about `when` in
`conditions`; here they become problems with a place.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import JsonValue

from tierpool.blueprint import Blueprint
from tierpool.config.conditions import against_schema, repliers, shape_problems
from tierpool.config.graph import (
    Edge,
    dead_ends,
    shadowed,
    unbounded_cycles,
    unreachable,
)
from tierpool.config.output import Schema
from tierpool.config.parts import FlowParts, Parts
from tierpool.config.report import Key, Report, known_names
from tierpool.config.roles import RoleTexts, allowed_tiers
from tierpool.flow import CANCELLED, FAILED, Transition

__all__ = ["check_flows"]

_PLAIN_TEXT: Schema = {
    "type": "object",
    "properties": {"text": {"type": "string"}},
    "additionalProperties": False,
}
"""Reply of an llm role that declares no `output`."""


def check_flows(parts: Parts, texts: RoleTexts, report: Report) -> None:
    """Check every flow; problems go to the report."""
    for flow in parts.flows:
        check = _FlowCheck(flow, parts, texts, report)
        check.keys()
        check.states()
        check.graph()
        for edge in flow.edges:
            if edge.transition is not None:
                check.transition(edge, edge.transition)


class _FlowCheck:
    """The checks of one flow."""

    def __init__(
        self, flow: FlowParts, parts: Parts, texts: RoleTexts, report: Report
    ) -> None:
        self.flow, self.parts, self.texts, self.report = flow, parts, texts, report

    def path(self, *more: Key) -> tuple[Key, ...]:
        return ("flows", self.flow.name, *more)

    def keys(self) -> None:
        for key in self.flow.bad_keys:
            self.report.error(
                self.path("transitions", key),
                "expected a transition `from -> to`, each a letter followed by "
                "letters, digits, `_` and `-`",
                at="key",
            )
        first: dict[tuple[str, str], str] = {}
        for edge in self.flow.edges:
            path = self.path("transitions", edge.key)
            if edge.source in (FAILED, CANCELLED):
                message = f"{edge.source} is terminal: nothing leaves it"
                self.report.error(path, message, at="key")
            other = first.setdefault((edge.source, edge.target), edge.key)
            if other != edge.key:
                line = self.report.line(self.path("transitions", other))
                self.report.error(
                    path,
                    f"the same transition stands in line {line}",
                    hint="match alternatives with a list, or add a state in between",
                    at="key",
                )

    def states(self) -> None:
        names = self.flow.state_names()
        for state, spec in self.flow.states.items():
            path = self.path("states", state)
            if self.flow.whole and state not in names:
                hint = known_names(state, names)
                self.report.error(
                    path, f"the flow has no state {state!r}", hint=hint, at="key"
                )
            limit = spec.holds if spec is not None else None
            if limit is not None and limit not in self.parts.limits:
                self.report.error(
                    (*path, "holds"),
                    f"unknown WIP limit {limit!r}",
                    hint=f"{known_names(limit, self.parts.limits)} (in backpressure)",
                )

    def graph(self) -> None:
        edges = self.flow.edges
        if self.flow.whole and edges:
            self._reachable()
            self._dead_ends()
        for cycle in unbounded_cycles(edges):
            key = next(
                e.key for e in edges if (e.source, e.target) == (cycle[-2], cycle[-1])
            )
            self.report.error(
                self.path("transitions", key),
                f"the cycle {' -> '.join(cycle)} has no max_visits: it may never end",
                hint="bound one of its transitions, such as max_visits: 3",
                at="key",
            )
        for state in self.flow.state_names():
            for later, always in shadowed(self.flow.leaving(state), self._always):
                line = self.report.line(self.path("transitions", always.key))
                self.report.error(
                    self.path("transitions", later.key),
                    f"never tried: {always.key!r} in line {line} always holds",
                    hint="put it before that one, or give that one a `when`",
                    at="key",
                )

    def _reachable(self) -> None:
        initial, edges = self.flow.initial, self.flow.edges
        if initial is None:
            return
        names = self.flow.state_names()
        if initial not in names:
            self.report.error(
                self.path("initial"),
                f"no transition has the state {initial!r}",
                hint=known_names(initial, names),
            )
            return
        for state in unreachable(initial, edges):
            key = next(e.key for e in edges if state in (e.source, e.target))
            self.report.error(
                self.path("transitions", key),
                f"the state {state!r} cannot be reached from {initial!r}",
                at="key",
            )

    def _dead_ends(self) -> None:
        stuck = dead_ends(self.flow.edges)
        if stuck:
            key = next(e.key for e in self.flow.edges if e.source in stuck)
            self.report.error(
                self.path("transitions", key),
                f"no terminal state can be reached from {', '.join(stuck)}",
                hint="a state that no transition leaves is terminal",
                at="key",
            )

    def _timeout(self, state: str) -> bool:
        """Tell whether a state has, or may have, a time limit."""
        if state not in self.flow.states:
            return False
        spec = self.flow.states[state]
        return spec is None or spec.timeout is not None

    def _always(self, edge: Edge) -> bool:
        t = edge.transition
        if t is None or t.when or t.max_visits is not None or t.verify:
            return False
        if t.agent is None:
            return True
        role = self.parts.agents.get(t.agent)
        if role is None or role.type == "command":
            return False  # a program may exit non-zero
        return not self._timeout(edge.source)

    def transition(self, edge: Edge, transition: Transition) -> None:
        path = self.path("transitions", edge.key)
        if "agents" in self.parts.has:
            named = {"agent": transition.agent, "verify": transition.verify}
            for key, role in named.items():
                if role is not None and role not in self.parts.agents:
                    hint = known_names(role, self.parts.agents)
                    self.report.error((*path, key), f"unknown role {role!r}", hint=hint)
        if transition.verify is not None:
            self._verify(path, transition)
        if transition.escalate:
            self._escalate(path, transition)
        if transition.when is not None:
            self._when(edge, transition.when)

    def _verify(self, path: tuple[Key, ...], transition: Transition) -> None:
        if transition.agent is None:
            self.report.error(
                (*path, "verify"), "there is no reply to verify: `agent` is missing"
            )
        name = transition.verify or ""
        role = self.parts.agents.get(name)
        schema = self.texts.schemas.get(name)
        if role is None or role.type == "command" or schema is None:
            return
        if against_schema({"accept": True}, schema):
            self.report.error(
                (*path, "verify"),
                f"the output of {name} has no boolean field `accept`",
                hint="a verifier replies {accept: boolean, reason: string}, "
                "the default for an llm without `output`",
            )

    def _escalate(self, path: tuple[Key, ...], transition: Transition) -> None:
        where = (*path, "escalate")
        if transition.verify is None:
            self.report.error(
                where, "nothing can refuse the reply: `verify` is missing"
            )
        name = transition.agent or ""
        role: Blueprint | None = self.parts.agents.get(name)
        if role is None:
            return
        if role.type != "llm":
            self.report.error(where, f"{name} is of type {role.type}: it has no tiers")
            return
        tiers = allowed_tiers(role, self.parts)
        if len(tiers) == 1:
            self.report.error(
                where,
                f"{name} has only the tier {tiers[0]}: there is none above",
                hint="give the role a range, such as tier: {min: …, max: …}",
            )

    def _when(self, edge: Edge, when: Mapping[str, JsonValue]) -> None:
        """Report what is never meant, or what the last reply can never be."""
        found, by = shape_problems(when), ""
        if not found:
            leaving = self.flow.leaving(edge.source)
            limited = self._timeout(edge.source)
            roles = repliers(leaving, leaving.index(edge), timeout=limited) or []
            schemas = [self._reply_schema(role) for role in roles]
            if not roles or None in schemas:
                return
            each = [against_schema(when, schema) for schema in schemas if schema]
            common = set(each[0]).intersection(*each)
            found = {path: each[0][path] for path in each[0] if path in common}
            by = f" (reply of {roles[0]})"
        for inner, finding in found.items():
            path = self.path("transitions", edge.key, "when", *inner)
            message = finding.message + by
            if finding.severity == "warning":
                self.report.warning(path, message, hint=finding.hint)
            else:
                self.report.error(path, message, hint=finding.hint, at=finding.at)

    def _reply_schema(self, name: str) -> Schema | None:
        """Return what an llm role replies; None if that is not certain."""
        role = self.parts.agents.get(name)
        if role is None or role.type != "llm" or name in self.texts.unknown:
            return None
        return self.texts.schemas.get(name, _PLAIN_TEXT)
