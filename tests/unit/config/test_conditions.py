"""`when` against the schema of the reply that it is matched with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierpool.config.conditions import against_schema, repliers
from tierpool.config.graph import Edge
from tierpool.config.output import resolve_output
from tierpool.flow import Transition, matches

Check = Callable[..., Any]


def schema_of(short: dict[str, Any]) -> dict[str, Any]:
    """Resolve a short form."""
    from pathlib import Path

    problems: list[str] = []
    schema = resolve_output(short, Path(), lambda _p, m, _h: problems.append(m))
    assert schema is not None, problems
    return schema


REVIEW = schema_of(
    {
        "verdict": ["approve", "reject"],
        "score": "number",
        "ok": "boolean",
        "tags": "string[]",
        "where": {"file": "string", "line?": "integer"},
    }
)


@pytest.mark.parametrize(
    "when",
    [
        {"verdict": "approve"},
        {"verdict": ["approve", "reject"]},
        {"verdict": {"not": "approve"}},
        {"verdict": {"!=": "approve"}},
        {"verdict": {">": "b"}},
        {"score": {">=": 0.8, "<": 1}},
        {"score": 1},
        {"ok": True},
        {"ok": {"==": False}},
        {"tags": {"==": ["x"]}},
        {"where.file": "x"},
        {"where.line": {">": 3}},
        {"where": {"==": {"file": "x"}}},
    ],
)
def test_what_a_reply_may_be_is_not_reported(when: dict[str, Any]) -> None:
    """A condition that some reply matches is fine."""
    assert {} == against_schema(when, REVIEW)


@pytest.mark.parametrize(
    ("when", "path", "message", "hint"),
    [
        ({"verdict": "aprove"}, ("verdict",), "one of approve, reject", "'approve'"),
        ({"verdict": ["reject", "ok"]}, ("verdict", 1), "one of approve", None),
        ({"verdict": {"not": "rejct"}}, ("verdict", "not"), "one of", "'reject'"),
        ({"verdict": {"!=": "rejct"}}, ("verdict", "!="), "one of", "'reject'"),
        ({"verdict": {">": "zzz"}}, ("verdict", ">"), "one of approve", None),
        ({"verdict": True}, ("verdict",), "one of approve", None),
        ({"score": "0.8"}, ("score",), "its type is number", None),
        ({"score": {">=": "0.8"}}, ("score", ">="), "its type is number", None),
        ({"ok": "true"}, ("ok",), "its type is boolean", None),
        ({"ok": 1}, ("ok",), "its type is boolean", None),
        ({"ok": {">": True}}, ("ok", ">"), "its type is boolean", None),
        ({"tags": "x"}, ("tags",), "its type is array", None),
        ({"score": None}, ("score",), "its type is number", None),
        ({"verdct": "approve"}, ("verdct",), "no declared field", "'verdict'"),
        ({"where.fil": "x"}, ("where.fil",), "no declared field 'fil'", "'file'"),
    ],
)
def test_what_no_reply_can_be_is_reported(
    when: dict[str, Any], path: tuple[str | int, ...], message: str, hint: str | None
) -> None:
    """The place, what is possible instead, and the nearest value."""
    found = against_schema(when, REVIEW)

    assert [path] == list(found)
    assert message in found[path].message
    assert (hint or "") in (found[path].hint or "")
    assert "error" == found[path].severity


@pytest.mark.parametrize(
    "field",
    [
        {"anyOf": [{"type": "string"}, {"type": "null"}]},
        {"allOf": [{"enum": ["a"]}]},
        {"if": {"type": "string"}},
        {"not": {"const": 1}},
        {"$ref": "#/$defs/x", "enum": ["a"]},
        {"$ref": "#/$defs/loop"},
        {},
        True,
    ],
)
def test_nothing_is_said_of_schemas_that_are_put_together(field: Any) -> None:
    """In doubt there is no error."""
    loop = {"$ref": "#/$defs/loop"}
    schema = {"properties": {"f": field}, "$defs": {"x": {}, "loop": loop}}

    assert {} == against_schema({"f": "z", "f.g": 1}, schema)


def test_references_within_a_schema_are_followed() -> None:
    """As in the schema of a pydantic model with an enum class."""
    schema = {
        "properties": {"f": {"$ref": "#/$defs/Kind", "description": "kind"}},
        "$defs": {"Kind": {"enum": ["a", "b"], "type": "string"}},
    }

    assert [("f",)] == list(against_schema({"f": "c"}, schema))


def test_an_undeclared_field_of_an_open_schema_is_a_warning() -> None:
    """The reply may carry it, so it is no error."""
    schema = {"type": "object", "properties": {"verdict": {"type": "string"}}}

    found = against_schema({"verdct": "x"}, schema)

    assert "warning" == found[("verdct",)].severity


def edge(agent: str | None, target: str = "z", **content: Any) -> Edge:
    """Make a transition of the state `a`."""
    return Edge(f"a -> {target}", "a", target, Transition(agent=agent, **content))


@pytest.mark.parametrize(
    ("leaving", "timeout", "expected"),
    [
        ([edge("x")], False, ["x"]),
        ([edge("x")], True, ["x"]),
        ([edge("x"), edge(None)], False, ["x"]),
        ([edge("x"), edge(None)], True, None),
        ([edge("x"), edge("y"), edge(None)], False, ["y"]),
        ([edge("x"), edge("y", max_visits=1), edge(None)], False, ["y", "x"]),
        ([edge("x", max_visits=1), edge(None)], False, None),
        ([edge(None), edge(None)], False, None),
        ([Edge("a -> b", "a", "b", None), edge(None)], False, None),
        ([edge("x"), edge(None), edge(None)], False, ["x"]),
    ],
)
def test_whose_reply_is_the_last_is_known_only_if_it_is_certain(
    leaving: list[Edge], timeout: bool, expected: list[str] | None
) -> None:
    """An agent that may not have run leaves it open."""
    assert expected == repliers(leaving, len(leaving) - 1, timeout=timeout)


FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "verdict": st.sampled_from(["approve", "reject"]),
    "score": st.integers(-3, 3) | st.floats(-3, 3),
    "ok": st.booleans(),
    "tags": st.lists(st.sampled_from(["x", "y"]), max_size=2),
}
SCALARS = st.sampled_from(
    ["approve", "aprove", "reject", "x", True, False, None, 0, 1, 2.5]
)
LEAVES = (
    SCALARS
    | st.dictionaries(st.sampled_from(["==", ">", "<="]), SCALARS, min_size=1)
    | st.dictionaries(
        st.just("=="), st.lists(st.sampled_from(["x", "y"]), max_size=2), min_size=1
    )
)


@given(
    st.sampled_from(sorted(FIELDS)),
    LEAVES,
    st.fixed_dictionaries(FIELDS),
)
def test_what_is_reported_never_matches(
    name: str, wanted: Any, reply: dict[str, Any]
) -> None:
    """No valid reply matches a condition that is an error: no false errors."""
    when = {name: wanted}

    found = against_schema(when, REVIEW)

    assert not (found and matches(when, reply))


PLAIN = "{prompt: prompts/writer.md}"


@pytest.mark.parametrize(
    ("transition", "message"),
    [
        ('"incoming -> written": {agent: writer, when: {text: ok}}', None),
        (
            '"incoming -> written": {agent: writer, when: {verdict: ok}}',
            "no declared field 'verdict' (reply of writer)",
        ),
        ('"incoming -> written": {agent: boss, when: {verdict: ok}}', None),
        ('"incoming -> written": {agent: tests, when: {exit_code: 2}}', None),
    ],
)
def test_a_role_without_output_replies_in_text(
    check: Check, good: str, transition: str, message: str | None
) -> None:
    """An llm has the field `text` only; of other types nothing is known."""
    old = '"incoming -> written": {agent: writer, verify: tests, escalate: true}'

    _, problems = check(good.replace(old, transition))

    wrong = [p.message for p in problems if p.severity == "error"]
    assert (["the reply has " + message] if message else []) == wrong


def test_a_state_with_a_timeout_may_see_an_older_reply(check: Check, good: str) -> None:
    """The agent may not have replied in time, so nothing is certain."""
    text = good.replace('"signed -> stale": {}', '"signed -> stale": {when: {x: 1}}')
    text = text.replace("{agent: boss}", "{agent: writer, when: {text: ok}}")

    loaded, _ = check(text)
    _, without = check(text.replace("{timeout: 2d}", "{}"))

    assert loaded is not None
    assert ["the reply has no declared field 'x' (reply of writer)"] == [
        p.message for p in without if p.severity == "error"
    ]
