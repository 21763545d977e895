"""What an autoscaler answers over HTTP: `/metrics`, `/health` and `/ready`."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tierpool import telemetry
from tierpool.pools.autoscaler.loop import Autoscaler
from tierpool.pools.endpoint import Listen
from tierpool.pools.endpoint.metrics import CONTENT_TYPE
from tierpool.pools.endpoint.pages import Page, refusal
from tierpool.pools.endpoint.server import serve_pages

__all__ = ["serve_autoscaler"]

_SILENT_STEPS = 6
"""Who has not decided for so many periods hangs."""
_SILENT_SECONDS = 120.0


@asynccontextmanager
async def serve_autoscaler(scaler: Autoscaler, listen: Listen) -> AsyncIterator[str]:
    """Answer over HTTP until the block ends; yields the URL, without a path.

    Raises:
        UsageError: if the port is taken and required, or the address is none
            of this machine.
    """
    registry = CollectorRegistry()
    registry.register(_Decided(scaler))
    ProcessCollector(registry=registry)

    def answer(path: str) -> Page:
        if path == "/metrics":
            return Page(HTTPStatus.OK, generate_latest(registry), CONTENT_TYPE)
        if path in ("/health", "/ready"):
            return _wellbeing(scaler)
        why = f"{path[:200]!r} is not served here; there are /metrics, /health, /ready"
        return refusal(HTTPStatus.NOT_FOUND, why)

    async with serve_pages(answer, listen) as url:
        yield url


def _wellbeing(scaler: Autoscaler) -> Page:
    """Say how it is; well is who looks, also if it does not lead or the server is gone."""
    age = scaler.clock() - scaler.looked_at
    hangs = age > max(_SILENT_SECONDS, _SILENT_STEPS * scaler.every)
    about: dict[str, Any] = {
        "fleet": scaler.fleet.name,
        "leads": scaler.leads,
        "act": scaler.target.name,
        "looked_seconds_ago": round(age, 1),
        "trouble": scaler.trouble,
        "decisions": [one.model_dump(mode="json") for one in scaler.decisions],
    }
    status = HTTPStatus.SERVICE_UNAVAILABLE if hangs else HTTPStatus.OK
    return Page(status, json.dumps(about).encode())


class _Decided(Collector):
    """The last decisions; of one that does not lead none, so that they are there once."""

    def __init__(self, scaler: Autoscaler) -> None:
        self._scaler = scaler

    def collect(self) -> list[Metric]:
        """See base class."""
        fleet, leads = self._scaler.fleet.name, self._scaler.leads
        desired = _gauge(telemetry.METRIC_DESIRED, "pool", "constraint")
        workers = _gauge(telemetry.METRIC_DESIRED_WORKERS, "pool")
        for one in self._scaler.decisions if leads else ():
            desired.add_metric((fleet, one.pool, one.constraint), one.instances)
            workers.add_metric((fleet, one.pool), one.workers)
        leading = _gauge(telemetry.METRIC_AUTOSCALER_LEADS)
        leading.add_metric((fleet,), leads)
        trouble = _gauge(telemetry.METRIC_AUTOSCALER_TROUBLE)
        trouble.add_metric((fleet,), bool(self._scaler.trouble))
        return [desired, workers, leading, trouble]


def _gauge(name: str, *labels: str) -> GaugeMetricFamily:
    words = telemetry.AUTOSCALER_METRICS[name]
    return GaugeMetricFamily(name, words, labels=("fleet", *labels))
