"""Limits that let nothing through, or that can block each other, are warned of."""

from __future__ import annotations

import pytest

from .conftest import Check


@pytest.mark.parametrize(
    ("edits", "path", "message"),
    [
        (
            {"make, check]": "make, check], max_instances: 0"},
            "agents.tests.max_instances",
            "the role is paused",
        ),
        (
            {"{type: human}": "{type: human, max_instances: 2}"},
            "agents.boss.max_instances",
            "no effect on a human role",
        ),
        (
            {
                "version: 1": "version: 1\nbackpressure: {prs: 0}",
                "timeout: 2d": "timeout: 2d, holds: prs",
            },
            "backpressure.prs",
            "no item enters a state that holds it",
        ),
    ],
)
def test_limit_that_lets_nothing_through(
    check: Check, good: str, edits: dict[str, str], path: str, message: str
) -> None:
    """The fleet is usable, and the warning says where."""
    text = good
    for old, new in edits.items():
        assert old in text
        text = text.replace(old, new)

    loaded, problems = check(text)

    assert loaded is not None
    found = [p for p in problems if message in p.message]
    assert [("warning", path)] == [(p.severity, p.path) for p in found]


LOOP = """\
version: 1
backpressure: {one: 2, two: 2}
tiers: {nano: {model: openai:gpt-5-nano}}
agents: {writer: {prompt: prompts/writer.md}}
flows:
  loop:
    initial: a
    transitions:
      "a -> b": {agent: writer}
      "b -> done": {agent: writer, when: {text: fine}}
      "b -> a": {max_visits: 3}
      "b -> given_up": {}
    states: {a: {holds: one}, b: {holds: two}}
"""


def test_two_limits_that_wait_for_each_other(check: Check) -> None:
    """Items of each wait for a slot of the other, and nobody leaves."""
    loaded, problems = check(LOOP)
    _, fine = check(LOOP.replace("holds: two", "holds: one").replace(", two: 2", ""))

    assert loaded is not None
    (warning,) = [p for p in problems if "for ever" in p.message]
    assert ("warning", "backpressure.one") == (warning.severity, warning.path)
    assert [] == [p for p in fine if "for ever" in p.message]
