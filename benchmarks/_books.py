"""What the accountant has seen, and what follows from it; nothing is measured here.

`Terms` say what the provider in `_accountant` charges, takes and refuses; `Served`
is one call as it saw it. Everything else is arithmetic over a list of those, so
it serves tierpool and its peers alike.
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
from _processes import Child, python

__all__ = [
    "LABEL",
    "Books",
    "Served",
    "Terms",
    "accountant",
    "hand_overs",
    "highest",
    "most_at_a_time",
    "quantile",
    "seconds_busy",
]

LABEL = r"part [0-9]+"
"""What names a call, in the text that is sent."""
HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Terms:
    """How the provider behaves; a call's size and time depend on its label alone."""

    call_s: tuple[float, float] = (0.5, 0.5)
    """Shortest and longest time of a call, from its arrival on."""
    slow_s: float = 0.0
    """Time of a call with the word `slow` in its text."""
    output_tokens: tuple[int, int] = (50, 50)
    """Fewest and most; never more than the request allows."""
    bytes_per_token: float = 4.0
    """Of the input."""
    input_usd_per_mtok: str = "1"
    output_usd_per_mtok: str = "4"
    rpm: int = 0
    """Requests in any 60 s; 0: no limit."""
    tpm: int = 0
    """Tokens, input and output, of the requests of any 60 s; 0: no limit."""
    burst: int = 0
    """Requests in any second; 0: no limit."""
    label: str = LABEL
    seed: int = 1

    def cost(self, input_tokens: int, output_tokens: int) -> Decimal:
        """Return USD for one call."""
        micro = input_tokens * Decimal(self.input_usd_per_mtok) + (
            output_tokens * Decimal(self.output_usd_per_mtok)
        )
        return micro / 1_000_000


@dataclass(frozen=True, slots=True)
class Served:
    """One request as the provider saw it; times are Unix times."""

    label: str
    role: str
    """By the system prompt; else the model's name."""
    started: float
    ended: float
    """Infinite while it is under way."""
    usd: Decimal
    """Charged in full, also if the client vanished; 0 if refused."""
    tokens: int
    refused: str = ""
    """The limit that it broke."""
    aborted: bool = False
    """Whether the client went away before the answer was out."""

    @property
    def taken(self) -> bool:
        """Whether the provider worked on it."""
        return not self.refused

    @staticmethod
    def of(said: Mapping[str, Any]) -> Served:
        """Read an entry of `/calls`."""
        ended = math.inf if said["ended"] is None else said["ended"]
        return Served(**{**said, "ended": ended, "usd": Decimal(said["usd"])})


@dataclass(frozen=True, slots=True)
class Books:
    """The provider, from outside."""

    base_url: str
    pid: int
    _books_url: str
    _http: aiohttp.ClientSession

    async def calls(self) -> list[Served]:
        """Return all calls in order of arrival."""
        async with self._http.get(f"{self._books_url}/calls") as answer:
            return [Served.of(one) for one in await answer.json()]

    async def sums(self) -> dict[str, Any]:
        """Return requests, calls taken and under way, tokens, and USD as text."""
        async with self._http.get(f"{self._books_url}/sums") as answer:
            found: dict[str, Any] = await answer.json()
            return found

    async def usd(self) -> Decimal:
        """Return what is charged so far."""
        return Decimal((await self.sums())["usd"])


@asynccontextmanager
async def accountant(terms: Terms, log: Path) -> AsyncIterator[Books]:
    """Run the provider in a process of its own until the block ends."""
    program = str(HERE / "_accountant.py")
    async with (
        python(program, json.dumps(asdict(terms)), log=log) as child,
        aiohttp.ClientSession() as http,
    ):
        yield _books_of(child, http)


def _books_of(child: Child, http: aiohttp.ClientSession) -> Books:
    said = child.said
    return Books(said["base_url"], child.pid, said["books_url"], http)


def most_at_a_time(calls: Sequence[Served], role: str | None = None) -> int:
    """Return the most calls that were under way at a time, of a role or in all."""
    mine = [c for c in calls if c.taken and role in (None, c.role)]
    steps = [(c.started, 1) for c in mine] + [(c.ended, -1) for c in mine]
    most = now = 0
    for _, step in sorted(steps):  # an end goes before a begin of the same moment
        now += step
        most = max(most, now)
    return most


def hand_overs(
    calls: Sequence[Served], role: str, cap: int, since: float = 0.0
) -> list[float]:
    """Return the seconds from each end of a role's call to the begin that it let in.

    With `cap` calls at a time and others waiting all the while, the call after
    the n-th end is the one that begins as number cap + n.

    Args:
        calls: All of them, from the very first.
        role: Whose.
        cap: Of the role.
        since: Unix time from which on ends count.
    """
    mine = [c for c in calls if c.taken and c.role == role]
    begins = sorted(c.started for c in mine)[cap:]
    ends = sorted(c.ended for c in mine)[: len(begins)]
    pairs = zip(begins, ends, strict=True)
    return [max(0.0, begin - end) for begin, end in pairs if end >= since]


def seconds_busy(
    calls: Sequence[Served], begin: float, end: float, role: str | None = None
) -> float:
    """Return the call-seconds under way between two moments."""
    return sum(
        max(0.0, min(c.ended, end) - max(c.started, begin))
        for c in calls
        if c.taken and role in (None, c.role)
    )


def highest(
    calls: Sequence[Served],
    amount: Callable[[Served], Any],
    seconds: float,
    *,
    by_end: bool = False,
) -> Any:
    """Return the most that came to in any window of so many seconds.

    A call counts at its begin, or at its end.
    """
    taken = [c for c in calls if c.taken and not (by_end and c.ended == math.inf)]
    mine = sorted((c.ended if by_end else c.started, amount(c)) for c in taken)
    most = now = mine[0][1] * 0 if mine else 0
    first = 0
    for at, one in mine:
        now += one
        while mine[first][0] <= at - seconds:
            now -= mine[first][1]
            first += 1
        most = max(most, now)
    return most


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value that a share of them does not exceed; NaN without any."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
