"""The LLM classifier's question: a closed answer, and text as data."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from tierpool.routing.llm import SCHEMA, TEXT_CHARS, quote


@pytest.mark.parametrize(
    ("reply", "valid"),
    [
        ({"tier": "NANO"}, True),
        ({"tier": "PREMIUM"}, True),
        ({"tier": "nano"}, False),
        ({"tier": "BEST"}, False),
        ({"tier": "NANO", "why": "x"}, False),
        ({}, False),
    ],
)
def test_the_schema_admits_three_labels_and_nothing_else(
    reply: dict[str, str], valid: bool
) -> None:
    """The answer is one of NANO, STANDARD and PREMIUM under `tier`."""
    validator = Draft202012Validator(json.loads(SCHEMA))

    assert valid == validator.is_valid(reply)


@given(st.text(max_size=TEXT_CHARS))
def test_a_text_is_quoted_whole_and_cannot_end_its_quotation(text: str) -> None:
    """What stands between the marks is one JSON string without angle brackets."""
    quoted = quote("writer", text)

    head, _, rest = quoted.partition("<work>")
    inside, _, tail = rest.partition("</work>")
    assert 'Work for the role "writer":\n' == head
    assert text == json.loads(inside)
    assert "" == tail
    assert 2 == quoted.count("<")


def test_a_long_text_is_cut_and_says_so() -> None:
    """Head and tail are quoted, and the length of the whole is named."""
    text = "a" * TEXT_CHARS + "middle" + "z" * TEXT_CHARS

    quoted = quote("writer", text)

    assert f"of {len(text)} characters" in quoted
    assert "middle" not in quoted
    assert len(quoted) < TEXT_CHARS + 200
