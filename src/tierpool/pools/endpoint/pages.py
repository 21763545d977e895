"""The pages of a worker process, made from its report."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from http import HTTPStatus
from typing import NamedTuple, TypeAlias

import structlog
from pydantic_core import to_json

from tierpool.contracts.reports import WorkerReport
from tierpool.pools.endpoint.metrics import CONTENT_TYPE, exposition, merged
from tierpool.pools.endpoint.sdk_metrics import sdk_exposition

__all__ = ["Page", "Report", "Source", "page_at", "refusal"]

_log = structlog.get_logger()

Report: TypeAlias = Callable[[], WorkerReport]
"""Tells how a worker process is; may be called on its event loop only."""

_ANSWER_SECONDS = 2.0
"""Time that the event loop has for a report, and the SDK for its metrics."""
_SILENT_SECONDS = 30.0
"""A process that has not heard the server for so long gets no work from it."""
_PATHS = ("/metrics", "/health", "/ready")


class _NoReport(Exception):
    """The event loop gave no report; says why."""


class Source(NamedTuple):
    """Where answers come from."""

    report: Report
    loop: asyncio.AbstractEventLoop
    sdk_metrics: str | None

    def ask(self) -> WorkerReport:
        """Get a report from the event loop; call this on any other thread."""
        coroutine = self._reported()
        try:
            future = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        except RuntimeError as error:
            coroutine.close()
            raise _NoReport("the process is stopping") from error
        try:
            return future.result(_ANSWER_SECONDS)
        except TimeoutError as error:
            future.cancel()
            raise _NoReport(
                f"the event loop has not answered for {_ANSWER_SECONDS:g} s"
            ) from error
        except Exception as error:
            # its text may quote anything
            name = type(error).__name__
            _log.warning("endpoint.report_failed", error=name)
            raise _NoReport(f"the report failed with {name}") from error

    async def _reported(self) -> WorkerReport:
        return self.report()

    def metrics(self) -> str:
        """Write our metrics, and the SDK's if they can be had."""
        ours = exposition(self.ask())
        if self.sdk_metrics is None:
            return ours
        return merged(ours, sdk_exposition(self.sdk_metrics, _ANSWER_SECONDS))


class Page(NamedTuple):
    """An answer; its body is JSON unless it says otherwise."""

    status: HTTPStatus
    body: bytes
    kind: str = "application/json"


def page_at(path: str, source: Source) -> Page:
    """Answer a GET of a path."""
    try:
        if path == "/metrics":
            return Page(HTTPStatus.OK, source.metrics().encode(), CONTENT_TYPE)
        if path == "/health":
            return Page(HTTPStatus.OK, to_json(source.ask().whole()))
        if path == "/ready":
            return _readiness(_unready(source.ask()))
    except _NoReport as error:
        if path == "/ready":
            return _readiness(str(error))
        return refusal(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
    return refusal(
        HTTPStatus.NOT_FOUND,
        f"{path[:200]!r} is not served here; there are {', '.join(_PATHS)}",
    )


def _unready(report: WorkerReport) -> str:
    """Say why a process should get no work yet or no more; empty if it should."""
    if report.state != "running":
        return report.state
    if report.silent_seconds > _SILENT_SECONDS:
        seconds = f"{report.silent_seconds:.0f} s"
        return f"the Temporal server has not answered for {seconds}"
    troubles = (f"pool {p.pool}: {p.trouble}" for p in report.pools if p.trouble)
    return "; ".join(troubles)


def _readiness(reason: str) -> Page:
    if not reason:
        return Page(HTTPStatus.OK, json.dumps({"ready": True}).encode())
    body = json.dumps({"ready": False, "reason": reason})
    return Page(HTTPStatus.SERVICE_UNAVAILABLE, body.encode())


def refusal(status: HTTPStatus, why: str) -> Page:
    """Make a page of an error."""
    return Page(status, json.dumps({"error": why}).encode())
