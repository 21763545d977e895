"""The long conversation of `history.py`: its words, its tool, how a run is weighed.

Every side of the comparison imports this module into an environment of its own,
so it knows neither tierpool nor its peers. What differs between the sides, the
workflow and its workers, is in their programs.
"""

from __future__ import annotations

import asyncio
import json
import sysconfig
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

from temporalio import activity, workflow
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import TerminatedError
from temporalio.service import RPCError

__all__ = [
    "MAX_OUTPUT_TOKENS",
    "MODEL",
    "PIECE_BYTES",
    "PROMPT",
    "QUEUE",
    "REPLIES",
    "Case",
    "Order",
    "Run",
    "Said",
    "Talk",
    "folder_bytes",
    "perform",
    "piece",
    "read_piece",
    "replies_as_steps",
    "start_messages",
    "tool",
]

PIECE_BYTES = 5_000
"""Of a tool's result, and of a message of the start conversation; all ASCII."""

MODEL = "scripted"
QUEUE = "bench-history-own"
MAX_OUTPUT_TOKENS = 256

PROMPT = """\
You review a large program that you are shown piece by piece. Say in two or
three sentences what the newest piece does and how it fits to the pieces before.
"""

REPLIES = tuple(
    f"This piece {what}. It goes on where the piece before ended, and it uses the "
    f"names that were defined there. I would look next at {where}."
    for what, where in (
        ("checks its arguments and keeps them for later calls", "the callers"),
        ("turns text into tokens and complains of what it cannot read", "the tests"),
        ("opens files and closes them again when an error comes up", "the clean-up"),
        (
            "defines a class with a few small methods and their documentation",
            "its base",
        ),
        ("walks through a tree and collects what it finds on its way", "the recursion"),
        ("keeps compatibility with the names of earlier versions", "the warnings"),
    )
)
"""Of the provider, in turn."""

Said = tuple[str, str]
"""One message: `user` or `assistant`, and its text."""


@dataclass
class Case:
    """A conversation of so many turns that begins with so many bytes."""

    turns: int
    start_bytes: int


@dataclass
class Talk:
    """Input of a run's workflow."""

    turns: int
    start: list[Said]
    first: int
    """Number of the first piece that the tool is asked for."""


@dataclass
class Order:
    """What one side of the comparison is asked to do."""

    address: str
    """Of the Temporal server."""
    provider: str
    """Base URL."""
    folder: str
    """Empty, for whatever the side has to write."""
    cases: list[Case]
    limit_s: float
    """A run that takes longer is given up."""
    options: dict[str, Any] = field(default_factory=dict)

    @staticmethod
    def read(text: str) -> Order:
        """Read what `json.dumps(asdict(order))` wrote."""
        raw = json.loads(text)
        return Order(**{**raw, "cases": [Case(**case) for case in raw["cases"]]})


@dataclass
class Run:
    """What was seen of one run."""

    turns: int
    start_bytes: int
    outcome: str
    """`completed`, or how else it ended."""
    reason: str
    """Why it did not complete."""
    bytes: int
    """Of its history, as the server counts them."""
    events: int
    calls: int
    """That the provider was asked for."""
    input_tokens: int
    """That the provider read, a token for four bytes."""
    seconds: float
    stored_bytes: int = 0
    """Put beside the history, by those who do."""


@cache
def _sources() -> str:
    """Return the modules at the top of the standard library, in order of their names."""
    folder = Path(sysconfig.get_path("stdlib"))
    texts = (path.read_bytes() for path in sorted(folder.glob("*.py")))
    return "".join(text.decode("ascii", "ignore") for text in texts)


def piece(number: int) -> str:
    """Return a piece of source text; no two numbers give the same."""
    found = _sources()[number * PIECE_BYTES : (number + 1) * PIECE_BYTES]
    if len(found) < PIECE_BYTES:
        raise IndexError(f"the standard library has no piece {number}")
    return found


@activity.defn
async def read_piece(number: int) -> str:
    """Be the tool that each turn uses."""
    return piece(number)


def start_messages(size: int) -> list[Said]:
    """Return a conversation of so many bytes whose last word is the model's."""
    count = size // PIECE_BYTES
    return [("assistant" if n % 2 else "user", piece(n)) for n in range(count)]


def tool(number: int) -> Any:
    """Let the running workflow use the tool."""
    return workflow.execute_activity(
        read_piece, number, start_to_close_timeout=timedelta(seconds=30)
    )


def _provider_counts(address: str) -> dict[str, int]:
    with urllib.request.urlopen(f"{address}/_stats", timeout=30) as answer:
        found: dict[str, int] = json.load(answer)
        return found


async def _outcome(handle: WorkflowHandle[Any, Any], limit_s: float) -> tuple[str, str]:
    try:
        async with asyncio.timeout(limit_s):
            await handle.result()
    except TimeoutError:
        await handle.terminate("the benchmark gives it up")
        return "given up", f"not done after {limit_s:.0f} s"
    except WorkflowFailureError as error:
        kind = "terminated" if isinstance(error.cause, TerminatedError) else "failed"
        return kind, str(error.cause)
    return "completed", ""


async def perform(
    client: Client,
    run: Any,
    order: Order,
    stored_bytes: Callable[[], int] = lambda: 0,
) -> None:
    """Run one case after the other, and print what was seen of each as a JSON line."""
    for case in order.cases:
        start = start_messages(case.start_bytes)
        talk = Talk(case.turns, start, len(start))
        before = await asyncio.to_thread(_provider_counts, order.provider)
        stored, begun = stored_bytes(), time.perf_counter()
        handle = await client.start_workflow(
            run, talk, id=f"history-{uuid4().hex[:8]}", task_queue=QUEUE
        )
        outcome, reason = await _outcome(handle, order.limit_s)
        seconds = time.perf_counter() - begun
        after = await asyncio.to_thread(_provider_counts, order.provider)
        info = (await _described(handle)).raw_description.workflow_execution_info
        seen = Run(
            turns=case.turns,
            start_bytes=case.start_bytes,
            outcome=outcome,
            reason=reason,
            bytes=info.history_size_bytes,
            events=info.history_length,
            calls=after["calls"] - before["calls"],
            input_tokens=after["input_tokens"] - before["input_tokens"],
            seconds=seconds,
            stored_bytes=stored_bytes() - stored,
        )
        print(json.dumps(asdict(seen)), flush=True)


async def _described(handle: WorkflowHandle[Any, Any]) -> Any:
    """Describe a run that has just ended; a busy server may need a second try."""
    try:
        return await handle.describe()
    except RPCError:
        await asyncio.sleep(1)
        return await handle.describe()


def folder_bytes(folder: Path) -> int:
    """Return the size of the files in a folder."""
    return sum(path.stat().st_size for path in folder.iterdir())


def replies_as_steps(replies: Sequence[str] = REPLIES) -> str:
    """Return the provider's `--steps`."""
    return json.dumps([{"step": "Reply", "text": text} for text in replies])
