"""A flow: states, transitions and what must hold for each; pure.

`Visit` interprets one visit of a state as a sequence of decisions (run this
role, take this transition, stuck) and knows nothing of Temporal, so that the
workflow, the tests and every tool walk a flow by the same rules. Checks of a
whole graph are in `config.checks`.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeAlias

from pydantic import Field, JsonValue

from tierpool.blueprint import ConfigModel, Duration, Name, Reply

__all__ = [
    "CANCELLED",
    "FAILED",
    "Decision",
    "Flow",
    "Reply",
    "RunRole",
    "RunVerifier",
    "StateSpec",
    "Stuck",
    "Take",
    "Transition",
    "Visit",
    "accepts",
    "matches",
]

FAILED = "failed"
"""Terminal state of an item for which no transition held, or whose call failed."""
CANCELLED = "cancelled"
"""Terminal state of a cancelled item."""


class Transition(ConfigModel):
    """A way from one state to another, and what must hold for it."""

    agent: Name | None = None
    """Role that runs, once per visit of the state; its reply becomes the last reply."""
    verify: Name | None = None
    """Role that has to accept the reply."""
    escalate: bool = False
    """After a refusal try the next tier, with the refusal attached."""
    when: Annotated[dict[str, JsonValue], Field(min_length=1)] | None = None
    """Fields of the last reply that must match: a value, a list of values, `{">=": 0.8}`, `{not: …}`."""
    max_visits: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """How often an item may take this transition."""


class StateSpec(ConfigModel):
    """What is true of a state besides its transitions."""

    description: Annotated[str, Field(max_length=500)] = ""
    """Shown in the Web UI and by `check`."""
    timeout: Duration | None = None
    """How long a visit may last; then only transitions without an agent are tried."""
    holds: Name | None = None
    """WIP limit (a key of `backpressure`) that an item in this state counts against."""


class Flow(ConfigModel):
    """States and transitions that a work item moves through."""

    initial: Name
    """State in which every item starts."""
    transitions: Annotated[dict[str, Transition], Field(min_length=1)]
    """`"from -> to"`: what must hold; tried in the order of the file."""
    states: dict[Name, StateSpec] = {}
    """Timeouts and WIP limits of states."""
    description: Annotated[str, Field(max_length=500)] = ""
    """What the flow is for."""

    def edges(self) -> Iterator[tuple[str, str, str, Transition]]:
        """Yield (key, from, to, transition) in the order of the file."""
        for key, transition in self.transitions.items():
            source, _, target = key.partition("->")
            yield key, source.strip(), target.strip(), transition

    def leaving(self, state: str) -> list[tuple[str, str, Transition]]:
        """Return (key, to, transition) of what leaves a state; empty if terminal."""
        return [(k, to, t) for k, source, to, t in self.edges() if source == state]

    def state_names(self) -> list[str]:
        """Return every state, in order of appearance."""
        seen = dict.fromkeys([self.initial])
        for _, source, target, _ in self.edges():
            seen[source] = seen[target] = None
        return list(seen)


_COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}
CONDITION_KEYS = (*_COMPARE, "not")
"""Keys of a condition written as a mapping."""


def _equal(expected: Any, actual: Any) -> bool:
    """Compare as JSON does, at any depth: true is not 1, but 1 is 1.0."""
    if isinstance(expected, bool) or isinstance(actual, bool):
        return expected is actual
    if isinstance(expected, list) and isinstance(actual, list):
        return len(expected) == len(actual) and all(map(_equal, expected, actual))
    if isinstance(expected, dict) and isinstance(actual, dict):
        return expected.keys() == actual.keys() and all(
            _equal(value, actual[key]) for key, value in expected.items()
        )
    return bool(expected == actual)


def _field_matches(expected: JsonValue, actual: JsonValue) -> bool:
    if isinstance(expected, list):
        return any(_field_matches(one, actual) for one in expected)
    if not isinstance(expected, dict):
        return _equal(expected, actual)
    for key, bound in expected.items():
        if key == "not":
            if _field_matches(bound, actual):
                return False
        elif key in ("==", "!="):
            if _equal(bound, actual) is (key == "!="):
                return False
        else:
            numbers = all(
                isinstance(n, int | float) and not isinstance(n, bool)
                for n in (bound, actual)
            )
            same = isinstance(bound, str) and isinstance(actual, str)
            if not (numbers or same) or not _COMPARE[key](actual, bound):
                return False
    return True


def matches(when: Mapping[str, JsonValue], reply: Reply) -> bool:
    """Tell whether every named field of the reply is as the condition wants it.

    A field that the reply lacks matches nothing, not even `not:`.
    Names with dots look into nested objects.
    """
    for name, expected in when.items():
        value: JsonValue = reply
        for part in name.split("."):
            if not isinstance(value, dict) or part not in value:
                return False
            value = value[part]
        if not _field_matches(expected, value):
            return False
    return True


def accepts(reply: Reply) -> bool:
    """Tell whether a verifier's reply accepts: only `{"accept": true}` does."""
    return reply.get("accept") is True


@dataclass(frozen=True, slots=True)
class RunRole:
    """Run this role on the item and the last reply."""

    transition: str
    role: str


@dataclass(frozen=True, slots=True)
class RunVerifier:
    """Let this role judge the reply of `role`."""

    transition: str
    role: str
    verifier: str
    escalate: bool


@dataclass(frozen=True, slots=True)
class Take:
    """Enter another state by this transition."""

    transition: str
    target: str


@dataclass(frozen=True, slots=True)
class Stuck:
    """No transition holds; `reasons` has one line for each that was tried."""

    reasons: tuple[str, ...]


Decision: TypeAlias = RunRole | RunVerifier | Take | Stuck


@dataclass
class Visit:
    """One visit of a state: answers `decide()` until a transition is taken.

    The caller runs what is decided and reports back with `replied`,
    `verified` or `timed_out`. Transitions are tried in the order of the file;
    a role runs once per visit, however many transitions name it. While a
    transition with an agent is tried, that agent's reply is the last reply.
    """

    flow: Flow
    state: str
    taken: Counter[str]
    """How often the item took each transition; the caller counts."""
    last_reply: Reply = field(default_factory=dict)
    expired: bool = False
    """The state's time is over: transitions that need an agent do not hold."""

    def __post_init__(self) -> None:
        self._replies: dict[str, Reply] = {}
        self._before: dict[str, Reply] = {}
        self._verdicts: dict[str, Reply] = {}
        self._reasons: dict[str, str] = {}

    def decide(self) -> Decision:
        """Say what to do next."""
        for key, target, transition in self.flow.leaving(self.state):
            if key in self._reasons:
                continue
            decision = self._try(key, target, transition)
            if decision is not None:
                return decision
        return Stuck(tuple(f"{k}: {why}" for k, why in self._reasons.items()))

    def replied(self, role: str, reply: Reply) -> None:
        """Record a role's reply; it becomes the last reply.

        After an escalation it replaces the refused one, and the verifier is
        asked again.
        """
        self._before.setdefault(role, self.last_reply)
        self._replies[role] = self.last_reply = reply
        for key, _, transition in self.flow.leaving(self.state):
            if transition.agent == role:
                self._verdicts.pop(key, None)

    def before(self, role: str) -> Reply:
        """Return the last reply that a role saw, for asking it again."""
        return self._before[role]

    def verified(self, transition: str, verdict: Reply) -> None:
        """Record the verifier's reply on one transition."""
        self._verdicts[transition] = verdict

    def timed_out(self) -> None:
        """Let no transition that still needs an agent hold."""
        self.expired = True

    def _try(self, key: str, target: str, transition: Transition) -> Decision | None:
        limit = transition.max_visits
        if limit is not None and self.taken[key] >= limit:
            self._reasons[key] = f"taken {limit} times, which is its max_visits"
            return None
        role = transition.agent
        if role is not None:
            pending = self._agent(key, role, transition)
            if pending is not None or key in self._reasons:
                return pending
        if transition.when is not None and not matches(
            transition.when, self.last_reply
        ):
            self._reasons[key] = f"the last reply does not match {transition.when}"
            return None
        return Take(key, target)

    def _agent(self, key: str, role: str, transition: Transition) -> Decision | None:
        """Run or verify the role if that is still due; may note why it fails."""
        reply = self._replies.get(role)
        if reply is None:
            if self.expired:
                self._reasons[key] = f"the state's time was over before {role} replied"
                return None
            return RunRole(key, role)
        # Another role may have replied since; what follows is about this one.
        self.last_reply = reply
        if transition.verify is not None:
            verdict = self._verdicts.get(key)
            if verdict is None:
                if self.expired:
                    self._reasons[key] = (
                        "the state's time was over before the verifier replied"
                    )
                    return None
                return RunVerifier(key, role, transition.verify, transition.escalate)
            if not accepts(verdict):
                self._reasons[key] = f"{transition.verify} refused: {refusal(verdict)}"
                return None
        if (
            transition.when is None
            and reply.get("accept") is False
            and "exit_code" in reply
        ):
            self._reasons[key] = f"{role} exited with {reply['exit_code']}"
        return None


def refusal(verdict: Reply) -> str:
    """Return a verifier's reason, or say that it gave none."""
    reason = verdict.get("reason")
    return str(reason) if reason else "no reason given"
