"""`tierpool autoscale` as processes: two of them, killed ones, and worker processes."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime

from temporalio.testing import WorkflowEnvironment

from tierpool import flow_result
from tierpool.client import ItemHandle
from tierpool.devserver.processes import Identity
from tierpool.testing import Reply
from tierpool.worker import Served

from .autoscalers import following, state_of, until
from .conftest import FLEET, REVIEW, Command, Running, Start, nano
from .worker_process import WorkerProcess, fetched, tierpool_process

TWO = FLEET.replace(
    "max_instances: 4", "max_instances: 2, scaling: {policy: fixed, min_workers: 2}", 1
)
ONE_OF_EIGHT = FLEET.replace(
    "max_instances: 4",
    "min_instances: 1, max_instances: 8, scaling: {policy: fixed}",
    1,
)
"""On `slots`, the policy `fixed` keeps `min_instances`: one."""
NANO = ("--pool", "nano", "--every", "1", "--http", "127.0.0.1:0")
PROCESSES = ("--act", "processes", *NANO)


def events(process: WorkerProcess, name: str) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in process.output if line.startswith("{")]
    return [line for line in lines if line["event"] == name]


@asynccontextmanager
async def calling(
    running: Start, server: WorkflowEnvironment, count: int
) -> AsyncIterator[tuple[Running, asyncio.Event, WorkerProcess, list[ItemHandle]]]:
    """Run an autoscaler whose worker processes make calls, which a gate lets end."""
    fleet = await running(REVIEW, base=TWO, served=Served(flows=True, control=True))
    gate = asyncio.Event()
    fleet.provider.default(Reply("fine", gate=gate))
    address = server.client.service_client.config.target_host
    started = tierpool_process("autoscale", address, fleet.fleet, *PROCESSES)
    async with started as process:
        handles = [await fleet.start("review") for _ in range(count)]
        await fleet.provider.until(lambda books: books.in_flight == count)
        yield fleet, gate, process, handles


async def test_when_the_leader_is_killed_another_leads_after_its_silence(
    running: Start, server: WorkflowEnvironment, tierpool: Command
) -> None:
    """The second one changes nothing before; `status` tells who leads."""
    fleet = await running(REVIEW, base=ONE_OF_EIGHT, served=Served(control=True))
    address = server.client.service_client.config.target_host
    async with (
        following(fleet),
        tierpool_process("autoscale", address, fleet.fleet, "--advise", *NANO) as first,
    ):
        await first.logged("autoscaler.leads")
        async with tierpool_process("autoscale", address, fleet.fleet, *NANO) as second:
            await second.logged("autoscaler.follows")
            url = (await second.logged("autoscaler.listens"))["url"]
            followed = await tierpool("status")
            health = json.loads(await fetched(f"{url}/health"))
            page = await fetched(f"{url}/metrics")
            first.process.kill()
            await first.process.wait()
            given = (await state_of(fleet)).until
            assert 8 == nano(fleet).limit
            taken = (await second.logged("autoscaler.leads"))["timestamp"]
            await until(lambda: nano(fleet).limit == 1)
            await recorded(fleet, 1)
            led = await tierpool("status", "--json")
            second.process.send_signal(signal.SIGINT)
            status = await second.ended()
            ended = await tierpool("status")

    assert given is not None
    assert given <= datetime.fromisoformat(taken)
    assert (False, "") == (health["leads"], health["trouble"])
    assert "tierpool_desired_instances{" not in page
    assert f":{first.process.pid} leads (advise)" in followed.out
    assert isinstance(led.json, dict)
    told = led.json["scaling"]
    assert told["where"].endswith(f":{second.process.pid}")
    assert ("slots", 1) == (told["act"], told["decisions"][0]["instances"])
    assert "nano: desired 1 (1 worker), bound by" in ended.out
    assert "start one: tierpool autoscale" in ended.out
    assert 0 == status


async def test_workers_of_a_killed_autoscaler_drain_and_lose_no_call(
    running: Start, server: WorkflowEnvironment
) -> None:
    async with calling(running, server, 4) as (fleet, gate, process, handles):
        pids = [int(str(one["pid"])) for one in events(process, "process.started")]
        process.process.kill()
        await until(lambda: len(events(process, "worker.draining")) == 2)
        still = [Identity.of(pid) is not None for pid in pids]
        gate.set()
        results = [await flow_result(handle) for handle in handles]
        await until(lambda: not any(Identity.of(pid) for pid in pids))

    assert [True, True] == still
    assert 2 == len(events(process, "worker.orphaned"))
    assert [1] * 4 == [result.attempts for result in results]
    books = fleet.provider.accounting
    assert (4, []) == (books.calls, books.aborted)


async def test_a_second_signal_aborts_what_drains(
    running: Start, server: WorkflowEnvironment
) -> None:
    """Who does not want to wait for calls presses Ctrl-C again."""
    async with calling(running, server, 1) as (_, gate, process, handles):
        process.process.send_signal(signal.SIGINT)
        await process.logged("supervisor.draining")
        process.process.send_signal(signal.SIGINT)
        await process.logged("supervisor.aborted")
        await process.ended()
        gate.set()
        await handles[0].terminate()


async def test_workers_that_others_have_started_count(
    running: Start, server: WorkflowEnvironment
) -> None:
    """Two are wanted; one is there, so one is started."""
    fleet = await running(REVIEW, base=TWO)
    address = server.client.service_client.config.target_host
    async with tierpool_process(
        "autoscale", address, fleet.fleet, *PROCESSES
    ) as process:
        await process.logged("process.ready")
        await asyncio.sleep(1)

    assert 1 == len(events(process, "process.started"))


async def recorded(fleet: Running, instances: int) -> None:
    """Wait for the record of a decision; who begins to lead records its second one."""
    async with asyncio.timeout(30):
        while True:
            made = (await state_of(fleet)).decisions
            if [instances] == [one.instances for one in made]:
                return
            await asyncio.sleep(0.1)


async def test_worker_processes_come_with_the_lead_and_drain_with_the_end(
    running: Start, server: WorkflowEnvironment
) -> None:
    """The command itself: processes start, make calls, are shown, and finish at SIGTERM."""
    async with calling(running, server, 4) as (fleet, gate, process, handles):
        url = (await process.logged("autoscaler.listens"))["url"]
        page = await fetched(f"{url}/metrics")
        health = json.loads(await fetched(f"{url}/health"))
        process.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(1)
        gate.set()
        results = [await flow_result(handle) for handle in handles]
        status = await process.ended()

    name = fleet.fleet.name
    desired = f'fleet="{name}",pool="nano"'
    assert f'tierpool_desired_instances{{constraint="demand",{desired}}} 4.0' in page
    assert f"tierpool_desired_workers{{{desired}}} 2.0" in page
    assert (True, "processes") == (health["leads"], health["act"])
    assert [1] * 4 == [result.attempts for result in results]
    assert (4, []) == (
        fleet.provider.accounting.calls,
        fleet.provider.accounting.aborted,
    )
    assert 0 == status
