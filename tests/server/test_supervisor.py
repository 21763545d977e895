"""`tierpool worker --processes`: as many processes as are called for, and no call lost."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from temporalio.testing import WorkflowEnvironment

from tierpool import flow_result
from tierpool.devserver.processes import Identity
from tierpool.testing import Reply
from tierpool.worker import Served

from .conftest import FLEET, REVIEW, Running, Start
from .worker_process import WorkerProcess, worker_process

POOL = "max_instances: 3, scale_up_threshold: 1, scale_down_idle_secs: 1"
NANO = FLEET.replace("max_instances: 4", POOL, 1)
FLOWS = Served(flows=True)


@dataclass
class Supervised:
    """A supervisor, and what it and its children have logged."""

    worker: WorkerProcess
    url: str = ""

    def events(self, name: str, **fields: Any) -> list[dict[str, Any]]:
        """Return all log lines of an event with these fields."""
        lines = [json.loads(o) for o in self.worker.output if o.startswith("{")]
        return [o for o in lines if o["event"] == name and fields.items() <= o.items()]

    async def saw(self, name: str, count: int = 1, **fields: Any) -> dict[str, Any]:
        """Wait until an event has come so often; return the last one."""
        async with asyncio.timeout(30):
            while len(self.events(name, **fields)) < count:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        return self.events(name, **fields)[-1]

    async def ready(self, count: int) -> list[int]:
        """Wait for the readiness of so many processes; return their PIDs."""
        await self.saw("process.ready", count)
        return [event["pid"] for event in self.events("process.ready")][:count]

    async def page(self, path: str) -> str:
        def fetched() -> str:
            with urllib.request.urlopen(self.url + path, timeout=10) as response:
                return str(response.read().decode())

        return await asyncio.to_thread(fetched)

    async def shows(self, wanted: Callable[[Any], bool]) -> Any:
        """Wait until the health page is as wanted; return it."""
        async with asyncio.timeout(10):
            while not wanted(shown := json.loads(await self.page("/health"))):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        return shown

    def signal(self, number: signal.Signals) -> None:
        self.worker.process.send_signal(number)


Supervise = Callable[..., AbstractAsyncContextManager[Supervised]]


@pytest.fixture
def supervise(server: WorkflowEnvironment) -> Supervise:
    """Start a supervisor of the pool nano against the test's server."""
    address = server.client.service_client.config.target_host

    @asynccontextmanager
    async def start(fleet: Running, *arguments: str) -> AsyncIterator[Supervised]:
        common = ("--pool", "nano", "--grace", "20", "--http", "127.0.0.1:0")
        async with worker_process(address, fleet.fleet, *common, *arguments) as worker:
            supervised = Supervised(worker)
            supervised.url = (await supervised.saw("supervisor.listens"))["url"]
            yield supervised

    return start


async def test_processes_follow_the_backlog(
    running: Start, supervise: Supervise
) -> None:
    """Grows while full with a backlog; the call of a process that has to go is finished."""
    fleet = await running(REVIEW, base=NANO, served=FLOWS)
    gates = [asyncio.Event() for _ in range(6)]
    fleet.provider.script(*(Reply("fine", gate=gate) for gate in gates))

    handles = [await fleet.start("review") for _ in gates]
    async with supervise(fleet, "--processes", "1..2") as supervised:
        await fleet.provider.until(lambda books: books.in_flight == 6)
        for gate in (*gates[:2], *gates[3:5]):  # one call remains to each process
            gate.set()
        drained = await supervised.saw("process.draining")
        await fleet.provider.until(lambda books: books.in_flight == 2)
        for gate in gates:
            gate.set()
        ended = await supervised.saw("process.ended")
        results = [await flow_result(handle) for handle in handles]
        supervised.signal(signal.SIGTERM)
        status = await supervised.worker.ended()

    started = supervised.events("process.started")
    assert ["wanted", "full, with a backlog: nano"] == [e["reason"] for e in started]
    assert "one process less will do" == drained["reason"]
    assert (drained["pid"], 0) == (ended["pid"], ended["status"])
    assert [("done", 1)] * 6 == [(r.state, r.attempts) for r in results]
    assert (6, []) == (
        fleet.provider.accounting.calls,
        fleet.provider.accounting.aborted,
    )
    assert 0 == status


async def test_killed_process_is_replaced(running: Start, supervise: Supervise) -> None:
    """After kill -9 of a process there is another one, which makes the lost attempt again."""
    fleet = await running(REVIEW, base=NANO, served=FLOWS)
    fleet.provider.script(Reply("never", gate=asyncio.Event()), Reply("fine"))

    async with supervise(fleet, "--processes", "1") as supervised:
        handle = await fleet.start("review")
        await fleet.provider.until(lambda books: books.in_flight == 1)
        (pid,) = await supervised.ready(1)
        os.kill(pid, signal.SIGKILL)
        ended = await supervised.saw("process.ended")
        again = await supervised.saw("process.respawned")
        result = await flow_result(handle)

    assert (pid, -signal.SIGKILL) == (ended["pid"], ended["status"])
    assert again["pid"] != pid
    assert ("done", 2) == (result.state, result.attempts)
    assert 2 == fleet.provider.accounting.calls


async def test_recycling_loses_nothing(running: Start, supervise: Supervise) -> None:
    """Under load processes are replaced after some calls; every call is made once."""
    fleet = await running(REVIEW, base=NANO, served=FLOWS)
    fleet.provider.default(Reply("fine", delay=timedelta(seconds=0.2)))
    done = 0

    async with supervise(
        fleet, "--processes", "1", "--recycle-requests", "5"
    ) as supervised:
        while not supervised.events("process.ended"):
            runs = await asyncio.gather(*(fleet.run("review") for _ in range(4)))
            done += len(runs)
        supervised.signal(signal.SIGTERM)
        status = await supervised.worker.ended()

    order = re.findall(r'"event": "process\.(\w+)"', "".join(supervised.worker.output))
    # an attempt may be lost with the poll that got it, but no call is made for it
    assert done == fleet.provider.accounting.calls
    assert [] == fleet.provider.accounting.aborted
    # the successor is ready before the old one goes
    assert ["started", "ready", "started", "ready", "draining"] == order[:5]
    assert (0, 0) == (supervised.events("process.ended")[0]["status"], status)


async def test_supervisor_shows_and_drains_all(
    running: Start, supervise: Supervise
) -> None:
    """Pages tell of all processes; SIGTERM lets the calls of all of them end."""
    fleet = await running(REVIEW, base=NANO, served=FLOWS)
    gate = asyncio.Event()
    fleet.provider.default(Reply("fine", gate=gate))

    async with supervise(fleet, "--processes", "2") as supervised:
        pids = await supervised.ready(2)
        handles = [await fleet.start("review") for _ in range(6)]
        await fleet.provider.until(lambda books: books.in_flight == 6)
        health = await supervised.shows(lambda shown: [3, 3] == busy(shown))
        ready = json.loads(await supervised.page("/ready"))
        metrics = await supervised.page("/metrics")
        supervised.signal(signal.SIGTERM)
        await supervised.saw("worker.draining", 2)
        gate.set()
        status = await supervised.worker.ended()
        results = [await flow_result(handle) for handle in handles]

    shown = [(one["pid"], one["state"]) for one in health["processes"]]
    families = re.findall(r"^# TYPE (\S+)", metrics, re.MULTILINE)
    assert {(pid, "running") for pid in pids} == set(shown)
    assert {"ready": True} == ready
    assert sorted(set(families)) == sorted(families)
    assert 'tierpool_processes{state="running"} 2.0' in metrics
    for label in ("0", "1"):
        assert (
            f'tierpool_worker_state{{process="{label}",state="running"}} 1' in metrics
        )
        assert f'temporal_num_pollers{{process="{label}"' in metrics
    assert 0 == status
    assert [("done", 1)] * 6 == [(r.state, r.attempts) for r in results]
    assert 6 == fleet.provider.accounting.calls


async def test_second_sigterm_aborts(running: Start, supervise: Supervise) -> None:
    """Who cannot wait sends SIGTERM again: all processes abort, status 1."""
    fleet = await running(REVIEW, base=NANO, served=FLOWS)
    fleet.provider.default(Reply("never", gate=asyncio.Event()))

    async with supervise(fleet, "--processes", "2") as supervised:
        pids = await supervised.ready(2)
        handles = [await fleet.start("review") for _ in range(4)]
        await fleet.provider.until(lambda books: books.in_flight == 4)
        supervised.signal(signal.SIGTERM)
        await supervised.saw("worker.draining", 2)
        supervised.signal(signal.SIGTERM)
        status = await supervised.worker.ended()
    for handle in handles:
        await handle.terminate()

    assert 1 == status
    assert await all_gone(pids)
    await fleet.provider.until(lambda books: len(books.aborted) == 4)


async def test_killed_supervisor_leaves_nothing(
    running: Start, supervise: Supervise
) -> None:
    """After kill -9 of the supervisor its processes finish their calls and end."""
    fleet = await running(REVIEW, base=NANO, served=FLOWS)
    gate = asyncio.Event()
    fleet.provider.default(Reply("fine", gate=gate))

    async with supervise(fleet, "--processes", "2") as supervised:
        pids = await supervised.ready(2)
        handles = [await fleet.start("review") for _ in range(4)]
        await fleet.provider.until(lambda books: books.in_flight == 4)
        supervised.signal(signal.SIGKILL)
        await supervised.saw("worker.draining", 2)
        gate.set()
        results = [await flow_result(handle) for handle in handles]

    assert await all_gone(pids)
    assert [("done", 1)] * 4 == [(r.state, r.attempts) for r in results]
    assert (4, []) == (
        fleet.provider.accounting.calls,
        fleet.provider.accounting.aborted,
    )


async def test_bad_configuration_ends_the_supervisor(
    running: Start, supervise: Supervise
) -> None:
    """What no process can start with is said once by each, with status 2."""
    keyed = NANO.replace("openai:small", "openai:small\n    api_key_env: ACME_KEY", 1)
    fleet = await running(REVIEW, base=keyed, served=FLOWS)

    async with supervise(fleet, "--processes", "2") as supervised:
        status = await supervised.worker.ended()
    output = " ".join("".join(supervised.worker.output).split())

    assert 2 == status
    assert [2, 2] == [event["status"] for event in supervised.events("process.ended")]
    assert 2 == output.count("environment variable ACME_KEY is not set")
    assert "no worker process can run like this" in output


def busy(health: Any) -> list[int]:
    return [process["busy"] for process in health["processes"]]


async def all_gone(pids: list[int]) -> bool:
    """Wait for the end of processes; one that nobody has reaped yet is gone."""
    async with asyncio.timeout(10):
        while any(Identity.of(pid) for pid in pids):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return True
