"""How one visit of a state is decided, and what a condition matches."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierpool.flow import (
    CONDITION_KEYS,
    Flow,
    Reply,
    RunRole,
    RunVerifier,
    Stuck,
    Take,
    Visit,
    accepts,
    matches,
    refusal,
)


def flow(transitions: dict[str, dict[str, Any]]) -> Flow:
    """Build a flow that starts in `a`."""
    return Flow.model_validate({"initial": "a", "transitions": transitions})


def visit(
    transitions: dict[str, dict[str, Any]],
    last: Reply | None = None,
    taken: dict[str, int] | None = None,
) -> Visit:
    """Open a visit of the state `a`."""
    return Visit(flow(transitions), "a", Counter(taken or {}), last or {})


@pytest.mark.parametrize(
    ("when", "reply", "expected"),
    [
        ({"verdict": "approve"}, {"verdict": "approve"}, True),
        ({"verdict": "approve"}, {"verdict": "reject"}, False),
        ({"verdict": "approve"}, {}, False),
        ({"verdict": ["a", "b"]}, {"verdict": "b"}, True),
        ({"verdict": ["a", "b"]}, {"verdict": "c"}, False),
        ({"verdict": {"not": "a"}}, {"verdict": "b"}, True),
        ({"verdict": {"not": "a"}}, {"verdict": "a"}, False),
        ({"verdict": {"not": ["a", "b"]}}, {"verdict": "b"}, False),
        ({"verdict": {"not": ["a", "b"]}}, {"verdict": "c"}, True),
        ({"verdict": {"not": "a"}}, {}, False),
        ({"score": {">=": 0.8}}, {"score": 0.8}, True),
        ({"score": {">=": 0.8}}, {"score": 0.79}, False),
        ({"score": {">": 1, "<": 3}}, {"score": 2}, True),
        ({"score": {">": 1, "<": 3}}, {"score": 3}, False),
        ({"score": {"<=": 2}}, {"score": 2}, True),
        ({"score": {">=": 1}}, {"score": True}, False),
        ({"score": {">=": 1}}, {"score": "2"}, False),
        ({"score": {">=": 1}}, {"score": None}, False),
        ({"day": {">": "2026-01-01"}}, {"day": "2026-02-01"}, True),
        ({"score": {"==": 1}}, {"score": 1.0}, True),
        ({"score": {"!=": 1}}, {"score": 1}, False),
        ({"score": {"!=": 1}}, {"score": 2}, True),
        ({"score": 1}, {"score": True}, False),
        ({"ok": True}, {"ok": True}, True),
        ({"ok": True}, {"ok": 1}, False),
        ({"ok": {"!=": True}}, {"ok": 1}, True),
        ({"note": None}, {"note": None}, True),
        ({"note": None}, {}, False),
        ({"tags": {"==": ["x", 1]}}, {"tags": ["x", 1]}, True),
        ({"tags": {"==": [True]}}, {"tags": [1]}, False),
        ({"tags": {"==": {"x": 0}}}, {"tags": {"x": False}}, False),
        ({"tags": {"==": {"x": 0}}}, {"tags": {"x": 0}}, True),
        ({"tags": {"==": {"x": 0}}}, {"tags": {"x": 0, "y": 1}}, False),
        ({"tags": "x"}, {"tags": ["x"]}, False),
        ({"review.verdict": "a"}, {"review": {"verdict": "a"}}, True),
        ({"review.verdict": "a"}, {"review": "a"}, False),
        ({"a": 1, "b": 2}, {"a": 1, "b": 2}, True),
        ({"a": 1, "b": 2}, {"a": 1, "b": 3}, False),
        ({"a": [{">": 5}, 1]}, {"a": 1}, True),
    ],
)
def test_a_condition_matches_as_json_compares(
    when: Reply, reply: Reply, expected: bool
) -> None:
    """Every named field must be as wanted; types are never converted."""
    assert expected is matches(when, reply)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(JSON, JSON)
def test_not_is_the_opposite_for_a_field_that_is_there(
    wanted: Any, actual: Any
) -> None:
    """`not: x` holds exactly where `x` does not."""
    plain: Reply = {"field": {"==": wanted}}

    assert matches(plain, {"field": actual}) is not matches(
        {"field": {"not": {"==": wanted}}}, {"field": actual}
    )
    assert matches({"field": {"==": wanted}}, {"field": actual}) is not matches(
        {"field": {"!=": wanted}}, {"field": actual}
    )


@given(st.sampled_from([k for k in CONDITION_KEYS if k != "not"]), JSON, JSON)
def test_no_reply_makes_a_comparison_fail(key: str, bound: Any, actual: Any) -> None:
    """A comparison of any two values answers, it never raises."""
    assert matches({"f": {key: bound}}, {"f": actual}) in (True, False)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ({"accept": True}, True),
        ({"accept": 1}, False),
        ({"accept": "true"}, False),
        ({}, False),
    ],
)
def test_only_true_accepts(reply: Reply, expected: bool) -> None:
    """A verifier accepts with the JSON value true and nothing else."""
    assert expected is accepts(reply)


def test_a_transition_without_demands_is_taken_at_once() -> None:
    """Nothing has to hold for `{}`."""
    assert Take("a -> b", "b") == visit({"a -> b": {}}).decide()


def test_a_terminal_state_has_nothing_to_decide() -> None:
    """A visit of a state that nothing leaves is stuck without reasons."""
    terminal = Visit(flow({"a -> b": {}}), "b", Counter())

    assert Stuck(()) == terminal.decide()


def test_an_agent_runs_before_its_transition_is_taken() -> None:
    """The reply comes first, and it becomes the last reply."""
    opened = visit({"a -> b": {"agent": "x"}}, last={"old": 1})

    first = opened.decide()
    opened.replied("x", {"new": 2})

    assert RunRole("a -> b", "x") == first
    assert Take("a -> b", "b") == opened.decide()
    assert {"new": 2} == opened.last_reply


def test_transitions_are_tried_in_the_order_of_the_file() -> None:
    """The first transition that holds is taken, though a later one holds too."""
    opened = visit(
        {"a -> b": {"when": {"n": 1}}, "a -> c": {"when": {"n": 2}}, "a -> d": {}},
        last={"n": 2},
    )

    assert Take("a -> c", "c") == opened.decide()


def test_a_role_runs_once_per_visit() -> None:
    """A second transition with the same role uses the reply that there is."""
    opened = visit(
        {
            "a -> b": {"agent": "x", "when": {"n": 1}},
            "a -> c": {"agent": "x", "when": {"n": 2}},
        }
    )
    opened.decide()

    opened.replied("x", {"n": 2})

    assert Take("a -> c", "c") == opened.decide()


def test_when_is_matched_against_the_reply_of_the_transitions_own_agent() -> None:
    """Another role's later reply does not stand in for it."""
    opened = visit(
        {
            "a -> b": {"agent": "x", "when": {"n": 1}},
            "a -> c": {"agent": "y", "when": {"n": 1}},
            "a -> d": {"agent": "x", "when": {"n": 2}},
        }
    )
    opened.decide()
    opened.replied("x", {"n": 2})
    asked = opened.decide()
    opened.replied("y", {"n": 3})

    assert RunRole("a -> c", "y") == asked
    assert Take("a -> d", "d") == opened.decide()
    assert {"n": 2} == opened.last_reply


def test_a_condition_without_agent_sees_the_reply_of_the_visit_before() -> None:
    """The last reply outlives the visit in which it was given."""
    opened = visit({"a -> b": {"when": {"verdict": "ok"}}}, last={"verdict": "ok"})

    assert Take("a -> b", "b") == opened.decide()


def test_an_accepted_reply_is_verified_once() -> None:
    """The verifier judges the reply, then the transition holds."""
    opened = visit({"a -> b": {"agent": "x", "verify": "v", "escalate": True}})
    opened.decide()
    opened.replied("x", {"n": 1})
    asked = opened.decide()

    opened.verified("a -> b", {"accept": True})

    assert RunVerifier("a -> b", "x", "v", True) == asked
    assert Take("a -> b", "b") == opened.decide()
    assert {"n": 1} == opened.last_reply


def test_a_refused_reply_does_not_hold_and_the_next_transition_is_tried() -> None:
    """A refusal moves on, with its reason kept."""
    opened = visit({"a -> b": {"agent": "x", "verify": "v"}})
    opened.decide()
    opened.replied("x", {})
    opened.decide()

    opened.verified("a -> b", {"accept": False, "reason": "too short"})

    assert Stuck(("a -> b: v refused: too short",)) == opened.decide()


def test_after_an_escalation_the_verifier_is_asked_again() -> None:
    """The new reply replaces the refused one."""
    opened = visit({"a -> b": {"agent": "x", "verify": "v", "escalate": True}})
    opened.decide()
    opened.replied("x", {"n": 1})
    opened.decide()
    opened.verified("a -> b", {"accept": False})

    opened.replied("x", {"n": 2})

    assert RunVerifier("a -> b", "x", "v", True) == opened.decide()
    assert {"n": 2} == opened.last_reply


def test_an_agent_that_is_asked_again_sees_what_it_saw_first() -> None:
    """`before` is the reply that preceded the role's own, however often it runs."""
    opened = visit({"a -> b": {"agent": "x", "verify": "v"}}, last={"old": 1})
    opened.decide()
    opened.replied("x", {"n": 1})
    opened.replied("x", {"n": 2})

    assert {"old": 1} == opened.before("x")


def test_two_transitions_have_verdicts_of_their_own() -> None:
    """A refusal on one transition says nothing of another with the same agent."""
    opened = visit(
        {
            "a -> b": {"agent": "x", "verify": "v"},
            "a -> c": {"agent": "x", "verify": "w"},
        }
    )
    opened.decide()
    opened.replied("x", {})
    opened.decide()
    opened.verified("a -> b", {"accept": False})

    second = opened.decide()
    opened.verified("a -> c", {"accept": True})

    assert RunVerifier("a -> c", "x", "w", False) == second
    assert Take("a -> c", "c") == opened.decide()


def test_max_visits_bounds_how_often_a_transition_is_taken() -> None:
    """A transition at its bound does not even run its agent."""
    transitions = {"a -> b": {"agent": "x", "max_visits": 2}, "a -> c": {}}

    below = visit(transitions, taken={"a -> b": 1}).decide()
    reached = visit(transitions, taken={"a -> b": 2}).decide()

    assert RunRole("a -> b", "x") == below
    assert Take("a -> c", "c") == reached


def test_stuck_gives_a_reason_for_each_transition() -> None:
    """An item that ends in `failed` can say why, line by line."""
    opened = visit(
        {"a -> b": {"max_visits": 1}, "a -> c": {"when": {"n": 1}}},
        taken={"a -> b": 1},
    )

    decided = opened.decide()

    assert (
        Stuck(
            (
                "a -> b: taken 1 times, which is its max_visits",
                "a -> c: the last reply does not match {'n': 1}",
            )
        )
        == decided
    )


def test_when_the_time_is_over_only_what_needs_no_agent_holds() -> None:
    """The transition that waited for a role fails, the next is taken."""
    opened = visit({"a -> b": {"agent": "boss"}, "a -> late": {}})
    opened.decide()

    opened.timed_out()

    assert Take("a -> late", "late") == opened.decide()


def test_a_reply_that_came_in_time_still_counts() -> None:
    """Time that runs out later does not undo a reply."""
    opened = visit(
        {
            "a -> b": {"agent": "x", "when": {"n": 1}},
            "a -> c": {"agent": "y"},
            "a -> d": {"agent": "x", "when": {"n": 2}},
        }
    )
    opened.decide()
    opened.replied("x", {"n": 2})
    opened.decide()

    opened.timed_out()

    assert Take("a -> d", "d") == opened.decide()


def test_a_verifier_that_is_too_late_leaves_the_transition_unheld() -> None:
    """Without a verdict in time the reply is not accepted."""
    opened = visit({"a -> b": {"agent": "x", "verify": "v"}})
    opened.decide()
    opened.replied("x", {})
    opened.decide()

    opened.timed_out()

    assert (
        Stuck(("a -> b: the state's time was over before the verifier replied",))
        == opened.decide()
    )


def test_a_command_that_exits_non_zero_does_not_hold() -> None:
    """Without `when`, its exit code decides; the reason names it."""
    opened = visit({"a -> b": {"agent": "make"}, "a -> c": {}})
    opened.decide()

    opened.replied("make", {"accept": False, "exit_code": 2})

    assert Take("a -> c", "c") == opened.decide()


def test_when_may_ask_for_a_non_zero_exit() -> None:
    """With `when`, the condition alone decides."""
    opened = visit({"a -> b": {"agent": "make", "when": {"exit_code": 2}}})
    opened.decide()

    opened.replied("make", {"accept": False, "exit_code": 2})

    assert Take("a -> b", "b") == opened.decide()


def test_a_flow_lists_its_states_in_order_of_appearance() -> None:
    """The initial state stands first, spaces around the arrow do not matter."""
    listed = Flow.model_validate(
        {"initial": "z", "transitions": {"b->c": {}, "z -> b": {}, "  c  ->  d ": {}}}
    )

    assert ["z", "b", "c", "d"] == listed.state_names()
    assert ["c"] == [target for _, target, _ in listed.leaving("b")]
    assert ["d"] == [target for _, target, _ in listed.leaving("c")]


def test_a_refusal_without_a_reason_says_so() -> None:
    """People see that nothing was given, not an empty line."""
    assert "no reason given" == refusal({"accept": False})
    assert "2 tests failed" == refusal({"reason": "2 tests failed"})
