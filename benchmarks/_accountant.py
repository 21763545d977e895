"""A provider on this machine that keeps books, and refuses what breaks its limits.

Runs as a process of its own: speaks the wire formats by the scripted provider,
charges every call that it has taken in full, also if its client vanished, and
answers 429 in five dialects in turn. Prints one JSON line with its addresses.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import random
import re
import signal
import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from email.utils import format_datetime
from typing import Any

from _books import Served, Terms
from aiohttp import web

from tierpool.contracts import Usage
from tierpool.testing import Fail, ScriptedProvider, SeenRequest, Step, fitting_reply

__all__ = ["DIALECTS", "Limits", "refusal"]

DIALECTS = ("openai", "anthropic", "milliseconds", "body", "nothing")
WINDOW_S = 60.0
ROLE = re.compile(r"role: ([a-z_-]+)")
MESSAGES = {
    "requests": "Rate limit reached for requests",
    "tokens": "Rate limit reached for tokens",
    "burst": "Too many requests at a time",
}


@dataclass
class Limits:
    """What was taken lately; refused requests do not count."""

    terms: Terms
    _taken: deque[tuple[float, int]] = field(default_factory=deque)

    def broken(self, now: float, tokens: int) -> tuple[str, float] | None:
        """Return the limit that one more call would break, and the seconds to wait.

        The call is taken if it breaks none.
        """
        while self._taken and self._taken[0][0] <= now - WINDOW_S:
            self._taken.popleft()
        found = [
            (seconds, name)
            for name, seconds in (
                ("burst", self._too_many(self.terms.burst, now, 1.0)),
                ("requests", self._too_many(self.terms.rpm, now, WINDOW_S)),
                ("tokens", self._too_much(tokens, now)),
            )
            if seconds > 0
        ]
        if not found:
            self._taken.append((now, tokens))
            return None
        seconds, name = max(found)
        return name, seconds

    def _too_many(self, most: int, now: float, window: float) -> float:
        """Return the seconds until there is room for a request."""
        if not most or len(self._taken) < most:
            return 0.0
        return self._taken[-most][0] + window - now

    def _too_much(self, tokens: int, now: float) -> float:
        """Return the seconds until there is room for so many tokens."""
        over = sum(one for _, one in self._taken) + tokens - self.terms.tpm
        if not self.terms.tpm or over <= 0:
            return 0.0
        for at, one in self._taken:
            over -= one
            if over <= 0:
                return at + WINDOW_S - now
        return WINDOW_S


def refusal(dialect: str, limit: str, wait: float, terms: Terms) -> Fail:
    """Return the 429 of a dialect."""
    message, now = MESSAGES[limit], datetime.now(UTC)
    kind = "tokens" if limit == "tokens" else "requests"
    headers: dict[str, str] = {}
    match dialect:
        case "openai":
            most = terms.tpm if kind == "tokens" else terms.rpm or terms.burst
            headers = {
                f"x-ratelimit-limit-{kind}": str(most),
                f"x-ratelimit-remaining-{kind}": "0",
                f"x-ratelimit-reset-{kind}": f"{wait:.3f}s",
                "retry-after": str(math.ceil(wait)),
            }
        case "anthropic":
            # whole seconds, as Anthropic tells them
            reset = (now + timedelta(seconds=math.ceil(wait))).replace(microsecond=0)
            headers = {
                "date": format_datetime(now, usegmt=True),
                f"anthropic-ratelimit-{kind}-remaining": "0",
                f"anthropic-ratelimit-{kind}-reset": reset.strftime(
                    "%Y-%m-%dT%H:%M:%SZ"
                ),
            }
        case "milliseconds":
            headers = {"retry-after-ms": str(math.ceil(wait * 1000))}
        case "body":
            message = f"{message}. Please try again in {wait:.1f}s."
    return Fail(429, message, code="rate_limit_exceeded", headers=headers)


class Accountant:
    """Decides on every request, and writes down what it decided."""

    def __init__(self, terms: Terms) -> None:
        """Take the terms."""
        self._terms = terms
        self._limits = Limits(terms)
        self._refusals = 0
        self._entries: dict[int, tuple[str, Decimal, int, str]] = {}
        """By number of the request: role, USD, tokens, limit that was broken."""
        self.provider = ScriptedProvider(
            label=re.compile(terms.label), keep_calls=None, keep_requests=1
        )
        self.provider.default(self.decide)

    def decide(self, request: SeenRequest) -> Step:
        """Take a call or refuse it."""
        terms = self._terms
        draw = random.Random(f"{terms.seed}:{self._label(request)}")
        seconds = draw.uniform(*terms.call_s)
        if " slow" in request.text:
            seconds = terms.slow_s
        output = draw.randint(*terms.output_tokens)
        if request.max_tokens is not None:
            output = min(output, request.max_tokens)
        size = len((request.system or "").encode()) + len(request.text.encode())
        read = max(1, math.ceil(size / terms.bytes_per_token))
        found = ROLE.search(request.system or "")
        role = found[1] if found else request.model
        broken = self._limits.broken(time.time(), read + output)
        if broken is not None:
            limit, wait = broken
            dialect = DIALECTS[self._refusals % len(DIALECTS)]
            self._refusals += 1
            self._entries[request.number] = (role, Decimal(0), 0, limit)
            return refusal(dialect, limit, wait, terms)
        usd, tokens = terms.cost(read, output), read + output
        self._entries[request.number] = (role, usd, tokens, "")
        reply = fitting_reply(delay=timedelta(seconds=seconds), chunks=2)(request)
        return replace(reply, usage=Usage(input_tokens=read, output_tokens=output))

    def served(self) -> list[Served]:
        """Return all requests in order of arrival."""
        # a request is known to the provider a moment before it is decided on
        decided = (c for c in self.provider.calls if c.number in self._entries)
        pairs = ((call, self._entries[call.number]) for call in decided)
        return [
            Served(
                label=call.label,
                role=role,
                started=call.started.timestamp(),
                ended=call.ended.timestamp() if call.ended else math.inf,
                usd=usd,
                tokens=tokens,
                refused=refused,
                aborted=call.aborted,
            )
            for call, (role, usd, tokens, refused) in pairs
        ]

    def sums(self) -> Mapping[str, Any]:
        """Return what it comes to."""
        calls = self.served()
        taken = [c for c in calls if c.taken]
        return {
            "requests": len(calls),
            "taken": len(taken),
            "in_flight": sum(c.ended == math.inf for c in taken),
            "aborted": sum(c.aborted for c in taken),
            "tokens": sum(c.tokens for c in taken),
            "usd": str(sum((c.usd for c in taken), Decimal(0))),
        }

    def _label(self, request: SeenRequest) -> str:
        found = re.search(self._terms.label, request.text)
        return found[0] if found else str(request.number)


def _entry(call: Served) -> dict[str, Any]:
    ended = None if call.ended == math.inf else call.ended
    return {**asdict(call), "usd": str(call.usd), "ended": ended}


async def serve(terms: Terms) -> None:
    """Serve until told to stop."""
    books = Accountant(terms)

    async def calls(_: web.Request) -> web.Response:
        return web.json_response([_entry(call) for call in books.served()])

    async def sums(_: web.Request) -> web.Response:
        return web.json_response(books.sums())

    app = web.Application()
    app.router.add_get("/calls", calls)
    app.router.add_get("/sums", sums)
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        provider = await stack.enter_async_context(books.provider)
        addresses = {
            "base_url": provider.base_url,
            "books_url": f"http://{host}:{port}",
        }
        print(json.dumps(addresses), flush=True)
        await stop.wait()


if __name__ == "__main__":
    asyncio.run(serve(Terms(**json.loads(sys.argv[1]))))
