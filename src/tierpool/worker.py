"""Runs the workers of a fleet in this process and drains them on SIGTERM.

What a worker becomes is decided by its task queue (see `plugin`); here is
which queues this process polls, and its life from the first check to the last
attempt in flight.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import structlog
from temporalio.client import Client
from temporalio.worker import Worker

from tierpool import __version__
from tierpool.activities.providers.base import close_providers, provider_for
from tierpool.attributes import ensure_search_attributes
from tierpool.client import fleet_of, pools_of
from tierpool.config.credentials import missing_credentials
from tierpool.errors import ConfigError, TierpoolError, UnknownName
from tierpool.fleet import LoadedFleet

__all__ = ["DEFAULT_GRACE", "Served", "exit_now", "run_workers", "stop_on_signals"]

DEFAULT_GRACE = timedelta(seconds=300)
"""How long attempts in flight may go on after SIGTERM."""

_HARD_STOP = timedelta(seconds=15)
"""A shutdown that hangs longer than grace plus this is ended by force."""

_BUILD_ID = f"tierpool-{__version__}"
"""Given, because working one out costs the first worker 0.4 s."""

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Served:
    """Which parts of a fleet this process runs."""

    flows: bool = False
    tools: bool = False
    pools: tuple[str, ...] = ()

    @staticmethod
    def everything(fleet: LoadedFleet) -> Served:
        """Serve the whole fleet in one process."""
        return Served(flows=True, tools=True, pools=tuple(fleet.fleet.tiers))

    def queues(self, fleet: LoadedFleet) -> list[str]:
        """Return the task queues to poll; a pool with 0 instances is paused.

        Raises:
            UnknownName: for a pool that the fleet does not have.
        """
        tiers = fleet.fleet.tiers
        for name in self.pools:
            if name not in tiers:
                raise UnknownName("pool", name, tiers)
        active = [name for name in self.pools if tiers[name].pool.max_instances]
        queues = [queue for name in active for queue in fleet.queues[name]]
        queues += [f"{fleet.name}-tools"] if self.tools else []
        return queues + ([f"{fleet.name}-flows"] if self.flows else [])


async def run_workers(
    client: Client,
    served: Served,
    stop: asyncio.Event,
    *,
    grace: timedelta = DEFAULT_GRACE,
    on_ready: Callable[[Sequence[str]], None] | None = None,
) -> None:
    """Run the workers until `stop` is set, then drain them.

    Args:
        client: A client with TierpoolPlugin.
        served: What to run.
        stop: Set to begin draining.
        grace: How long attempts in flight may go on.
        on_ready: Told the task queues once all workers poll.

    Raises:
        ConfigError: if a pool of this process lacks a credential.
        TierpoolError: if there is nothing to run.
    """
    fleet = fleet_of(client)
    queues = served.queues(fleet)
    problems = missing_credentials(fleet, served.pools)
    if problems:
        raise ConfigError(problems)
    if not queues:
        raise TierpoolError("nothing to run: every pool named has max_instances 0")
    _import_providers(fleet, served)
    await ensure_search_attributes(client)
    pools = [pools_of(client)[name] for name in served.pools]
    await asyncio.gather(*(pool.ready() for pool in pools))
    tending = [asyncio.create_task(pool.tend()) for pool in pools]
    workers = [_worker(client, queue, grace) for queue in queues]
    try:
        await _until_stopped(workers, stop, lambda: _ready(queues, on_ready))
    finally:
        for task in tending:
            task.cancel()
        await asyncio.gather(*(pool.close() for pool in pools))
        await close_providers()


def _worker(client: Client, queue: str, grace: timedelta) -> Worker:
    return Worker(
        client, task_queue=queue, graceful_shutdown_timeout=grace, build_id=_BUILD_ID
    )


def _ready(
    queues: Sequence[str], on_ready: Callable[[Sequence[str]], None] | None
) -> None:
    _log.info("worker.started", queues=list(queues), pid=os.getpid())
    if on_ready is not None:
        on_ready(queues)


async def _until_stopped(
    workers: Sequence[Worker], stop: asyncio.Event, started: Callable[[], None]
) -> None:
    """Run all workers; the first that fails stops them all and is raised."""
    running = [asyncio.create_task(worker.run()) for worker in workers]
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.sleep(0)
        started()
        await asyncio.wait([stopping, *running], return_when=asyncio.FIRST_COMPLETED)
        _log.info("worker.draining", workers=len(workers))
    finally:
        stopping.cancel()
        await asyncio.gather(*(worker.shutdown() for worker in workers))
        results = await asyncio.gather(*running, return_exceptions=True)
    _log.info("worker.stopped")
    for result in results:
        if isinstance(result, Exception):
            raise result


def _import_providers(fleet: LoadedFleet, served: Served) -> None:
    """Import the SDKs before the first call needs them."""
    for name in served.pools:
        for model in fleet.snapshot.tiers[name].models:
            provider_for(model.model)


@contextmanager
def stop_on_signals(stop: asyncio.Event, grace: timedelta) -> Iterator[None]:
    """Drain on the first SIGTERM or Ctrl-C, abort on the second.

    A shutdown that outlives the grace period by 15 s is ended by force: the
    SDK's own can hang (temporalio/sdk-python#1557).
    """
    loop = asyncio.get_running_loop()
    handles: list[asyncio.TimerHandle] = []

    def received() -> None:
        if stop.is_set():
            _log.warning("worker.aborted", reason="second signal")
            exit_now(1)
        stop.set()
        deadline = (grace + _HARD_STOP).total_seconds()
        handles.append(loop.call_later(deadline, _force))

    signals = (signal.SIGTERM, signal.SIGINT)
    for number in signals:
        loop.add_signal_handler(number, received)
    try:
        yield
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
        for handle in handles:
            handle.cancel()


def _force() -> None:
    _log.error("worker.aborted", reason="the shutdown outlived its grace period")
    exit_now(1)


def exit_now(code: int) -> None:
    """Flush and end the process without running finalizers.

    At interpreter exit the SDK's threads can abort the process with status
    134 (temporalio/sdk-python#300).
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
