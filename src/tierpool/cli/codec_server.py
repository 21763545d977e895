"""`tierpool codec-server`: lets a Web UI show compressed payloads."""

from __future__ import annotations

import argparse
import asyncio
import os
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from tierpool.cli.common import DONE, console, print_json
from tierpool.codec import ZlibCodec
from tierpool.devserver.codec_server import serve_codec
from tierpool.errors import UsageError
from tierpool.worker import stop_on_signals

_PORTS = {"http": 80, "https": 443}


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the sub-parser."""
    this = commands.add_parser(
        "codec-server", parents=[common],
        help="decode payloads for a Web UI; `tierpool dev` has one of its own",
    )  # fmt: skip
    this.add_argument("--port", type=int, default=8234, help="default %(default)s")
    this.add_argument(
        "--host", default="127.0.0.1",
        help="address to listen on (default %(default)s); nobody is asked who they are",
    )  # fmt: skip
    this.add_argument(
        "--origin", action="append", default=[], metavar="URL",
        help="a Web UI that may use it, such as http://127.0.0.1:8233; repeatable",
    )  # fmt: skip
    this.set_defaults(command=command)


async def command(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or Ctrl-C."""
    origins = [_origin(url) for url in args.origin]
    stop = asyncio.Event()
    served = serve_codec(ZlibCodec(), port=args.port, host=args.host, origins=origins)
    with stop_on_signals(stop, timedelta()), served as endpoint:
        if args.json:
            print_json({"ready": True, "codec": endpoint, "pid": os.getpid()})
        else:
            pages = ", ".join(origins) or "no web page; name one with --origin"
            console.print(f"codec    {endpoint} for {pages}")
        await stop.wait()
    return DONE


def _origin(url: str) -> str:
    """Return an origin as browsers name it: scheme, host and port, no path.

    Raises:
        UsageError: if the URL is something else.
    """
    try:
        parts = urlsplit(url)
        scheme, host, port = parts.scheme.lower(), parts.hostname, parts.port
    except ValueError:  # a port that is no number, an address that is none
        scheme, host, port = "", None, None
    more = parts.path.strip("/") or parts.query or parts.fragment if host else ""
    if scheme not in _PORTS or not host or more or "@" in parts.netloc:
        raise UsageError(
            f"--origin {url!r} is no origin of a web page; "
            "it looks like http://127.0.0.1:8233"
        )
    name = f"[{host}]" if ":" in host else host
    return f"{scheme}://{name}" + (
        f":{port}" if port not in (None, _PORTS[scheme]) else ""
    )
