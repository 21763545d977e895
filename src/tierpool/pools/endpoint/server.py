"""What a worker process answers over HTTP: `/metrics`, `/health` and `/ready`.

A thread of the process serves them, and asks the event loop for each answer:
a loop that is blocked shows as a process that is not well. Nobody is asked who
they are, and nothing secret is told.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import socket

from tierpool.pools.endpoint.listen import Listen, listening
from tierpool.pools.endpoint.pages import Page, Report, Source, page_at, refusal

__all__ = ["serve_endpoint", "serve_pages"]

_IDLE_SECONDS = 10


@asynccontextmanager
async def serve_endpoint(
    report: Report, listen: Listen, *, sdk_metrics: str | None = None
) -> AsyncIterator[str]:
    """Answer over HTTP until the block ends; yields the URL, without a path.

    Args:
        report: Called on the event loop that this is entered on.
        listen: Where; a given socket is closed at the end.
        sdk_metrics: URL of the Temporal SDK's own Prometheus endpoint, whose
            metrics are added; without an answer from there they are left out.

    Raises:
        UsageError: if the port is taken and required, or the address is none
            of this machine.
    """
    source = Source(report, asyncio.get_running_loop(), sdk_metrics)
    async with serve_pages(lambda path: page_at(path, source), listen) as url:
        yield url


@asynccontextmanager
async def serve_pages(
    answer: Callable[[str], Page], listen: Listen
) -> AsyncIterator[str]:
    """Answer each GET with a page until the block ends; yields the URL, without a path.

    Args:
        answer: Makes the page of a path; called on threads of its own.
        listen: Where; a given socket is closed at the end.

    Raises:
        UsageError: if the port is taken and required, or the address is none
            of this machine.
    """
    sock, url = listening(listen)
    with _Server(sock, answer) as server:
        threading.Thread(
            target=server.serve_forever, args=(0.1,), name="endpoint", daemon=True
        ).start()
        try:
            yield url
        finally:
            await asyncio.to_thread(server.shutdown)  # takes a tenth of a second


class _Server(ThreadingHTTPServer):
    """Serves a listening socket; every connection has a thread of its own."""

    def __init__(self, sock: socket, answer: Callable[[str], Page]) -> None:
        super().__init__(("", 0), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = sock
        self.answer = answer

    def handle_error(self, request: object, client_address: object) -> None:
        """Leave connections that broke off alone; report anything else."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    """Answers the one request of a connection."""

    protocol_version = "HTTP/1.1"
    server_version = "tierpool"
    sys_version = ""
    timeout = _IDLE_SECONDS
    server: _Server

    def parse_request(self) -> bool:
        """Refuse every method that would change something."""
        if not super().parse_request():
            return False
        if self.command in ("GET", "HEAD"):
            return True
        why = f"{self.command[:20]} is not allowed; only GET and HEAD are"
        self._send(refusal(HTTPStatus.METHOD_NOT_ALLOWED, why))
        return False

    def do_GET(self) -> None:
        """Answer with a page; to HEAD with its headers only."""
        self._send(self.server.answer(self.path.partition("?")[0]))

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Write no line for each request."""

    def _send(self, page: Page) -> None:
        # a kept connection would be answered after the end of the endpoint
        self.close_connection = True
        self.send_response(page.status)
        if page.status is HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        self.send_header("Content-Type", page.kind)
        self.send_header("Content-Length", str(len(page.body)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(page.body)
