"""Metrics of the Temporal SDK: its own, and what calls count with its meter."""

from __future__ import annotations

import http.client
import socket
import urllib.request
from collections.abc import Mapping
from datetime import timedelta

from temporalio.runtime import PrometheusConfig, Runtime, TelemetryConfig

from tierpool.errors import ServerError
from tierpool.telemetry import HISTOGRAM_BUCKETS

__all__ = ["metrics_runtime", "sdk_exposition"]

_LOOPBACK = "127.0.0.1"
_TRIES = 5


def metrics_runtime(
    *,
    tags: Mapping[str, str] | None = None,
    heartbeat: timedelta = timedelta(seconds=60),
) -> tuple[Runtime, str]:
    """Make the SDK's runtime of this process, with metrics on a free loopback port.

    One for each process, before its first client: a client belongs to the
    runtime that it was made with, and each runtime has threads of its own. Names
    of counters end in `_total`, and those of durations in `_seconds`.

    Args:
        tags: Labels of every metric.
        heartbeat: How often workers tell the server that they live; 1 to 60 s.

    Returns:
        The runtime, and the URL where its metrics can be read.

    Raises:
        ServerError: if the SDK cannot listen.
        ValueError: for what the SDK does not accept.
    """
    for _ in range(_TRIES):
        # the SDK does not tell which port it took
        with socket.create_server((_LOOPBACK, 0)) as free:
            address = f"{_LOOPBACK}:{free.getsockname()[1]}"
        metrics = PrometheusConfig(
            bind_address=address,
            counters_total_suffix=True,
            unit_suffix=True,
            durations_as_seconds=True,
            histogram_bucket_overrides=HISTOGRAM_BUCKETS,
        )
        telemetry = TelemetryConfig(metrics=metrics, global_tags=tags or {})
        try:
            runtime = Runtime(telemetry=telemetry, worker_heartbeat_interval=heartbeat)
        except ValueError as error:
            if "Prometheus exporter" not in str(error):
                raise
            # another program took the port in between
        else:
            return runtime, f"http://{address}/metrics"
    tried = f"on {_LOOPBACK}, after {_TRIES} attempts"
    raise ServerError(f"the Temporal SDK got no port for its metrics {tried}")


def sdk_exposition(url: str, timeout: float) -> str:
    """Read the SDK's metrics; an empty text if they cannot be had.

    Args:
        url: As `metrics_runtime` returned it.
        timeout: Seconds that the endpoint may be silent.
    """
    # a proxy that the environment names is no way to an address of our own
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=timeout) as response:
            text: str = response.read().decode()
    except (OSError, http.client.HTTPException, ValueError):
        return ""
    return text
