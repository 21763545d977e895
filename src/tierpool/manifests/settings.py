"""What the command line says about the cluster."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tierpool.errors import Problem

__all__ = ["Settings", "check_settings"]

_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_HOST = r"[A-Za-z0-9]+([.-]+[A-Za-z0-9]+)*"
_PART = r"[a-z0-9]+((\.|__?|-+)[a-z0-9]+)*"
_IMAGE = re.compile(
    rf"({_HOST}(:[0-9]{{1,5}})?/)?{_PART}(/{_PART})*"
    r"(:(?P<tag>\w[\w.-]{0,127})|(?=@))(@sha256:[0-9a-f]{64})?",
    re.ASCII,
)
"""As registries have it: a host, parts in small letters, a tag, a digest."""
_ADDRESS = re.compile(
    r"(?P<host>[A-Za-z0-9._-]+|\[[0-9a-fA-F:]+\]):(?P<port>[0-9]{1,5})"
)
_TEMPORAL_NAMESPACE = re.compile(r"[A-Za-z0-9][\w.-]{0,254}", re.ASCII)
_URL = re.compile(
    r"https?://([^\s/@?#:]+|\[[0-9a-fA-F:]+\])(:(?P<port>[0-9]{1,5}))?(/[^\s@?#]*)?"
)
_MAX_PORT = 65535


@dataclass(frozen=True, slots=True)
class Settings:
    """Where things are in the cluster."""

    image: str
    """Of all containers, with a tag or digest."""
    namespace: str | None = None
    """Of Kubernetes; None: the one that is current when the manifests are applied."""
    temporal_address: str = "temporal-frontend.temporal.svc.cluster.local:7233"
    temporal_namespace: str = "default"
    prometheus_url: str = "http://prometheus-server.monitoring.svc.cluster.local"
    """Asked by KEDA."""
    local_model_url: str = "http://model:8080/v1"
    """Where models named `local:…` without `base_url` are served."""


def check_settings(settings: Settings) -> list[Problem]:
    """Return everything that a cluster would not take, by option."""
    found = []

    def wrong(option: str, value: str, right: str) -> None:
        found.append(
            Problem(f"expected {right}", path=f"--{option}", value=repr(value))
        )

    image = _IMAGE.fullmatch(settings.image)
    if image is None or image["tag"] == "latest":
        wrong(
            "image",
            settings.image,
            "an image with a tag other than `latest`, or with a digest, such as "
            "registry.example/tierpool:0.1.0: else pods of one pool could differ",
        )
    if settings.namespace is not None and not _NAMESPACE.fullmatch(settings.namespace):
        right = "small letters, digits and hyphens, at most 63, such as agents"
        wrong("namespace", settings.namespace, right)
    address = _ADDRESS.fullmatch(settings.temporal_address)
    if address is None or not 0 < int(address["port"]) <= _MAX_PORT:
        right = "HOST:PORT without http://, such as temporal-frontend.temporal:7233"
        wrong("temporal-address", settings.temporal_address, right)
    if not _TEMPORAL_NAMESPACE.fullmatch(settings.temporal_namespace):
        right = "letters, digits, `.`, `_` and `-`, at most 255, such as default"
        wrong("temporal-namespace", settings.temporal_namespace, right)
    for option, url in (
        ("prometheus-url", settings.prometheus_url),
        ("local-model-url", settings.local_model_url),
    ):
        found_url = _URL.fullmatch(url)
        if found_url is None or not 0 < int(found_url["port"] or 1) <= _MAX_PORT:
            right = "an address without a password or query, such as http://host:9090"
            wrong(option, url, right)
    return found
