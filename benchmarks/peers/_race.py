"""What all peers do: N callers at a time, each of which wants several calls.

Runs in a peer's own environment, so it needs nothing but the standard library.
A peer gives `ask`, which makes one call and raises `Refused` when the peer's
limit refuses it. One JSON line tells what happened; nothing is judged here.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["CALL_WITHIN_S", "Asked", "Order", "Race", "Refused", "read_order", "run"]

CALL_WITHIN_S = 30
"""A call that takes longer is an error, and is shown as one."""


class Refused(Exception):
    """The peer's limit refused a call."""


@dataclass(frozen=True)
class Order:
    """What the benchmark wants; comes as JSON in the first argument."""

    base_url: str
    """Of the scripted provider, without a path."""
    folder: str
    """For files of this run."""
    model: str
    cap_usd: str
    worst_usd: str
    """What one call costs at most."""
    max_output_tokens: int
    input_bytes: int
    """Size of a call's message."""
    calls: int
    """How many calls each caller wants."""
    callers: list[int]
    """A race is run for each of these."""
    options: dict[str, Any]
    """Of this peer alone."""


@dataclass
class Asked:
    """One call that a caller wanted."""

    label: str
    """Begins the call's message, so that the provider can name it."""
    asked: float
    """Unix time."""
    ended: float = 0.0
    outcome: str = "replied"
    """replied, refused, or error."""
    words: str = ""
    """Of a refusal or an error."""


@dataclass
class Race:
    """A limiter that is shared by all callers of one race."""

    ask: Callable[[str], Awaitable[object]]
    close: Callable[[], Awaitable[object]]
    """Closes the connections of the race."""
    spent: Callable[[], Any] | None = None
    """What the limiter itself thinks was spent, in USD, if it tells."""


async def _caller(
    order: Order, race: Race, callers: int, mine: int, log: list[Asked]
) -> None:
    """Make calls one after the other; a refusal ends the caller, as it does an agent."""
    for number in range(order.calls):
        asked = Asked(f"RACE-{callers}-{mine}-{number}.", time.time())
        log.append(asked)
        try:
            await race.ask(asked.label.ljust(order.input_bytes, "x"))
        except Refused as refusal:
            asked.outcome, asked.words = "refused", str(refusal)[:200]
        except Exception as error:  # noqa: BLE001 - a foreign program's, reported
            asked.outcome, asked.words = (
                "error",
                f"{type(error).__name__}: {error}"[:200],
            )
        asked.ended = time.time()
        if asked.outcome != "replied":
            return


async def _races(
    order: Order, prepare: Callable[[Order, int], Awaitable[Race]]
) -> list[dict[str, Any]]:
    found = []
    for callers in order.callers:
        race = await prepare(order, callers)
        log: list[Asked] = []
        await asyncio.gather(
            *(_caller(order, race, callers, mine, log) for mine in range(callers))
        )
        await race.close()
        spent = None if race.spent is None else str(race.spent())
        asked = [asdict(one) for one in log]
        found.append({"callers": callers, "spent": spent, "asked": asked})
    return found


def read_order() -> Order:
    """Read the command line."""
    return Order(**json.loads(sys.argv[1]))


async def run(
    order: Order, version: str, prepare: Callable[[Order, int], Awaitable[Race]]
) -> None:
    """Run all races and print what happened.

    Args:
        order: What the benchmark wants.
        version: Of the peer.
        prepare: Makes the limiter of one race, for so many callers.
    """
    races = await _races(order, prepare)
    print(json.dumps({"version": version, "races": races}), flush=True)
