"""The graph of a flow: what is found in it, and what acceptance promises."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from tierpool.config.graph import (
    Edge,
    dead_ends,
    shadowed,
    unbounded_cycles,
    unreachable,
)
from tierpool.flow import (
    FAILED,
    Flow,
    Reply,
    RunRole,
    RunVerifier,
    Stuck,
    Transition,
    Visit,
)

Check = Callable[..., Any]


def edges(*pairs: str, **content: Any) -> list[Edge]:
    """Make transitions from `a>b`; `a>b*` is bounded, `a>b?` could not be read."""
    made = []
    for pair in pairs:
        source, target = pair.rstrip("*?").split(">")
        bound = {"max_visits": 2} if pair.endswith("*") else {}
        transition = Transition(**bound, **content)
        read = None if pair.endswith("?") else transition
        made.append(Edge(f"{source} -> {target}", source, target, read))
    return made


def test_states_without_a_way_from_the_initial_one_are_found() -> None:
    """Also those that only lead to each other."""
    graph = edges("a>b", "c>d", "d>c*", "d>b")

    assert ["c", "d"] == unreachable("a", graph)


def test_dead_ends_are_states_without_a_way_to_a_terminal_one() -> None:
    """A bounded loop with no way out is one."""
    graph = edges("a>b", "a>c", "c>d", "d>c*")

    assert ["c", "d"] == dead_ends(graph)


def test_a_flow_without_any_terminal_state_is_all_dead_ends() -> None:
    """Every state of a ring is one."""
    assert ["a", "b"] == dead_ends(edges("a>b", "b>a*"))


def test_a_cycle_is_named_from_its_first_state_in_the_file() -> None:
    """The name reads along the transitions and closes."""
    assert [["a", "b", "c", "a"]] == unbounded_cycles(
        edges("a>b", "b>c", "c>a", "c>done")
    )


def test_a_state_that_leads_to_itself_is_a_cycle() -> None:
    """The shortest one."""
    assert [["a", "a"]] == unbounded_cycles(edges("a>a", "a>b"))


def test_every_cycle_needs_a_bound_of_its_own() -> None:
    """Two loops are two findings; bounding one of them leaves the other."""
    both = unbounded_cycles(edges("a>b", "b>a", "b>c", "c>b", "c>d"))
    one = unbounded_cycles(edges("a>b", "b>a*", "b>c", "c>b", "c>d"))

    assert [["a", "b", "a"], ["b", "c", "b"]] == sorted(both)
    assert [["b", "c", "b"]] == one


def test_a_transition_that_could_not_be_read_makes_no_cycle() -> None:
    """It may have had a bound: that it is wrong is reported already."""
    assert [] == unbounded_cycles(edges("a>b", "b>a?"))


def test_what_stands_after_a_transition_that_always_holds_is_shadowed() -> None:
    """Each later one is named with the one that hides it."""
    leaving = edges("a>b*", "a>c", "a>d", "a>e")

    found = shadowed(leaving, lambda e: e.target == "c")

    assert [("d", "c"), ("e", "c")] == [(x.target, y.target) for x, y in found]


STATES = ["a", "b", "c", "d", "end", "failed"]
WHEN = {
    "writer": {"text": "x"},
    "reviewer": {"verdict": ["approve"]},
    "tests": {"accept": True},
    "boss": {"accept": True},
}
"""A condition that each role's reply may match."""


@st.composite
def conditions(draw: st.DrawFn) -> dict[str, Any]:
    """Draw what a transition asks for: mostly something that makes sense."""
    role = draw(st.sampled_from([*WHEN, None]))
    body: dict[str, Any] = {"agent": role} if role else {}
    if role and draw(st.booleans()):
        body["verify"] = "tests"
    if draw(st.integers(0, 3)):
        body["when"] = WHEN[role or draw(st.sampled_from(["tests", "boss"]))]
    if draw(st.integers(0, 3)) == 0:
        body["max_visits"] = draw(st.integers(1, 3))
    return body


@st.composite
def transitions(draw: st.DrawFn) -> dict[str, dict[str, Any]]:
    """Draw a graph with loops and ways on; what leads back is mostly bounded."""
    made: dict[str, dict[str, Any]] = {}
    last = draw(st.integers(1, 4))
    inner = STATES[:last]
    for at, source in enumerate(inner):
        for target in draw(st.lists(st.sampled_from(inner + STATES[4:]), max_size=3)):
            body = draw(conditions())
            if target in inner[: at + 1] and draw(st.booleans()):
                body["max_visits"] = draw(st.integers(1, 3))
            made[f"{source} -> {target}"] = body
        onward = [*inner, "end"][at + 1]
        made.pop(f"{source} -> {onward}", None)
        made[f"{source} -> {onward}"] = draw(conditions())
    return made


MATCHING: dict[str, Reply] = {
    "writer": {"text": "x"},
    "reviewer": {"verdict": "approve", "notes": ""},
    "tests": {"accept": True, "exit_code": 0},
    "boss": {"accept": True},
}
OTHER: list[Reply] = [
    {"verdict": "reject", "notes": ""},
    {"accept": False, "exit_code": 1},
    {"text": "y"},
]


def reply_of(role: str, data: st.DataObject) -> Reply:
    """Draw a reply: mostly the one that lets the walk go on."""
    return data.draw(st.sampled_from([MATCHING[role]] * 6 + OTHER))


def walk(flow: Flow, draw_reply: Callable[[str], Reply], draw_late: Callable[[], bool]):  # type: ignore[no-untyped-def]
    """Walk a flow to its end as the workflow does; return (state, states entered)."""
    state, last, taken, entered = flow.initial, {}, Counter[str](), 0
    while flow.leaving(state):
        visit = Visit(flow, state, taken, last)
        decision = visit.decide()
        while isinstance(decision, RunRole | RunVerifier):
            spec = flow.states.get(state)
            if spec is not None and spec.timeout is not None and draw_late():
                visit.timed_out()
            elif isinstance(decision, RunRole):
                visit.replied(decision.role, draw_reply(decision.role))
            else:
                visit.verified(decision.transition, draw_reply(decision.verifier))
            decision = visit.decide()
        last = visit.last_reply
        entered += 1
        assert entered < 500, "the walk does not end"
        if isinstance(decision, Stuck):
            return FAILED, entered
        taken[decision.transition] += 1
        state = decision.target
    return state, entered


@settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.filter_too_much,
    ],
)
@given(transitions(), st.data())
def test_every_accepted_flow_ends_whatever_is_replied(
    check: Check,
    good: str,
    graph: dict[str, dict[str, Any]],
    data: st.DataObject,
) -> None:
    """A walk ends in a terminal state, within the bound that the graph sets."""
    body: dict[str, Any] = {"initial": "a", "transitions": graph}
    if data.draw(st.booleans()):
        state = data.draw(st.sampled_from(list(graph))).split(" -> ")[0]
        body["states"] = {state: {"timeout": "1h"}}
    text = good[: good.index("flows:")] + f"flows: {json.dumps({'f': body})}\n"

    loaded, _ = check(text)

    event("accepted" if loaded else "refused")
    if loaded is None:
        return
    flow = loaded.snapshot.flows["f"]
    end, entered = walk(
        flow, lambda role: reply_of(role, data), lambda: data.draw(st.booleans())
    )
    bounded = sum(t.max_visits or 0 for t in flow.transitions.values())
    assert [] == flow.leaving(end)
    assert entered <= (bounded + 1) * len(flow.state_names())


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from("abcd"),
            st.sampled_from("abcdz"),
            st.sampled_from(["", "*"]),
        ),
        min_size=1,
        max_size=12,
        unique_by=lambda t: t[:2],
    )
)
def test_bounding_what_is_named_leaves_no_cycle(
    drawn: list[tuple[str, str, str]],
) -> None:
    """The cycles that are reported are real, and they are enough."""
    graph = edges(*(f"{a}>{b}{bound}" for a, b, bound in drawn))
    free = {(a, b) for a, b, bound in drawn if not bound}

    cycles = unbounded_cycles(graph)

    for cycle in cycles:
        assert cycle[0] == cycle[-1]
        assert free.issuperset(pairwise(cycle))
    closing = {(c[-2], c[-1]) for c in cycles}
    fixed = [
        f"{a}>{b}" + ("*" if bound or (a, b) in closing else "")
        for a, b, bound in drawn
    ]
    assert [] == unbounded_cycles(edges(*fixed))
