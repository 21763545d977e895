"""What people and models read: messages, summaries, the table of calls; pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal

from pydantic import BaseModel, JsonValue
from pydantic_core import to_jsonable_python

from tierpool.blueprint import Reply
from tierpool.contracts import Attempt, Route, WorkItem

__all__ = [
    "AgentInput",
    "attempt_summary",
    "details_table",
    "render_for_model",
    "render_for_tool",
    "shorten",
]

AgentInput = str | BaseModel | dict[str, JsonValue] | list[JsonValue] | None
"""What a caller may hand to a role."""

_SUMMARY_BYTES = 200
_TABLE_ROWS = 50


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


def attempt_summary(role: str, route: Route, note: str = "") -> str:
    """Write an activity's summary, such as `reviewer · premium · fixed by the role`."""
    parts = [role, route.tier, note or route.reason]
    text = " · ".join(part for part in parts if part)
    while len(text.encode()) > _SUMMARY_BYTES:
        text = text[:-9] + "…"
    return text


def money(amount: Decimal | None) -> str:
    """Show USD for people; unknown stays unknown."""
    if amount is None:
        return "unknown"
    return f"${amount:.6f}".rstrip("0").rstrip(".") if amount else "$0"


def _cell(text: str) -> str:
    return shorten(text, 80).replace("|", "\\|")


def details_table(state: str, attempts: Sequence[Attempt]) -> str:
    """Write an item's calls as a Markdown table, the newest last."""
    known = sum((a.cost_usd for a in attempts if a.cost_usd is not None), Decimal(0))
    head = [
        f"**{state or 'calls'}** · {len(attempts)} attempts · {money(known)}",
        "",
        "| # | state | role | tier | reason | tokens in / out | cost |",
        "|---|---|---|---|---|---|---|",
    ]
    first = max(0, len(attempts) - _TABLE_ROWS)
    if first:
        head.insert(1, f"The first {first} are left out.")
    return "\n".join(
        head + [_row(n, a) for n, a in enumerate(attempts, 1) if n > first]
    )


def _row(number: int, attempt: Attempt) -> str:
    usage = attempt.usage
    tokens = f"{usage.input_tokens} / {usage.output_tokens}" if usage else ""
    reason = f"{attempt.reason}; {attempt.note}" if attempt.note else attempt.reason
    cells = [attempt.state, attempt.role, attempt.tier, reason]
    shown = " | ".join(_cell(cell) for cell in cells)
    return f"| {number} | {shown} | {tokens} | {money(attempt.cost_usd)} |"
