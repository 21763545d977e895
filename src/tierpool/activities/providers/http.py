"""HTTP clients of the providers: limits, TLS, and what is this machine."""

from __future__ import annotations

import ipaddress
import ssl
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

import httpx2

from tierpool.activities.providers.base import ProviderCall

__all__ = ["http_client", "place_of", "request_timeout"]

_LOCAL_KEEPALIVE_SECONDS: Final = 2.0
_OWN_KEEPALIVE_SECONDS: Final = 60.0
_CONNECT_SECONDS = 10.0


def http_client(
    address: str | None, usual: type[httpx2.AsyncClient]
) -> httpx2.AsyncClient:
    """Return an HTTP client for an address; None is the provider's own.

    All share one TLS configuration, which takes 25 ms to read. For this machine
    proxies are ignored: an HTTP_PROXY in the environment would be asked for
    127.0.0.1 otherwise. Idle connections to it are let go early: small local
    servers close theirs after 5 s, the SDK's own limit too, and a call on a
    connection that just closed is ambiguous. The providers' own addresses keep
    theirs for minutes, so an instance there stays connected.

    Args:
        address: The provider's.
        usual: The SDK's own class, with its limits and timeouts.
    """
    host = urlsplit(address).hostname if address else None
    if host is None:
        return usual(verify=_tls(), limits=_limits(_OWN_KEEPALIVE_SECONDS))
    if not _is_loopback(host):
        return usual(verify=_tls())
    limits = _limits(_LOCAL_KEEPALIVE_SECONDS)
    return httpx2.AsyncClient(trust_env=False, limits=limits, verify=_tls())


def _limits(keepalive: float) -> httpx2.Limits:
    return httpx2.Limits(
        max_connections=1000,
        max_keepalive_connections=100,
        keepalive_expiry=keepalive,
    )


@lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    return httpx2.create_ssl_context()


def request_timeout(call: ProviderCall) -> httpx2.Timeout:
    """Return the limits of one request; waiting for a connection takes half at most."""
    seconds = call.timeout.total_seconds()
    return httpx2.Timeout(
        seconds, connect=min(_CONNECT_SECONDS, seconds / 2), pool=seconds / 2
    )


def place_of(address: str) -> str:
    """Name a server without what else an address can hold: a password, a token."""
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
