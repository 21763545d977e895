"""What people and models read: messages, summaries, the table of calls; pure."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from decimal import Decimal
from functools import lru_cache

from pydantic import BaseModel, JsonValue
from pydantic_core import to_jsonable_python

from tierpool.blueprint import Reply
from tierpool.contracts import Attempt, Route, WorkItem

__all__ = [
    "AgentInput",
    "attempt_summary",
    "decision_hint",
    "details_table",
    "escape_markdown",
    "invalid_reply",
    "money",
    "render_for_model",
    "render_for_tool",
    "shorten",
    "waits_for_raise",
]

AgentInput = str | BaseModel | dict[str, JsonValue] | list[JsonValue] | None
"""What a caller may hand to a role."""

_SUMMARY_BYTES = 200

_TABLE_ROWS = 20
"""The Web UI puts all of it into a URL, of which some proxies allow only 8 KiB."""
_CELL = 80
_LONG_WORD = re.compile(r"\S{14,}")
_SEAM = re.compile(r"(?<=[/_:.-])(?=[^\W_])")
_LONG_PIECE = re.compile(r"\w{14}(?=\w)")
_BREAK = "\u200b"
"""Zero-width space: one long word would push its column out of the page."""
_GAP = "\u2002"
"""En space: the Web UI draws tables without padding and shows HTML entities raw."""
_MARKUP = re.compile(r"[\\`*\[\]<>|$~]|(?<![^\W_])_|_(?![^\W_])")


def shorten(text: str, limit: int) -> str:
    """Cut a text for display, in one line."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _json(value: object) -> str:
    return json.dumps(to_jsonable_python(value), ensure_ascii=False, indent=1)


def render_for_model(item: WorkItem | None, value: AgentInput, last: Reply) -> str:
    """Write the user's message of a call: the item, the input, the last reply.

    What stays the same over an item's calls comes first, which lets a
    provider's prompt cache work.
    """
    parts: list[str] = []
    if item is not None:
        parts += [f"# {item.title}"] if item.title else []
        parts += [item.text] if item.text else []
        parts += [f"## Data\n{_json(item.data)}"] if item.data else []
    if value is not None:
        parts.append(value if isinstance(value, str) else _json(value))
    if last:
        only_text = list(last) == ["text"]
        parts.append(f"## Last reply\n{last['text'] if only_text else _json(last)}")
    return "\n\n".join(parts)


def render_for_tool(item: WorkItem | None, value: AgentInput, last: Reply) -> str:
    """Write the request of a command or python role, as JSON."""
    body = {"item": item, "last_reply": last, "input": value}
    return json.dumps(to_jsonable_python(body), ensure_ascii=False)


def attempt_summary(
    role: str,
    route: Route,
    note: str = "",
    attempt: int = 1,
    reserved: Decimal | None = None,
) -> str:
    """Write an activity's summary: `reviewer · premium · ≤ $0.02 · fixed by the role`."""
    again = f"attempt {attempt}" if attempt > 1 else ""
    most = f"≤ {money(reserved)}" if reserved else ""
    parts = [role, route.tier, again, most, note or route.reason]
    text = " · ".join(part for part in parts if part)
    while len(text.encode()) > _SUMMARY_BYTES:
        text = text[:-9] + "…"
    return text


def money(amount: Decimal | None) -> str:
    """Show USD for people: four decimals, or three digits of what is smaller."""
    if amount is None:
        return "no limit"
    if not amount:
        return "$0"
    digits = max(4, 2 - amount.adjusted())
    return f"${amount:.{digits}f}".rstrip("0").rstrip(".")


def escape_markdown(text: str) -> str:
    """Make text show as it is where Temporal renders Markdown and HTML."""
    return _MARKUP.sub(r"\\\g<0>", text)


def decision_hint(role: str, schema: str | None) -> str:
    """Say, as Markdown, how a person replies for a human role."""
    fields = json.loads(schema).get("properties", {}) if schema else {"text": {}}
    reply = ", ".join(f'"{name}": {_wanted(spec)}' for name, spec in fields.items())
    data = shorten(f'{{"reply": {{{reply}}}}}'.replace("`", "'"), 400)
    return (
        f"waits for **{escape_markdown(role)}**: send the update `decide` with `{data}`"
    )


def _wanted(spec: JsonValue) -> str:
    if not isinstance(spec, dict):  # `true` is a schema, too
        return "…"
    choices = spec.get("enum")
    if isinstance(choices, list):
        return " or ".join(json.dumps(choice, ensure_ascii=False) for choice in choices)
    kind = spec.get("type")
    return f"<{kind}>" if isinstance(kind, str) else "…"


def details_table(
    state: str,
    attempts: Sequence[Attempt],
    notes: Sequence[str] = (),
    *,
    earlier: int = 0,
    spent: str = "$0",
) -> str:
    """Write where an item is, what it waits for, and its calls, the newest last.

    The reason comes last in the table: where the page is narrow, the end of a
    row is cut off.

    Args:
        state: State of the flow; empty outside flows.
        attempts: What was tried, the newest last.
        notes: What is waited for or was denied, as Markdown.
        earlier: Attempts before these.
        spent: What the item was charged, and of what.
    """
    made = earlier + len(attempts)
    unknown = sum(a.at_reservation for a in attempts)
    parts = [
        f"**{escape_markdown(state) or 'calls'}**",
        f"{made} attempt{'' if made == 1 else 's'}",
        spent + (f", {unknown} at the reservation" if unknown else ""),
    ]
    first = max(0, len(attempts) - _TABLE_ROWS)
    if first or earlier:
        left_out = first + earlier
        parts.append(f"without the first {left_out}, which the query `costs` has")
    lines = [" · ".join(parts), *(f"\n{note}" for note in notes)]
    if attempts:
        lines += ["", _HEAD, "|---|---|---|---:|---:|---|"]
    return "\n".join(lines + [_row(attempt) for attempt in attempts[first:]])


def _row(attempt: Attempt) -> str:
    usage = attempt.usage
    tokens = f"{usage.input_tokens}/{usage.output_tokens}" if usage else ""
    reason = f"{attempt.reason}; {attempt.note}" if attempt.note else attempt.reason
    return _line(
        [
            _cell(attempt.state),
            _cell(attempt.role),
            _cell(attempt.tier),
            ("≤ " if attempt.at_reservation else "") + money(attempt.cost_usd),
            tokens,
            _cell(reason),
        ]
    )


@lru_cache(maxsize=512)
def _cell(text: str) -> str:
    # broken before it is escaped: a backslash stays with its character
    return escape_markdown(_LONG_WORD.sub(_breakable, shorten(text, _CELL)))


def _breakable(word: re.Match[str]) -> str:
    """Let a long word break, between its parts if it has some."""
    return _LONG_PIECE.sub(rf"\g<0>{_BREAK}", _SEAM.sub(_BREAK, word[0]))


def _line(cells: Sequence[str]) -> str:
    return f"| {f'{_GAP} | '.join(cells)} |"


_HEAD = _line(["state", "role", "tier", "cost", "tokens in/out", "reason"])


def waits_for_raise(role: str, tier: str, needs: Decimal, why: str) -> str:
    """Say, as Markdown, that only a higher budget helps."""
    call = escape_markdown(f"{role} · {tier}")
    return (
        f"the budget does not pay for {call}: it needs {money(needs)}, "
        f"{escape_markdown(why)}; send the update `raise_budget`"
    )


def invalid_reply(problem: str) -> str:
    """Write what goes back to a model whose reply is not valid."""
    return (
        f"This reply is not valid: {problem}\n"
        "Reply again with nothing but a valid reply."
    )
