"""The load of `rate_limits.py`, as all of its sides make it.

Runs in the environments of the peers too, so it needs nothing but the standard
library. Parts are numbered; a part's text and thus its size depend on its number
alone. An `Occupied` is one use of a slot, from its begin to its end.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = [
    "MAX_OUTPUT_TOKENS",
    "MODEL",
    "OUTPUT_TOKENS",
    "PROMPT",
    "Occupied",
    "Order",
    "occupied_in",
    "text_of",
]

MODEL = "scripted"
PROMPT = "role: clerk. Say in a few words what is to be done."
MAX_OUTPUT_TOKENS = 400
OUTPUT_TOKENS = (50, 350)
INPUT_BYTES = (100, 1500)


@dataclass(frozen=True)
class Order:
    """What a side is told; comes as JSON in the first argument."""

    base_url: str
    """Of the provider, without a path."""
    address: str
    """Of the Temporal server."""
    folder: str
    """Where files of the run are."""
    processes: int
    slots: int
    """Of each process."""
    lanes: int
    """Callers that have one call under way each, or want one."""
    seconds: float
    """How long the load lasts."""
    rpm: int
    tpm: int
    burst: int
    number: int = 0
    """Of this process, from 1; 0: the one that gives out the load."""

    @staticmethod
    def read(text: str) -> Order:
        """Read the argument."""
        return Order(**json.loads(text))

    def as_json(self) -> str:
        """Write the argument."""
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Occupied:
    """One use of a slot; Unix times."""

    label: str
    begin: float
    end: float

    def write(self, file: Path) -> None:
        """Add it to a file."""
        with file.open("a") as lines:
            lines.write(json.dumps(asdict(self)) + "\n")


def occupied_in(folder: Path) -> Iterator[Occupied]:
    """Read what was written to files `occupied-….jsonl`."""
    for file in sorted(folder.glob("occupied-*.jsonl")):
        for line in file.read_text().splitlines():
            yield Occupied(**json.loads(line))


def text_of(number: int) -> str:
    """Return the text of a part."""
    size = random.Random(number).randint(*INPUT_BYTES)
    return f"part {number} ".ljust(size, "x")
