"""What a supervisor answers over HTTP: its processes, and all their metrics."""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tierpool import telemetry
from tierpool.pools.endpoint import Listen
from tierpool.pools.endpoint.metrics import CONTENT_TYPE
from tierpool.pools.endpoint.pages import Page, refusal
from tierpool.pools.endpoint.server import serve_pages
from tierpool.pools.processes.children import Child
from tierpool.pools.processes.labelled import labelled
from tierpool.pools.processes.supervisor import Supervisor

__all__ = ["serve_supervisor"]

_STATES = ("starting", "running", "trouble", "silent", "draining")
_ENDS = ("drained", "died")
_ANSWER_SECONDS = 5.0
_CHILD_SECONDS = 4.0
"""A child takes two for its report, and two for the SDK's metrics."""


@asynccontextmanager
async def serve_supervisor(
    supervisor: Supervisor, listen: Listen
) -> AsyncIterator[str]:
    """Answer over HTTP until the block ends; yields the URL, without a path.

    Raises:
        ServerError: if the port is taken and required, or the address is none
            of this machine.
    """
    loop = asyncio.get_running_loop()

    def answer(path: str) -> Page:
        """Let the event loop answer; called on other threads."""
        coroutine = _page(path, supervisor)
        try:
            future = asyncio.run_coroutine_threadsafe(coroutine, loop)
        except RuntimeError:
            coroutine.close()
            return refusal(HTTPStatus.SERVICE_UNAVAILABLE, "the supervisor has ended")
        try:
            return future.result(_ANSWER_SECONDS)
        except TimeoutError:
            future.cancel()
            return refusal(HTTPStatus.SERVICE_UNAVAILABLE, "the event loop is blocked")

    async with serve_pages(answer, listen) as url:
        yield url


async def _page(path: str, supervisor: Supervisor) -> Page:
    if path == "/health":
        return _json(HTTPStatus.OK, _health(supervisor))
    if path == "/ready":
        return _readiness(supervisor)
    if path == "/metrics":
        text = await _metrics(supervisor)
        return Page(HTTPStatus.OK, text.encode(), CONTENT_TYPE)
    paths = "/metrics, /health, /ready"
    why = f"{path[:200]!r} is not served here; there are {paths}"
    return refusal(HTTPStatus.NOT_FOUND, why)


def _json(status: HTTPStatus, document: Any) -> Page:
    return Page(status, json.dumps(document).encode())


def _health(supervisor: Supervisor) -> dict[str, Any]:
    children = sorted(supervisor.children.values(), key=lambda child: child.index)
    return {
        "state": "draining" if supervisor.stopping else "running",
        "pid": os.getpid(),
        "least": supervisor.limits.least,
        "most": supervisor.limits.most,
        "wanted": supervisor.state.wanted,
        "ready": supervisor.ready,
        "processes": [_child(child) for child in children],
    }


def _child(child: Child) -> dict[str, Any]:
    report, now = child.report, child.clock()
    about: dict[str, Any] = {
        "index": child.index,
        "pid": child.pid,
        "state": child.state,
        "port": child.port,
        "age_seconds": round(now - child.started, 1),
        "answered_seconds_ago": round(now - child.answered, 1),
        "reason": child.why or child.view().trouble,
    }
    if report is not None:
        about |= {
            "id": report.id,
            "calls": report.calls,
            "busy": report.busy,
            "memory_bytes": report.memory_bytes,
        }
    return about


def _readiness(supervisor: Supervisor) -> Page:
    ready, least = supervisor.ready, supervisor.limits.least
    if ready >= least and not supervisor.stopping:
        return _json(HTTPStatus.OK, {"ready": True})
    reason = "draining" if supervisor.stopping else f"{ready} of {least} are ready"
    return _json(HTTPStatus.SERVICE_UNAVAILABLE, {"ready": False, "reason": reason})


async def _metrics(supervisor: Supervisor) -> str:
    """Put the metrics of all that answer together; our own have no label."""
    children = list(supervisor.children.values())
    texts = await asyncio.gather(
        *(child.page("/metrics", _CHILD_SECONDS) for child in children)
    )
    found = [
        (str(child.index), text.decode())
        for child, text in zip(children, texts, strict=True)
        if text is not None
    ]
    registry = CollectorRegistry()
    registry.register(_Counted(supervisor))
    own = CollectorRegistry()
    ProcessCollector(registry=own)
    found.append(("supervisor", generate_latest(own).decode()))
    return generate_latest(registry).decode() + labelled("process", found)


class _Counted(Collector):
    """Counts the processes."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def collect(self) -> list[Metric]:
        """See base class."""
        states = Counter(child.state for child in self._supervisor.children.values())
        running = GaugeMetricFamily(
            telemetry.METRIC_PROCESSES,
            telemetry.METRICS[telemetry.METRIC_PROCESSES],
            labels=("state",),
        )
        for state in _STATES:
            running.add_metric((state,), states[state])
        ended = CounterMetricFamily(
            telemetry.METRIC_PROCESSES_ENDED,
            telemetry.METRICS[telemetry.METRIC_PROCESSES_ENDED],
            labels=("how",),
        )
        for how in _ENDS:
            ended.add_metric((how,), self._supervisor.ends[how])
        return [running, ended]
