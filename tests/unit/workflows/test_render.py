"""What people read in the Web UI: money, escaped text, the table of calls."""

from __future__ import annotations

from decimal import Decimal
from urllib.parse import quote

import pytest

from tierpool.contracts import Attempt, Route, Usage
from tierpool.workflows.render import (
    attempt_summary,
    decision_hint,
    details_table,
    escape_markdown,
    money,
    shorten,
)


def attempt(**changes: object) -> Attempt:
    """Make an attempt of a reviewer that cost something."""
    usual = {
        "state": "in_review",
        "role": "reviewer",
        "tier": "premium",
        "reason": "fixed by the role",
        "usage": Usage(input_tokens=137, output_tokens=27),
        "cost_usd": Decimal("0.00053750"),
    }
    return Attempt.model_validate(usual | changes)


def cells(table: str) -> list[list[str]]:
    """Read the rows below a table's head."""
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    return [[cell.strip() for cell in row[1:-1].split(" | ")] for row in rows]


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        ("0", "$0"),
        ("0.00001765", "$0.0000176"),
        ("0.00000012", "$0.00000012"),
        ("0.0123456", "$0.0123"),
        ("1.5", "$1.5"),
        ("120", "$120"),
    ],
)
def test_small_amounts_keep_three_digits(amount: str, shown: str) -> None:
    """Money is short enough for a table and never shown as zero while it is not."""
    assert shown == money(Decimal(amount))


def test_an_unknown_cost_is_not_zero() -> None:
    """A row and the sum say which cost is a reservation, for want of usage."""
    unknown = attempt(
        usage=None, reserved_usd=Decimal("0.25"), cost_usd=Decimal("0.25")
    )

    table = details_table("in_review", [attempt(), unknown], spent="$0.2505 of $1")

    first = table.splitlines()[0]
    assert "2 attempts · $0.2505 of $1, 1 at the reservation" in first
    assert "≤ $0.25" in cells(table)[1]


def test_a_row_has_what_a_person_asks_for() -> None:
    """State, role, tier, cost, tokens, and the reason with what went wrong."""
    (row,) = cells(details_table("done", [attempt(note="HTTP 429")]))

    assert [
        "in_review", "reviewer", "premium", "$0.000538", "137/27",
        "fixed by the role; HTTP 429",
    ] == row  # fmt: skip


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("needs_rework", "needs_rework"),
        ("__init__", r"\_\_init\_\_"),
        ("a|b", r"a\|b"),
        ("List<String>", r"List\<String\>"),
        ("![x](http://host/i.png)", r"!\[x\](http://host/i.png)"),
        ("**kw** `c` $5", r"\*\*kw\*\* \`c\` \$5"),
        ("a\\*", r"a\\\*"),
    ],
)
def test_markup_in_a_text_shows_as_it_is(text: str, escaped: str) -> None:
    """Texts from outside make no tags, images, links or further columns."""
    assert escaped == escape_markdown(text)


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        ("rules: complexity", "rules: complexity"),
        ("rate_limit_exceeded", "rate_|limit_|exceeded"),
        ("tests/test_send.py::test_once", "tests/|test_|send.|py::|test_|once"),
        ("a" * 30, "a" * 14 + "|" + "a" * 14 + "|" + "a" * 2),
    ],
)
def test_a_long_word_can_be_broken(reason: str, shown: str) -> None:
    """A test's name does not push the table out of the page."""
    (row,) = cells(details_table("x", [attempt(reason=reason)]))

    assert shown == row[-1].replace("\u200b", "|").replace("\\_", "_")


def test_a_long_table_keeps_the_newest_rows_and_fits_into_a_url() -> None:
    """The Web UI sends all of it in a URL; what is left out is named."""
    reason = "rules: complexity 0.64, mostly change and numbers; raised to the minimum"
    made = [attempt(reason=reason, role=f"role{n}") for n in range(60)]

    table = details_table("in_review", made)

    assert "without the first 40" in table
    assert [f"role{n}" for n in range(40, 60)] == [row[1] for row in cells(table)]
    assert len(quote(table)) < 8000


def test_a_summary_is_cut_to_what_temporal_takes() -> None:
    """A long reason in any script stays below Temporal's 200 bytes."""
    route = Route(tier="premium", queue="q", reason="é" * 300)

    summary = attempt_summary("reviewer", route)

    assert summary.startswith("reviewer · premium · é")
    assert len(summary.encode()) <= 200


def test_shortened_text_is_one_line() -> None:
    """Line ends would break a table."""
    assert "a b c…" == shorten("a\nb\n\ncdef", 6)


@pytest.mark.parametrize(
    ("schema", "wanted"),
    [
        (None, '{"reply": {"text": …}}'),
        ('{"properties": {"ok": {"type": "boolean"}}}', '{"reply": {"ok": <boolean>}}'),
        ('{"properties": {"v": {"enum": ["a", 2]}}}', '{"reply": {"v": "a" or 2}}'),
        ('{"properties": {"x": true}}', '{"reply": {"x": …}}'),
        ('{"type": "object"}', '{"reply": {}}'),
    ],
)
def test_a_person_is_told_the_fields_of_a_reply(
    schema: str | None, wanted: str
) -> None:
    """Any schema that a role may have gives a hint."""
    assert f"decide` with `{wanted}`" in decision_hint("boss", schema)


def test_an_item_without_attempts_has_no_table() -> None:
    """Only the state and what is waited for."""
    assert "**asking** · 0 attempts · $0\n\nwaits" == details_table(
        "asking", [], ["waits"]
    )
