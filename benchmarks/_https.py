"""The scripted provider behind HTTPS, with a certificate that a client can verify.

Run as a program it is the provider's process: prints one JSON line with its
address and answers until SIGTERM.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Self

from _processes import python
from aiohttp import web

from tierpool.testing.provider import ScriptedProvider, fitting_reply

__all__ = ["HOST", "OPENSSL", "Certificates", "https_provider", "make_certificates"]

HOST = "127.0.0.1"
OPENSSL = shutil.which("openssl")
"""The program that makes the certificates; None if it is not installed."""

_SETTINGS = f"""\
[req]
distinguished_name = name
prompt = no
[name]
CN = tierpool benchmark
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectAltName = IP:{HOST}
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""


@dataclass(frozen=True, slots=True)
class Certificates:
    """Files of a server, and what its clients trust."""

    server: Path
    key: Path
    trusted: Path
    """The authority that signed the server, and those this machine trusts."""


def make_certificates(folder: Path) -> Certificates:
    """Make an authority and a server that it has signed, for two days.

    The keys are P-256, as those of the large providers' servers are.

    Raises:
        RuntimeError: if openssl is missing or fails; with what it said.
    """
    settings, trusted = folder / "openssl.cnf", folder / "trusted.pem"
    settings.write_text(_SETTINGS)
    for name in ("authority", "server"):
        key = f"ecparam -name prime256v1 -genkey -noout -out {name}.key"
        request = f"req -new -config openssl.cnf -key {name}.key"
        _openssl(folder, key)
        _openssl(folder, f"{request} -subj /CN={name} -out {name}.csr")
    sign = "x509 -req -days 2 -set_serial {} -in {}.csr -out {}.pem"
    extend = "-extfile openssl.cnf -extensions {}"
    _openssl(
        folder,
        f"{sign.format(1, 'authority', 'authority')} -signkey authority.key "
        f"{extend.format('authority')}",
    )
    _openssl(
        folder,
        f"{sign.format(2, 'server', 'server')} -CA authority.pem "
        f"-CAkey authority.key {extend.format('server')}",
    )
    usual = ssl.get_default_verify_paths().cafile
    others = Path(usual).read_bytes() if usual else b""
    trusted.write_bytes((folder / "authority.pem").read_bytes() + others)
    return Certificates(folder / "server.pem", folder / "server.key", trusted)


def _openssl(folder: Path, arguments: str) -> None:
    if OPENSSL is None:
        raise RuntimeError("openssl is not installed")
    done = subprocess.run(
        [OPENSSL, *arguments.split()],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"openssl {arguments}: {done.stderr.strip()}")


@asynccontextmanager
async def https_provider(
    files: Certificates, delay: float, log: Path
) -> AsyncIterator[str]:
    """Run a provider in a process of its own until the block ends; yield its address.

    Args:
        files: Its certificate.
        delay: Seconds that a reply takes.
        log: Gets what the process writes to its standard error.
    """
    arguments = ("--certificate", str(files.server), "--key", str(files.key))
    async with python(__file__, *arguments, "--delay", str(delay), log=log) as provider:
        address: str = provider.said["base_url"]
        yield address


class _HttpsProvider(ScriptedProvider):
    """Also listens with TLS, on a port of its own."""

    def __init__(self, tls: ssl.SSLContext) -> None:
        super().__init__(host=HOST, keep_requests=0)
        self._tls = tls

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        assert self._runner is not None
        await web.TCPSite(self._runner, HOST, 0, ssl_context=self._tls).start()
        host, port = self._runner.addresses[-1][:2]
        self.base_url = f"https://{host}:{port}"
        return self


async def _serve(args: argparse.Namespace) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(args.certificate, args.key)
    provider = _HttpsProvider(tls)
    provider.default(fitting_reply(delay=timedelta(seconds=args.delay)))
    async with provider:
        print(json.dumps({"base_url": provider.base_url, "pid": os.getpid()}))
        sys.stdout.flush()
        await stop.wait()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/_https.py")
    parser.add_argument("--certificate", required=True, help="the server's, PEM")
    parser.add_argument("--key", required=True, help="the certificate's, PEM")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds of a reply")
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(_serve(_options()))
