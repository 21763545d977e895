"""The scripted provider as a process of its own.

Reads the command line of `python -m tierpool.testing.provider`, among it steps
and prices as text. What a step does is in `steps`, the server is in `provider`.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, Final, TypeVar

from tierpool.blueprint import Price
from tierpool.contracts import Usage
from tierpool.testing import steps as kinds
from tierpool.testing.provider import ScriptedProvider, fitting_reply
from tierpool.testing.records import SeenRequest
from tierpool.testing.steps import Step

__all__ = ["main", "read_price", "read_steps"]

T = TypeVar("T")

_KINDS: Final[Mapping[str, type[Any]]] = {
    kind.__name__: kind
    for kind in (
        kinds.CutConnection,
        kinds.Fail,
        kinds.Garbage,
        kinds.NoUsage,
        kinds.Overloaded,
        kinds.QuotaExceeded,
        kinds.RateLimited,
        kinds.Reply,
        kinds.ServerError,
        kinds.SlowFirstByte,
        kinds.Stall,
    )
}
_SECONDS: Final = frozenset({"delay", "first_byte_delay", "wait"})
_PROCESS_ONLY: Final = frozenset({"gate"})
"""Fields that only a program in the same process can set."""


def read_steps(text: str) -> list[Step]:
    """Read a JSON array of steps: a class's name as `step`, and its fields.

    Durations are seconds: `[{"step": "Reply", "text": "hello", "delay": 0.2}]`.

    Raises:
        ValueError: naming what cannot be read.
    """
    given = json.loads(text)
    if not isinstance(given, list) or not given:
        raise ValueError("expected a JSON array with at least one step")
    return [_step(number, one) for number, one in enumerate(given, 1)]


def _step(number: int, given: object) -> Step:
    fields = dict(given) if isinstance(given, dict) else {}
    name = fields.pop("step", None)
    kind = _KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        known = ", ".join(sorted(_KINDS))
        raise ValueError(f"step {number}: {name!r} is no step; known are {known}")
    known_fields = set(kind.__dataclass_fields__) - _PROCESS_ONLY
    if unknown := sorted(set(fields) - known_fields):
        raise ValueError(
            f"step {number}: {name} has no field {unknown[0]!r}; "
            f"it has {', '.join(sorted(known_fields))}"
        )
    for field in _SECONDS & fields.keys():
        fields[field] = timedelta(seconds=float(fields[field]))
    if fields.get("usage") is not None:
        fields["usage"] = Usage.model_validate(fields["usage"])
    made: Step = kind(**fields)
    return made


def read_price(text: str) -> tuple[str, Price]:
    """Read `MODEL=INPUT:OUTPUT`, in USD for a million tokens.

    Raises:
        ValueError: if it is not of that form.
    """
    model, _, rates = text.rpartition("=")
    given, _, taken = rates.partition(":")
    try:
        price = Price(
            input_usd_per_mtok=Decimal(given), output_usd_per_mtok=Decimal(taken)
        )
    except InvalidOperation:
        model = ""
    if not model:
        raise ValueError(f"{text!r}: expected MODEL=INPUT:OUTPUT in USD per Mtok")
    return model, price


def main(argv: Sequence[str] | None = None) -> None:
    """Run a provider until SIGTERM or Ctrl-C.

    Prints one JSON line with its address as soon as it listens.
    """
    asyncio.run(_serve(_options(argv)))


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tierpool.testing.provider")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument(
        "--delay", type=float, default=0.0, help="seconds a reply takes"
    )
    parser.add_argument("--first-byte-delay", type=float, default=0.0, help="seconds")
    parser.add_argument("--chunks", type=int, default=3, help="pieces of a stream")
    parser.add_argument(
        "--steps",
        type=_shown(read_steps),
        help='JSON array, taken in turn for ever: [{"step": "Reply", "delay": 0.2}]; '
        "instead of the three options above",
    )
    parser.add_argument(
        "--price",
        type=_shown(read_price),
        action="append",
        default=[],
        metavar="MODEL=IN:OUT",
        help="USD per million tokens; may be given for several models",
    )
    parser.add_argument(
        "--label",
        type=_shown(re.compile),
        metavar="REGEX",
        help="what names a call in /_calls: the first match in its messages",
    )
    parser.add_argument(
        "--keep-calls", type=int, default=10_000, help="latest calls in /_calls"
    )
    return parser.parse_args(argv)


def _shown(read: Callable[[str], T]) -> Callable[[str], T]:
    """Let argparse show the words of an error, which it hides by default."""

    def reading(text: str) -> T:
        try:
            return read(text)
        except (ValueError, re.error) as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return reading


async def _serve(args: argparse.Namespace) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    provider = ScriptedProvider(
        prices=dict(args.price),
        host=args.host,
        port=args.port,
        keep_requests=0,
        label=args.label,
        keep_calls=args.keep_calls,
    )
    provider.default(_answers(args))
    async with provider:
        line = {"base_url": provider.base_url, "pid": os.getpid()}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
        await stop.wait()


def _answers(args: argparse.Namespace) -> Callable[[SeenRequest], Step]:
    if args.steps is None:
        return fitting_reply(
            delay=timedelta(seconds=args.delay),
            first_byte_delay=timedelta(seconds=args.first_byte_delay),
            chunks=args.chunks,
        )
    turn = itertools.cycle(args.steps)
    return lambda _request: next(turn)
