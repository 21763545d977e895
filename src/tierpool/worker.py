"""Runs the workers of a fleet in this process and drains them on SIGTERM.

What a worker becomes is decided by its task queue (see `plugin`); here is
which queues this process polls, and its life from the first check to the last
attempt in flight.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import structlog
from temporalio.client import Client
from temporalio.service import RPCError
from temporalio.worker import Worker

from tierpool import __version__
from tierpool.activities.providers.base import close_providers, provider_for
from tierpool.attributes import ensure_search_attributes
from tierpool.client import fleet_of, gates_of, lease_of
from tierpool.config.credentials import missing_credentials
from tierpool.errors import ConfigError, TierpoolError, UnknownName
from tierpool.fleet import LoadedFleet, fixed_parts
from tierpool.pools.announce import say, say_again_and_again
from tierpool.pools.endpoint import Listen, serve_endpoint
from tierpool.pools.limits import Follower
from tierpool.pools.report import Reporter
from tierpool.replies import check_schema

__all__ = ["DEFAULT_GRACE", "Served", "exit_now", "run_workers", "stop_on_signals"]

DEFAULT_GRACE = timedelta(seconds=300)
"""How long attempts in flight may go on after SIGTERM."""

_HARD_STOP = timedelta(seconds=15)
"""A shutdown that hangs longer than grace plus this is ended by force."""

_STUMBLED_SECONDS = 5.0

_BUILD_ID = f"tierpool-{__version__}"
"""Given, because working one out costs the first worker 0.4 s."""

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Served:
    """Which parts of a fleet this process runs."""

    flows: bool = False
    tools: bool = False
    pools: tuple[str, ...] = ()
    control: bool = False

    @staticmethod
    def everything(fleet: LoadedFleet) -> Served:
        """Serve the whole fleet in one process."""
        return Served(True, True, tuple(fleet.fleet.tiers), control=True)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of what is served: tiers, `tools`, `flows`, `control`."""
        others = {"tools": self.tools, "flows": self.flows, "control": self.control}
        return (*self.pools, *(name for name, wanted in others.items() if wanted))

    def queues(self, fleet: LoadedFleet) -> list[str]:
        """Return the task queues to poll.

        Raises:
            UnknownName: for a pool that the fleet does not have.
        """
        for name in self.pools:
            if name not in fleet.fleet.tiers:
                raise UnknownName("pool", name, fleet.fleet.tiers)
        queues = [queue for name in self.pools for queue in fleet.queues[name]]
        own = self.names[len(self.pools) :]
        return queues + [f"{fleet.name}-{name}" for name in own]


async def run_workers(
    client: Client,
    served: Served,
    stop: asyncio.Event,
    *,
    grace: timedelta = DEFAULT_GRACE,
    on_ready: Callable[[Sequence[str]], None] | None = None,
    listen: Listen | None = None,
    sdk_metrics: str | None = None,
) -> None:
    """Run the workers until `stop` is set, then drain them.

    Args:
        client: A client with TierpoolPlugin.
        served: What to run.
        stop: Set to begin draining.
        grace: How long attempts in flight may go on.
        on_ready: Told the task queues once all workers poll.
        listen: Where to answer over HTTP; None: nowhere.
        sdk_metrics: URL of the Temporal SDK's metrics of this process.

    Raises:
        ConfigError: if a pool of this process lacks a credential.
        TierpoolError: if there is nothing to run.
    """
    fleet = fleet_of(client)
    queues = _checked(fleet, served)
    _load(fleet, served)
    reporter = _reporter(client, fleet, served)
    async with AsyncExitStack() as stack:
        if listen is not None:
            endpoint = serve_endpoint(reporter.report, listen, sdk_metrics=sdk_metrics)
            url = await stack.enter_async_context(endpoint)
            _log.info("worker.listens", url=url)
        await ensure_search_attributes(client)
        await stack.enter_async_context(_ready_pools(client, reporter))
        workers = [_worker(client, queue, grace) for queue in queues]
        ready = partial(_ready, reporter, queues, on_ready)
        await _until_stopped(workers, stop, ready, partial(_draining, client, reporter))
        await _say(client, reporter, gone=True)
    await close_providers()


def _checked(fleet: LoadedFleet, served: Served) -> list[str]:
    """Return the task queues to poll, if this process can serve them."""
    queues = served.queues(fleet)
    problems = missing_credentials(fleet, served.pools)
    if problems:
        raise ConfigError(problems)
    if not queues:
        raise TierpoolError("nothing to run: name flows, tools, control or a pool")
    return queues


def _reporter(client: Client, fleet: LoadedFleet, served: Served) -> Reporter:
    gates = gates_of(client)
    tiers = fleet.snapshot.tiers
    return Reporter(
        fleet=fleet.name,
        version=__version__,
        serves=served.names,
        gates={name: gates[name] for name in served.names if name in gates},
        models={n: tuple(m.model for m in t.models) for n, t in tiers.items()},
        file=fixed_parts(fleet),
        lease=lease_of(client) if served.pools or served.tools else None,
    )


@asynccontextmanager
async def _ready_pools(client: Client, reporter: Reporter) -> AsyncIterator[None]:
    """Make pools ready and keep them so; announce the process meanwhile."""
    pools = {name: gate.pool for name, gate in reporter.gates.items()}
    lease = lease_of(client)
    follower = Follower(client, reporter, pools, fleet_of(client), lease)
    await follower.look()
    async with AsyncExitStack() as stack:
        entered = [stack.enter_async_context(pool.tended()) for pool in pools.values()]
        await asyncio.gather(*entered)
        work: list[Callable[[], Awaitable[None]]] = [follower.follow]
        work.append(partial(say_again_and_again, client, reporter))
        tasks = [asyncio.create_task(_for_good(one)) for one in work]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


async def _for_good(work: Callable[[], Awaitable[None]]) -> None:
    """Keep something going that no call waits for; what it stumbles over is logged."""
    while True:
        try:
            await work()
        except Exception:  # noqa: BLE001 - whatever it was, the work goes on
            _log.exception("worker.stumbled")
            await asyncio.sleep(_STUMBLED_SECONDS)
        else:
            return


def _worker(client: Client, queue: str, grace: timedelta) -> Worker:
    return Worker(
        client, task_queue=queue, graceful_shutdown_timeout=grace, build_id=_BUILD_ID
    )


def _ready(
    reporter: Reporter,
    queues: Sequence[str],
    on_ready: Callable[[Sequence[str]], None] | None,
) -> None:
    reporter.state = "running"
    _log.info("worker.started", queues=list(queues), pid=os.getpid())
    if on_ready is not None:
        on_ready(queues)


async def _draining(client: Client, reporter: Reporter) -> None:
    reporter.state = "draining"
    _log.info("worker.draining", calls=reporter.report().busy)
    await _say(client, reporter)


async def _say(client: Client, reporter: Reporter, *, gone: bool = False) -> None:
    with suppress(RPCError):  # nothing depends on it
        await say(client, reporter, gone=gone)


async def _until_stopped(
    workers: Sequence[Worker],
    stop: asyncio.Event,
    started: Callable[[], None],
    draining: Callable[[], Awaitable[None]],
) -> None:
    """Run all workers; the first that fails stops them all and is raised."""
    running = [asyncio.create_task(worker.run()) for worker in workers]
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.sleep(0)
        started()
        await asyncio.wait([stopping, *running], return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        saying = asyncio.ensure_future(draining())
        pairs = list(zip(workers, running, strict=True))
        # the ledger answers the others' last words
        await _shut_down([one for one in pairs if not _is_control(one[0])])
        await _shut_down([one for one in pairs if _is_control(one[0])])
        results = await asyncio.gather(*running, return_exceptions=True)
        await saying
    _log.info("worker.stopped")
    for result in results:
        if isinstance(result, Exception):
            raise result


def _is_control(worker: Worker) -> bool:
    return worker.task_queue.endswith("-control")


async def _shut_down(some: Sequence[tuple[Worker, asyncio.Task[None]]]) -> None:
    """Drain workers and wait until they have ended, however they do."""
    # the shutdown of one that could not begin would wait for ever
    await asyncio.gather(*(w.shutdown() for w, task in some if not task.done()))
    await asyncio.gather(*(task for _, task in some), return_exceptions=True)


def _load(fleet: LoadedFleet, served: Served) -> None:
    """Import the SDKs and compile the schemas before the first call needs them."""
    for name in served.pools:
        for model in fleet.snapshot.tiers[name].models:
            provider_for(model.model)
    for role in fleet.snapshot.roles.values() if served.pools else ():
        if role.output is not None:
            check_schema(json.loads(fleet.snapshot.parts[role.output.hash]))


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
