"""What rules may see of a text: a few counts of information and structure.

Pure and bounded: a text is cut to its head and tail before it is measured, so
a decision costs about the same for any input. No feature looks for words that
sound hard: they predict nothing, and whoever writes the text can add them.
Repeated sentences count once, and sentences about routing do not count.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["CAP_CHARS", "Features", "clip", "measure"]

CAP_CHARS = 6_000
"""Most that is measured of a text, half of it from the head, half from the tail."""

_ROUTING = re.compile(
    r"\b(?:nano|premium|tiers?|(?:cheap|strong|small|big|larg|smart)(?:er|est) model"
    r"|best model|most (?:capable|powerful|expensive) model)\b"
)
_ROUTING_HINTS = ("nano", "premium", "tier", " model")
"""All that `_ROUTING` matches has one of these; looking for them is cheap."""
_ROUTING_SENTENCE_WORDS = 25
"""A sentence about routing that is longer than this has other content too."""

_SENTENCE_END = re.compile(r"(?<=[.!?])(?<!\d\.)\s+")
_WORD = re.compile(r"[^\W\d_]{2,}")
_ASCII_GAPS = {code: " " for code in range(128) if not chr(code).isalpha()}
"""Makes spaces of all that is no letter: several times faster than `_WORD`."""
# One set of first characters, because alternatives are tried at each position.
_NUMBER = re.compile(r"[\d\\=<>^√∑∫≤≥±\u00d7÷](?:(?<=\d)[\d.,]*|(?<=\\)[A-Za-z]+)?")
_FILE = re.compile(r"(?:diff --git a/|\+\+\+ (?:b/)?)(?!/dev/null)(\S+)")
_HUNK = re.compile(r"@@ -\d")
_LIST_ITEM = re.compile(r"\s*(?:[-*+•]|\d{1,3}[.)])\s+(?:\[[ xX]\]\s+)?[^\W_]")
_QUESTION_END = re.compile(r"\w[\"')\]]*\s*[?\uff1f][\"')\]]*$")
_ENDS = frozenset("?\uff1f\"')]")
"""Last characters of sentences that may be questions."""
_BRACKET = re.compile(r"[\[\]{}]")
_DATA_STARTS = ('"', '{"', "{}", "[", "]")
"""How lines of JSON begin: an item written as JSON is not a program."""
_CODE_ENDS = ("{", "}", ";", "):", ") {")
_CODE_START = re.compile(
    r"(?:def|class|func|fn|let|const|var|public|private|static|struct|impl|if|elif"
    r"|else|for|while|try|except|with|return)\b.*[:(){}=,]$"
    r"|(?:import|from|using|#include|package) [\w.<\"{*/]+(?: (?:import|as|from) .*)?$"
    r"|(?:SELECT|INSERT|UPDATE|DELETE|CREATE|ALTER) .*\b(?:FROM|INTO|SET|TABLE)\b"
    r"|[\w.\[\]\"']+\s*[-+*/|:]?=\s*\S"
    r"|(?:await )?[\w.]+\(.*\)$"
)
_CODE_MAX_CHARS = 200
"""A longer line is prose more often, and not worth matching."""


@dataclass(frozen=True, slots=True)
class Features:
    """Counts of one text, taken from its head and tail."""

    chars: int = 0
    """Characters of the whole text, not cut."""
    lines: int = 0
    """Distinct lines with something on them."""
    words: int = 0
    """Distinct words."""
    novelty: float = 0.0
    """Distinct words as a share of all words, 0 to 1; 0 without words."""
    numbers: int = 0
    """Distinct numerals and signs of mathematics."""
    files: int = 0
    """Distinct files that a diff touches."""
    hunks: int = 0
    """Hunks of a diff."""
    code_lines: int = 0
    """Distinct lines that look like source code."""
    code_share: float = 0.0
    """Those as a share of `lines`, 0 to 1."""
    items: int = 0
    """Distinct items of lists."""
    questions: int = 0
    """Distinct sentences that end in a question mark."""
    depth: int = 0
    """Nesting of square and curly brackets: an object in an object is 2."""


def measure(text: str) -> Features:
    """Count what rules may see; any text is accepted."""
    lines = list(dict.fromkeys(_lines(clip(text))))
    code = {line for line in lines if _is_code(line)}
    sentences = _sentences(lines, code)
    kept = "\n".join(sentences)
    words = _words(kept.casefold())
    distinct = len(set(words))
    return Features(
        chars=len(text),
        lines=len(lines),
        words=distinct,
        novelty=distinct / len(words) if words else 0.0,
        numbers=len({n.rstrip(".,") for n in _NUMBER.findall(kept)}),
        files=len({m[1] for line in lines if (m := _FILE.match(line))}),
        hunks=sum(1 for line in lines if _HUNK.match(line)),
        code_lines=len(code),
        code_share=len(code) / len(lines) if lines else 0.0,
        items=sum(1 for s in sentences if s not in code and _LIST_ITEM.match(s)),
        questions=sum(1 for s in sentences if s[-1:] in _ENDS and _is_question(s)),
        depth=_depth(kept),
    )


def clip(text: str, limit: int = CAP_CHARS) -> str:
    """Return the text, or half of the limit from its head and half from its tail."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n{text[-half:]}"


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines() if line.strip()]


def _words(text: str) -> list[str]:
    if text.isascii():
        return [word for word in text.translate(_ASCII_GAPS).split() if len(word) > 1]
    return _WORD.findall(text)


def _is_code(line: str) -> bool:
    if len(line) > _CODE_MAX_CHARS:
        return False
    bare = line.lstrip("+- \t") if line[0] in "+- \t" else line
    if len(bare) <= 2 or bare.startswith(_DATA_STARTS):
        return False
    return bare.endswith(_CODE_ENDS) or _CODE_START.match(bare) is not None


def _is_question(sentence: str) -> bool:
    return _QUESTION_END.search(sentence[-8:]) is not None


def _sentences(lines: list[str], code: set[str]) -> list[str]:
    """Split prose at full stops; leave code lines whole and routing talk out.

    A text that is nothing but routing talk is kept: an unpunctuated request
    with such a plea at its end must not vanish with it.
    """
    found: dict[str, None] = {}
    talk: dict[str, None] = {}
    for line in lines:
        if line in code:
            found[line] = None
            continue
        folded = line.casefold()
        hinted = any(hint in folded for hint in _ROUTING_HINTS)
        for part in _SENTENCE_END.split(line):
            (talk if hinted and _about_routing(part) else found)[part] = None
    return list(found or talk)


def _about_routing(sentence: str) -> bool:
    if _ROUTING.search(sentence.casefold()) is None:
        return False
    return len(sentence.split()) <= _ROUTING_SENTENCE_WORDS


def _depth(text: str) -> int:
    deepest = depth = 0
    for bracket in _BRACKET.findall(text):
        depth = depth + 1 if bracket in "[{" else max(0, depth - 1)
        deepest = max(deepest, depth)
    return deepest
