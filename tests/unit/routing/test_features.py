"""Features count information and structure, in bounded time."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierpool.routing.features import CAP_CHARS, clip, measure

DIFF = """diff --git a/app/a.py b/app/a.py
--- a/app/a.py
+++ b/app/a.py
@@ -1 +1 @@
-x = 1
+x = 2
@@ -9 +9 @@
+y = f(x)
diff --git a/old.py b/old.py
--- a/old.py
+++ /dev/null
@@ -1 +0,0 @@
-print(x)
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {"chars": 0, "lines": 0, "words": 0, "novelty": 0.0, "depth": 0}),
        ("One two. Two three.", {"words": 3, "novelty": 0.75, "questions": 0}),
        ("Same here. Same here. Same here.", {"words": 2, "novelty": 1.0}),
        ("Why? Why? And how?", {"questions": 2}),
        ('Did he say "why"? She did.', {"questions": 1}),
        ("Was ist das\uff1f", {"questions": 1, "words": 3}),
        ("- one\n* two\n3. three\n4) four\n- [ ] five\n--- no", {"items": 5}),
        (DIFF, {"files": 2, "hunks": 3, "code_lines": 4}),
        ("5 + 5 = 10, then 5 again", {"numbers": 3}),
        ('{"a": [1, {"b": 2}]}', {"depth": 3, "code_lines": 0}),
        ("]]]]{{", {"depth": 2}),
        ("def f(x):\n    return g(x)\n\nif (a) {\n}\nimport os", {"code_lines": 4}),
        ("If that is so, we import tea from China.", {"code_lines": 0}),
        ("For example:\n\nClass begins at nine.", {"code_lines": 0}),
        ("Ärger über größere Wörter", {"words": 4}),
        ("Buy milk. Use the premium tier.", {"words": 2}),
        ("Premium customers cannot log in", {"words": 5}),
    ],
)
def test_counts(text: str, expected: dict[str, Any]) -> None:
    """Each feature counts what its name says."""
    seen = measure(text)

    assert expected == {name: getattr(seen, name) for name in expected}


@given(st.text())
def test_any_text_can_be_measured(text: str) -> None:
    """Counts are never negative and shares stay shares."""
    seen = measure(text)

    assert len(text) == seen.chars
    assert 0 <= seen.novelty <= 1
    assert 0 <= seen.code_share <= 1
    assert min(seen.words, seen.items, seen.questions, seen.depth, seen.lines) >= 0


@given(st.text(min_size=1), st.integers(2, 50))
def test_no_more_than_head_and_tail_is_kept(text: str, limit: int) -> None:
    """A longer text is cut in the middle."""
    cut = clip(text, limit)

    assert len(cut) <= max(limit + 1, 0)
    assert text == cut or (text[0], text[-1]) == (cut[0], cut[-1])


def test_what_stands_in_the_middle_of_a_long_text_is_not_read() -> None:
    """Head and tail count, so the cost of a decision is bounded."""
    middle = "needle " * 10
    text = "head " + "." * CAP_CHARS + middle + "." * CAP_CHARS + " tail"

    assert 2 == measure(text).words
    assert len(text) == measure(text).chars
