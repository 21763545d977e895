"""Where a worker process listens for HTTP."""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass

import structlog

from tierpool.errors import UsageError

__all__ = ["Listen", "listening"]

_log = structlog.get_logger()

_LOOPBACK = "127.0.0.1"
_BACKLOG = 32
_MAX_PORT = 65535


@dataclass(frozen=True)
class Listen:
    """An address to listen on."""

    host: str = _LOOPBACK
    """Name or address; `0.0.0.0` or `::` for everyone who can reach this machine."""
    port: int = 8080
    """0 takes a free one."""
    required: bool = False
    """Whether a taken port is an error; otherwise another one is taken."""
    sock: socket.socket | None = None
    """Bound and listening already, such as a supervisor hands down; then nothing
    else counts."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= _MAX_PORT:
            raise UsageError(f"no port from 0 to {_MAX_PORT}: {self.port}")

    @classmethod
    def parse(cls, text: str, *, required: bool = False) -> Listen:
        """Read `HOST:PORT`, `PORT` or `:PORT`; without a host it is loopback.

        Raises:
            UsageError: naming what is wrong with the text and what would be right.
        """
        host, _, port = text.rpartition(":")
        if flaw := _flaw(text, host, port):
            raise UsageError(
                f"cannot listen on {text!r}: {flaw}; write HOST:PORT, PORT or :PORT, "
                f"such as {_LOOPBACK}:8080, 8080 or [::1]:8080"
            )
        return cls(host.strip("[]") or _LOOPBACK, int(port), required)


def _flaw(text: str, host: str, port: str) -> str:
    """Say what is wrong with an address; nothing if it can be used."""
    if "/" in text:
        return "this is a URL or a path"
    if not re.fullmatch("[0-9]{1,5}", port) or int(port) > _MAX_PORT:
        return f"{port!r} is no port from 0 to {_MAX_PORT}"
    if host.startswith("[") and host.endswith("]"):
        return "" if _is_ipv6(host[1:-1]) else f"{host!r} is no IPv6 address"
    if ":" in host:
        return "an IPv6 address needs brackets"
    if not re.fullmatch("[A-Za-z0-9._-]*", host):
        return f"{host!r} is no name or address"
    return ""


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def listening(listen: Listen) -> tuple[socket.socket, str]:
    """Return a listening socket, which never blocks, and its URL.

    Raises:
        UsageError: if the port is taken and required, or the address is none
            of this machine.
    """
    sock = listen.sock or _bound(listen)
    # another process may be faster on a socket that is shared
    sock.setblocking(False)
    host, port = sock.getsockname()[:2]
    return sock, f"http://{_written(host, port)}"


def _bound(listen: Listen) -> socket.socket:
    try:
        return _server_socket(listen.host, listen.port)
    except (OSError, UnicodeError) as error:
        if listen.required or not listen.port:
            raise _cannot(listen, error) from error
        first = error
    try:
        sock = _server_socket(listen.host, 0)
    except (OSError, UnicodeError):
        raise _cannot(listen, first) from first
    _log.warning(
        "endpoint.port_taken",
        host=listen.host,
        port=listen.port,
        instead=sock.getsockname()[1],
        error=str(first),
    )
    return sock


def _server_socket(host: str, port: int) -> socket.socket:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    # `localhost` has both, and IPv4 is what people mean
    family, *_, address = min(found, key=lambda one: one[0] != socket.AF_INET)
    return socket.create_server(address, family=family, backlog=_BACKLOG)


def _cannot(listen: Listen, error: Exception) -> UsageError:
    return UsageError(
        f"cannot listen on {_written(listen.host, listen.port)}: {error}; name "
        "another address or port, or stop the program that has this one"
    )


def _written(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
