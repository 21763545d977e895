"""A model provider on this machine that does what a test tells it to do.

A real HTTP server on a free loopback port that speaks OpenAI's chat completions
and Anthropic's messages, streamed and not. It records what it was asked and
counts what it would charge. `python -m tierpool.testing.provider` runs it as a
process of its own, with the command line that is in `process`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Final, Self
from weakref import WeakSet

from aiohttp import web
from pydantic import JsonValue

from tierpool.blueprint import Price
from tierpool.testing.anthropic_wire import AnthropicWire
from tierpool.testing.openai_wire import OpenAIWire
from tierpool.testing.playing import Play
from tierpool.testing.records import Abort, Accounting, CallRecord, SeenRequest
from tierpool.testing.samples import sample
from tierpool.testing.script import Script, ScriptExhausted, StepOrFunction
from tierpool.testing.steps import Fail, Reply, Step, Wire
from tierpool.testing.wire import BadRequest, Parsed, WireFormat

__all__ = ["ScriptedProvider", "fitting_reply"]

_WIRES: Final[Mapping[Wire, WireFormat]] = {
    "openai": OpenAIWire(),
    "anthropic": AnthropicWire(),
}
_PATHS: Final[Mapping[str, Wire]] = {
    "/chat/completions": "openai",
    "/v1/chat/completions": "openai",
    "/v1/messages": "anthropic",
}
_SECRET_HEADERS = frozenset(
    {"authorization", "x-api-key", "cookie", "proxy-authorization"}
)
_WRONG_KEY: Final = Fail(401, "the key is not accepted")
_MOST_BYTES = 64 * 1024 * 1024


class ScriptedProvider:
    """A scripted model provider; an async context manager.

    ```python
    async with ScriptedProvider() as provider:
        provider.script(RateLimited(), Reply("hello"))
        ...  # point a tier's base_url at provider.base_url
        assert provider.accounting.calls == 2
    ```

    Rules (`on`) are asked first, then the script, then the default. A request
    for which nothing is left gets status 500 with the reason, and leaving the
    context raises `ScriptExhausted`.
    """

    def __init__(
        self,
        *,
        prices: Mapping[str, Price] | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        keep_requests: int | None = None,
        label: re.Pattern[str] | None = None,
        keep_calls: int | None = 10_000,
    ) -> None:
        """Prepare a provider; it listens once the context is entered.

        Args:
            prices: By model name, without a prefix; what `accounting.usd` rests on.
            host: Address to listen on.
            port: 0 takes a free one.
            keep_requests: How many of the latest requests are kept; None keeps all.
            label: What names a call in `calls`: its first match in the messages.
            keep_calls: How many of the latest calls are kept; None keeps all.
        """
        self.requests: deque[SeenRequest] = deque(maxlen=keep_requests)
        self.accounting = Accounting()
        self.calls: deque[CallRecord] = deque(maxlen=keep_calls)
        self._label = label
        self._prices = dict(prices or {})
        self._host, self._port = host, port
        self._script = Script()
        self._closing = asyncio.Event()
        self._changed = asyncio.Condition()
        self._connections: WeakSet[object] = WeakSet()
        self._failure: Exception | None = None
        self._runner: web.AppRunner | None = None
        self.base_url = ""
        self.keys: frozenset[str] | None = None
        """Keys that are accepted; others get status 401. None: nobody is asked."""

    def script(self, *steps: StepOrFunction) -> None:
        """Queue steps; each answers one request, in order of arrival."""
        self._script.append(*steps)

    def on(
        self,
        holds: Callable[[SeenRequest], bool],
        step: StepOrFunction,
        *,
        times: int | None = None,
    ) -> None:
        """Answer requests for which `holds` is true, always or `times` times."""
        self._script.add_rule(holds, step, times)

    def default(self, step: StepOrFunction) -> None:
        """Answer everything else with this step, or with what the function makes."""
        self._script.set_default(step)

    @property
    def steps_left(self) -> int:
        """Return how many queued steps have not been asked for."""
        return self._script.left

    async def until(
        self,
        holds: Callable[[Accounting], bool],
        timeout: timedelta = timedelta(seconds=30),
    ) -> None:
        """Wait until the accounting satisfies a condition.

        Raises:
            TimeoutError: with the accounting, if it does not in time.
        """
        try:
            async with asyncio.timeout(timeout.total_seconds()), self._changed:
                await self._changed.wait_for(lambda: holds(self.accounting))
        except TimeoutError:
            raise TimeoutError(f"not reached: {self.accounting}") from None

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=_MOST_BYTES)
        for path in _PATHS:
            app.router.add_post(path, self._answer)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/_stats", self._stats)
        app.router.add_get("/_calls", self._show_calls)
        app.router.add_get("/health", _healthy)
        self._runner = web.AppRunner(
            app, handler_cancellation=True, access_log=None, shutdown_timeout=1.0
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._port, backlog=1024)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.base_url = f"http://{host}:{port}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing.set()
        if self._runner is not None:
            await self._runner.cleanup()
        if error is None and self._failure is not None:
            raise self._failure

    async def _answer(self, http: web.Request) -> web.StreamResponse:
        arrived = time.monotonic()
        wire_name = _PATHS[http.path]
        wire = _WIRES[wire_name]
        self._count_connection(http)
        if not self._accepts(http):
            return web.json_response(wire.error(_WRONG_KEY), status=401)
        try:
            body = _json_object(await http.read())
            parsed = wire.parse(body)
        except BadRequest as refusal:
            fail = Fail(400, str(refusal), param=refusal.param)
            return web.json_response(wire.error(fail), status=400)
        number = self.accounting.calls + 1
        request = _seen(number, wire_name, parsed, body, http)
        self.requests.append(request)
        play = Play(http, request, wire, parsed.stream_usage, self._closing)
        self.accounting.started(request.model)
        record = CallRecord(
            number, request.model, self._label_of(request), datetime.now(UTC)
        )
        self.calls.append(record)
        await self._notify()
        try:
            return await play.run(self._choose(request))
        except ConnectionError:
            return web.Response()
        finally:
            self._finished(play, record, timedelta(seconds=time.monotonic() - arrived))
            await self._notify()

    async def _models(self, http: web.Request) -> web.Response:
        """List no model: what is asked here is whether the key is accepted."""
        if not self._accepts(http):
            anthropic = "x-api-key" in http.headers
            wire = _WIRES["anthropic" if anthropic else "openai"]
            return web.json_response(wire.error(_WRONG_KEY), status=401)
        return web.json_response({"object": "list", "data": [], "has_more": False})

    def _accepts(self, http: web.Request) -> bool:
        return self.keys is None or _key_of(http.headers) in self.keys

    def _choose(self, request: SeenRequest) -> Step:
        """Take the step; a script that cannot answer fails the test at its end."""
        try:
            return self._script.choose(request)
        except Exception as error:  # noqa: BLE001 - a test's own function may raise
            self._failure = self._failure or error
            kind = "script_exhausted"
            if not isinstance(error, ScriptExhausted):
                kind = "script_failed"
            return Fail(500, f"{type(error).__name__}: {error}", kind)

    def _finished(self, play: Play, record: CallRecord, after: timedelta) -> None:
        books, request = self.accounting, play.request
        books.in_flight -= 1
        record.ended = datetime.now(UTC)
        if play.made is not None:
            done = play.complete and play.sent >= len(play.made.pieces)
            usage = play.made.usage if done else play.made.partly(play.sent)
            record.usd = books.bill(usage, self._prices.get(request.model))
        if not play.complete and not self._closing.is_set():
            record.aborted = True
            books.aborted.append(Abort(request.number, record.ended, after, play.sent))

    def _label_of(self, request: SeenRequest) -> str:
        found = self._label.search(request.text) if self._label else None
        return found[0] if found else ""

    def _count_connection(self, http: web.Request) -> None:
        if http.transport is not None and http.transport not in self._connections:
            self._connections.add(http.transport)
            self.accounting.connections += 1

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _stats(self, http: web.Request) -> web.Response:
        return web.json_response(self.accounting.as_dict())

    async def _show_calls(self, http: web.Request) -> web.Response:
        return web.json_response([record.as_dict() for record in self.calls])


def fitting_reply(
    *,
    delay: timedelta = timedelta(0),
    first_byte_delay: timedelta = timedelta(0),
    chunks: int = 3,
) -> Callable[[SeenRequest], Reply]:
    """Return a default step: JSON that satisfies the asked schema, else `ok`."""

    def reply(request: SeenRequest) -> Reply:
        return Reply(
            json=None if request.schema is None else sample(request.schema),
            delay=delay,
            first_byte_delay=first_byte_delay,
            chunks=chunks,
        )

    return reply


def _key_of(headers: Mapping[str, str]) -> str:
    key = headers.get("x-api-key") or headers.get("authorization", "")
    return key.removeprefix("Bearer ")


async def _healthy(http: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})


def _json_object(raw: bytes) -> dict[str, JsonValue]:
    try:
        body = json.loads(raw)
    except ValueError:
        raise BadRequest("the body is not JSON") from None
    if not isinstance(body, dict):
        raise BadRequest("the body is not a JSON object")
    return body


def _seen(
    number: int,
    wire: Wire,
    parsed: Parsed,
    body: Mapping[str, JsonValue],
    http: web.Request,
) -> SeenRequest:
    headers = {name.lower(): value for name, value in http.headers.items()}
    key = _key_of(http.headers)
    temperature = body.get("temperature")
    return SeenRequest(
        number=number,
        wire=wire,
        model=parsed.model,
        system=parsed.system,
        messages=parsed.messages,
        schema=parsed.schema,
        schema_name=parsed.schema_name,
        strict=parsed.strict,
        max_tokens=parsed.max_tokens,
        limit_name=parsed.limit_name,
        temperature=temperature if isinstance(temperature, int | float) else None,
        stream=parsed.stream,
        headers={n: v for n, v in headers.items() if n not in _SECRET_HEADERS},
        key_sha256=hashlib.sha256(key.encode()).hexdigest() if key else "",
        body=body,
    )


if __name__ == "__main__":
    # imports this module anew, under its own name
    from tierpool.testing.process import main

    main()
