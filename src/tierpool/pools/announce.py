"""Worker processes announce themselves in the server's registry of workers.

Temporal keeps what its SDKs' workers report, in memory and without history, and
lists it to everybody who reaches the server. A process of a fleet puts one
entry of its own there, with its report where plugins stand. Whoever reads it
needs no connection to the process.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import structlog
from pydantic import ValidationError
from temporalio.api.enums.v1 import WorkerStatus
from temporalio.api.worker.v1 import PluginInfo, WorkerHeartbeat, WorkerHostInfo
from temporalio.api.workflowservice.v1 import (
    ListWorkersRequest,
    RecordWorkerHeartbeatRequest,
)
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from tierpool.contracts.reports import WorkerReport
from tierpool.pools.report import Reporter
from tierpool.pools.statistics import queue_statistics, together

__all__ = [
    "EVERY",
    "SILENT",
    "announced",
    "living",
    "living_workers",
    "say",
    "say_again_and_again",
]

EVERY = timedelta(seconds=5)
"""Time between two reports of a process."""

SILENT = timedelta(seconds=30)
"""Who has not reported for so long counts as gone."""

_SDK_NAME = "tierpool"
_ENTRY = "tierpool.WorkerReport"
_PAGE = 200
_TIMEOUT = timedelta(seconds=3)
_LIST_TIMEOUT = timedelta(seconds=10)

_log = structlog.get_logger()


async def say_again_and_again(client: Client, reporter: Reporter) -> None:
    """Announce this process until cancelled; also ask what waits on its queues.

    Nothing depends on it, so a server that cannot do it is told of once.
    """
    told = False
    while True:
        try:
            with suppress(RPCError):  # then nothing is known of backlogs
                await _look(client, reporter)
            await say(client, reporter)
            reporter.heard, told = time.monotonic(), False
        except RPCError as error:
            if error.status is RPCStatusCode.UNIMPLEMENTED:
                reporter.heard = time.monotonic()  # an answer, too
            if not told:
                _log.warning("status.not_announced", reason=error.message)
            told = True
        with suppress(TimeoutError):
            await asyncio.wait_for(reporter.news.wait(), EVERY.total_seconds())
        reporter.news.clear()


async def say(client: Client, reporter: Reporter, *, gone: bool = False) -> None:
    """Announce this process once, or take its entry back.

    Raises:
        RPCError: if the server does not take it.
    """
    report = reporter.report().short()
    status = WorkerStatus.WORKER_STATUS_RUNNING
    if report.state == "draining":
        status = WorkerStatus.WORKER_STATUS_SHUTTING_DOWN
    if gone:
        status = WorkerStatus.WORKER_STATUS_SHUTDOWN
    entry = WorkerHeartbeat(
        worker_instance_key=report.id,
        worker_identity=client.identity,
        host_info=WorkerHostInfo(host_name=report.host, process_id=str(report.pid)),
        task_queue=f"{report.fleet}-{report.serves[0]}" if report.serves else "",
        sdk_name=_SDK_NAME,
        sdk_version=report.version,
        status=status,
        plugins=[PluginInfo(name=_ENTRY, version=report.model_dump_json())],
    )
    entry.start_time.FromDatetime(report.started)
    entry.heartbeat_time.FromDatetime(report.at)
    entry.activity_task_slots_info.current_used_slots = report.busy
    entry.activity_task_slots_info.slot_supplier_kind = "tierpool"
    entry.activity_task_slots_info.total_processed_tasks = report.calls
    await client.workflow_service.record_worker_heartbeat(
        RecordWorkerHeartbeatRequest(
            namespace=client.namespace,
            identity=client.identity,
            worker_heartbeat=[entry],
        ),
        timeout=_TIMEOUT,
    )


def living(reports: Sequence[WorkerReport], now: datetime) -> list[WorkerReport]:
    """Return those that have reported lately; clocks of machines may differ a little."""
    return [report for report in reports if now - report.at <= SILENT]


async def living_workers(client: Client, fleet: str) -> list[WorkerReport] | None:
    """Return the processes that have reported lately; None as for `announced`.

    Raises:
        RPCError: if the server does not answer.
    """
    found = await announced(client, fleet)
    return None if found is None else living(found, datetime.now(UTC))


async def announced(client: Client, fleet: str) -> list[WorkerReport] | None:
    """Return what the processes of a fleet said last, the oldest process first.

    Who was killed stands there for some minutes. None if the server keeps no such
    registry.

    Raises:
        RPCError: if it does not answer.
    """
    found: list[WorkerReport] = []
    token = b""
    while True:
        try:
            page = await client.workflow_service.list_workers(
                ListWorkersRequest(
                    namespace=client.namespace,
                    page_size=_PAGE,
                    next_page_token=token,
                    query=f'SdkName="{_SDK_NAME}"',
                ),
                timeout=_LIST_TIMEOUT,
            )
        except RPCError as error:
            if error.status is RPCStatusCode.UNIMPLEMENTED:
                return None
            raise
        found += filter(None, (_read(w.worker_heartbeat) for w in page.workers_info))
        token = page.next_page_token
        if not token:
            break
    mine = [report for report in found if report.fleet == fleet]
    return sorted(mine, key=lambda report: (report.started, report.id))


def _read(entry: WorkerHeartbeat) -> WorkerReport | None:
    for plugin in entry.plugins:
        if plugin.name == _ENTRY:
            try:
                return WorkerReport.model_validate_json(plugin.version)
            except ValidationError:
                return None  # of a version that we do not understand
    return None


async def _look(client: Client, reporter: Reporter) -> None:
    for name, gate in reporter.gates.items():
        queues = [*gate.throttles] or [f"{reporter.fleet}-{name}"]
        asked = [queue_statistics(client, queue) for queue in queues]
        reporter.statistics[name] = together(await asyncio.gather(*asked))
