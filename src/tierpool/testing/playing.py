"""How the scripted provider plays a step on a connection.

Everything that can go wrong on a real connection happens here with real
sockets: late bytes, streams that stop, connections that are cut.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from aiohttp import web
from pydantic import JsonValue

from tierpool.testing.records import SeenRequest
from tierpool.testing.steps import (
    CutConnection,
    Fail,
    Garbage,
    Reply,
    Stall,
    Step,
)
from tierpool.testing.wire import Produced, WireFormat, produce

__all__ = ["Play"]

_GARBAGE: Mapping[str, tuple[str, bytes]] = {
    "html": ("text/html", b"<html><body>Please log in</body></html>"),
    "bad_json": ("text/event-stream", b'event: message_start\ndata: {"id": \n\n'),
    "wrong_shape": ("text/event-stream", b'event: message_start\ndata: ["?"]\n\n'),
    "empty": ("text/event-stream", b""),
}


@dataclass
class Play:
    """One request and its answer."""

    http: web.Request
    request: SeenRequest
    wire: WireFormat
    stream_usage: bool
    closing: asyncio.Event
    """Set when the provider goes down: nothing waits any longer."""
    sent: int = 0
    """Pieces of the reply that are out."""
    made: Produced | None = None
    """The reply, from the moment on at which work on it is owed."""
    complete: bool = False
    """Whether the answer was sent to its end, as far as the step goes."""

    async def run(self, step: Step) -> web.StreamResponse:
        """Send the step's answer."""
        if isinstance(step, Garbage):
            kind, body = _GARBAGE[step.kind]
            self.complete = True
            return web.Response(body=body, content_type=kind)
        if isinstance(step, Fail):
            return await self._fail(step)
        await self._pause(step.first_byte_delay)
        if step.gate is not None:
            await self._until(step.gate)
        if isinstance(step, CutConnection) and step.after_chunks is None:
            return self._cut(web.Response())
        self.made = produce(step, self.request)
        if self.request.stream:
            return await self._streamed(step, self.made)
        return await self._whole(step, self.made)

    async def _fail(self, step: Fail) -> web.StreamResponse:
        wire_name = self.request.wire
        fail = step.on(wire_name, datetime.now(UTC))
        if step.after_chunks is None or not self.request.stream:
            self.complete = True
            return _refuse(self.wire, fail)
        made = produce(Reply(step.text, chunks=step.after_chunks + 1), self.request)
        response = await self._open({})
        await response.write(self.wire.head(made))
        for piece in made.pieces[: step.after_chunks]:
            self.made = made
            await self._send(response, piece, made)
        await response.write(self.wire.error_event(fail))
        self.complete = True
        return response

    async def _streamed(self, step: Reply, made: Produced) -> web.StreamResponse:
        stop = step.after_chunks if isinstance(step, Stall | CutConnection) else None
        if isinstance(step, CutConnection) and step.after_finish:
            stop = None
        response = await self._open(step.headers)
        await response.write(self.wire.head(made))
        for piece in made.pieces if stop is None else made.pieces[:stop]:
            await self._pause(step.delay / len(made.pieces))
            await self._send(response, piece, made)
        if isinstance(step, Stall):
            await self.closing.wait()
            return response
        if isinstance(step, CutConnection) and not step.after_finish:
            return self._cut(response)
        await response.write(self.wire.finish(made))
        if isinstance(step, CutConnection):
            return self._cut(response)
        await response.write(self.wire.end(made, stream_usage=self.stream_usage))
        self.complete = True
        await response.write_eof()
        return response

    async def _whole(self, step: Reply, made: Produced) -> web.StreamResponse:
        await self._pause(step.delay)
        body = json.dumps(self.wire.whole(made), ensure_ascii=False).encode()
        if not isinstance(step, Stall | CutConnection):
            self.sent, self.complete = len(made.pieces), True
            return web.Response(
                body=body, headers=step.headers, content_type="application/json"
            )
        response = web.StreamResponse(headers={"content-type": "application/json"})
        response.content_length = len(body)
        await response.prepare(self.http)
        await response.write(body[: len(body) // 2])
        if isinstance(step, CutConnection):
            return self._cut(response)
        await self.closing.wait()
        return response

    async def _open(self, more: Mapping[str, str]) -> web.StreamResponse:
        headers = {"content-type": "text/event-stream", "cache-control": "no-cache"}
        headers |= more
        response = web.StreamResponse(headers=headers)
        await response.prepare(self.http)
        return response

    async def _send(
        self, response: web.StreamResponse, piece: str, made: Produced
    ) -> None:
        await response.write(self.wire.piece(made, piece))
        self.sent += 1

    def _cut(self, response: web.StreamResponse) -> web.StreamResponse:
        self.complete = True  # this end was ours, not the client's
        if self.http.transport is not None:
            self.http.transport.close()
        return response

    async def _pause(self, time: timedelta) -> None:
        """Wait, but not beyond the provider's own end."""
        if time > timedelta(0):
            try:
                async with asyncio.timeout(time.total_seconds()):
                    await self.closing.wait()
            except TimeoutError:
                pass

    async def _until(self, gate: asyncio.Event) -> None:
        waits = [asyncio.ensure_future(e.wait()) for e in (gate, self.closing)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()


def _refuse(wire: WireFormat, fail: Fail) -> web.Response:
    headers = dict(fail.headers)
    if fail.body is not None:
        kind = "application/json" if fail.body[:1] in "[{" else "text/html"
        return web.Response(
            text=fail.body, status=fail.status, headers=headers, content_type=kind
        )
    body: Mapping[str, JsonValue] = wire.error(fail)
    return web.json_response(body, status=fail.status, headers=headers)
