"""A codec server: decodes payloads for the Web UI and the `temporal` CLI.

Speaks Temporal's remote codec protocol over HTTP (`POST /decode` and
`POST /encode`) from a thread of this process. Which codec it serves is the
caller's choice; compressing is in `tierpool.codec`.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import TypeAlias

from google.protobuf import json_format
from temporalio.api.common.v1 import Payload, Payloads
from temporalio.converter import PayloadCodec

from tierpool.devserver.state import LOCALHOST
from tierpool.errors import ServerError, TierpoolError

__all__ = ["MAX_BYTES", "serve_codec", "ui_origins"]

MAX_BYTES = 32 * 1024 * 1024
"""Bound of a request, and of the payloads of a reply."""

_Work: TypeAlias = Callable[[Sequence[Payload]], Awaitable[list[Payload]]]

_AT_A_TIME = 2
_IDLE_SECONDS = 30
_ALLOWED_HEADERS = "content-type, x-namespace, authorization"
"""What the Web UI may send; nothing is done with the namespace and the token."""


@contextmanager
def serve_codec(
    codec: PayloadCodec,
    *,
    port: int = 0,
    host: str = LOCALHOST,
    origins: Collection[str] = (),
) -> Iterator[str]:
    """Serve a codec until the block ends; yields the endpoint's URL.

    Args:
        codec: Must be usable from several threads.
        port: Port to listen on; 0 takes a free one.
        host: Address to listen on. Nobody is asked who they are.
        origins: Web pages that may use it, such as `http://127.0.0.1:8233`.
            Programs other than browsers name no origin and always may.

    Raises:
        ServerError: if the port is taken.
    """
    try:
        server = _Server((host, port), codec, frozenset(origins))
    except (OSError, OverflowError) as error:
        raise ServerError(
            f"the codec server cannot listen on {host}:{port}: {error}; "
            "name another address or port, or stop the program that has this one"
        ) from error
    thread = threading.Thread(
        target=server.serve_forever, args=(0.1,), name="codec-server", daemon=True
    )
    thread.start()
    try:
        yield f"http://{host}:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def ui_origins(port: int) -> tuple[str, str]:
    """Return the origins of a Web UI on a loopback port, as browsers name them."""
    return (f"http://{LOCALHOST}:{port}", f"http://localhost:{port}")


class _Server(ThreadingTCPServer):
    """Listens; every connection has a thread that dies with the process."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 32

    def __init__(
        self, address: tuple[str, int], codec: PayloadCodec, origins: frozenset[str]
    ) -> None:
        super().__init__(address, _Handler)
        self.codec = codec
        self.origins = origins
        self.turns = threading.BoundedSemaphore(_AT_A_TIME)

    def handle_error(self, request: object, client_address: object) -> None:
        """Leave connections that broke off alone; report anything else."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Refused(Exception):
    """A request that gets an error as its answer."""

    def __init__(self, status: HTTPStatus, why: str) -> None:
        super().__init__(why)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    """Answers the requests of one connection."""

    protocol_version = "HTTP/1.1"
    server_version = "tierpool-codec"
    sys_version = ""
    timeout = _IDLE_SECONDS
    server: _Server

    def do_OPTIONS(self) -> None:
        """Tell a browser what its page may send."""
        try:
            self._check_origin()
        except _Refused as refused:
            self._answer(refused.status, str(refused).encode(), "text/plain")
            return
        self.send_response(HTTPStatus.NO_CONTENT)
        self._send_cors()
        self.send_header("Access-Control-Allow-Methods", "POST")
        self.send_header("Access-Control-Allow-Headers", _ALLOWED_HEADERS)
        self.send_header("Access-Control-Max-Age", "600")
        self.end_headers()

    def do_POST(self) -> None:
        """Encode or decode the payloads of the body."""
        try:
            self._check_origin()
            work = self._work()
            body = self._body()
            with self.server.turns:
                reply = asyncio.run(_converted(work, body))
        except _Refused as refused:
            self.close_connection = True  # the body may still be under way
            self._answer(refused.status, f"{refused}\n".encode(), "text/plain")
        else:
            self._answer(HTTPStatus.OK, reply, "application/json")

    def log_message(self, format: str, *args: object) -> None:
        """Write no line for each request."""

    def _check_origin(self) -> None:
        origin = self.headers.get("Origin")
        if origin is not None and origin not in self.server.origins:
            known = ", ".join(sorted(self.server.origins)) or "none"
            raise _Refused(
                HTTPStatus.FORBIDDEN,
                f"pages of {origin[:200]!r} may not use this codec server; "
                f"allowed: {known}",
            )

    def _work(self) -> _Work:
        path = self.path.partition("?")[0]
        if path == "/decode":
            return self.server.codec.decode
        if path == "/encode":
            return self.server.codec.encode
        raise _Refused(
            HTTPStatus.NOT_FOUND,
            f"{path[:200]!r} is not served here; POST to /decode or /encode",
        )

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            raise _Refused(
                HTTPStatus.LENGTH_REQUIRED, "the request needs a Content-Length"
            )
        if len(length) > 12 or int(length) > MAX_BYTES:
            raise _too_large(f"the request has {length[:20]} bytes")
        return self.rfile.read(int(length))

    def _answer(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self.send_response(status)
        self._send_cors()
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def _send_cors(self) -> None:
        self.send_header("Vary", "Origin")
        origin = self.headers.get("Origin")
        if origin in self.server.origins:
            self.send_header("Access-Control-Allow-Origin", origin)


async def _converted(work: _Work, body: bytes) -> bytes:
    """Run the codec over the payloads of a request's body, one by one.

    Raises:
        _Refused: for a body that is no payloads, and for what the codec refuses.
    """
    try:
        given = json_format.Parse(body, Payloads(), ignore_unknown_fields=True)
    except (json_format.ParseError, UnicodeDecodeError) as error:
        raise _Refused(
            HTTPStatus.BAD_REQUEST,
            'the body must be JSON like {"payloads": [{"metadata": {"encoding": '
            f'"<base64>"}}, "data": "<base64>"}}]}}: {str(error)[:200]}',
        ) from error
    made, size = Payloads(), 0
    for place, payload in enumerate(given.payloads):
        try:
            converted = await work([payload])
        except TierpoolError as error:
            raise _Refused(
                HTTPStatus.BAD_REQUEST, f"payloads[{place}]: {error}"
            ) from error
        size += sum(one.ByteSize() for one in converted)
        if size > MAX_BYTES:
            raise _too_large(f"the first {place + 1} payloads take {size:,} bytes")
        made.payloads.extend(converted)
    return json_format.MessageToJson(made, indent=None).encode()


def _too_large(what: str) -> _Refused:
    return _Refused(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"{what}; the limit is {MAX_BYTES:,}"
    )
