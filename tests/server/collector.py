"""A collector of traces on this machine: OTLP over HTTP, spans kept in memory."""

from __future__ import annotations

import asyncio
import gzip
from typing import Any, NamedTuple, Self

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)


class Span(NamedTuple):
    """A span as it came."""

    name: str
    trace: str
    id: str
    parent: str
    service: str
    failed: bool
    attributes: dict[str, Any]


class Collector:
    """Takes traces for as long as it is entered."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.bodies: list[bytes] = []
        """All that was sent, uncompressed."""
        self.url = ""
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/v1/traces", self._take)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    def named(self, prefix: str) -> list[Span]:
        return [span for span in self.spans if span.name.startswith(prefix)]

    def path(self, span: Span) -> list[str]:
        """Return the names from a span up to the root of its trace."""
        known = {other.id: other for other in self.spans}
        names = [span.name]
        while span.parent:
            span = known[span.parent]
            names.append(span.name)
        return names

    async def _take(self, http: web.Request) -> web.Response:
        body = await http.read()
        if http.headers.get("Content-Encoding") == "gzip":
            body = await asyncio.to_thread(gzip.decompress, body)
        self.bodies.append(body)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            about = _attributes(resource.resource.attributes)
            for scope in resource.scope_spans:
                self.spans += [
                    Span(
                        name=one.name,
                        trace=one.trace_id.hex(),
                        id=one.span_id.hex(),
                        parent=one.parent_span_id.hex(),
                        service=f"{about['service.namespace']}/{about['service.name']}",
                        failed=one.status.code == one.status.STATUS_CODE_ERROR,
                        attributes=_attributes(one.attributes),
                    )
                    for one in scope.spans
                ]
        return web.Response(content_type="application/x-protobuf")


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    return getattr(value, kind)
