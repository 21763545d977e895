"""`tierpool worker` as a process: limits, draining, being killed, refusing to start."""

import asyncio
import signal
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import timedelta

import pytest
from temporalio.testing import WorkflowEnvironment

from tierpool import flow_result
from tierpool.contracts import ItemCosts, Outcome
from tierpool.errors import UnknownName
from tierpool.testing import Reply
from tierpool.worker import Served

from .conftest import FLEET, REVIEW, Running, Start, working
from .worker_process import WorkerProcess, worker_process

TWO_AT_A_TIME = FLEET.replace("max_instances: 4", "max_instances: 2")
FLOWS = Served(flows=True)
NANO = Served(pools=("nano",))

Launch = Callable[..., AbstractAsyncContextManager[WorkerProcess]]


@pytest.fixture
def launch(server: WorkflowEnvironment) -> Launch:
    """Start a worker process of a fleet against the test's server."""
    address = server.client.service_client.config.target_host

    def start(fleet: Running, *arguments: str, **env: str) -> object:
        return worker_process(address, fleet.fleet, *arguments, **env)

    return start  # type: ignore[return-value]


async def test_pool_makes_max_instances_calls_at_a_time_and_drains(
    running: Start, launch: Launch
) -> None:
    """A worker has max_instances calls in flight, finishes them on SIGTERM, takes no other."""
    fleet = await running(REVIEW, base=TWO_AT_A_TIME, served=FLOWS)
    fleet.provider.default(Reply("fine", delay=timedelta(seconds=0.1)))
    gate = asyncio.Event()

    async with launch(fleet, "--pool", "nano") as worker:
        await asyncio.gather(*(fleet.run("review") for _ in range(8)))
        peak = fleet.provider.accounting.peak_in_flight
        fleet.provider.default(Reply("late", gate=gate))
        handles = [await fleet.start("review") for _ in range(3)]
        await fleet.provider.until(lambda books: books.in_flight == 2)
        worker.process.send_signal(signal.SIGTERM)
        await worker.logged("worker.draining")
        await asyncio.sleep(0.5)  # logged before the pollers have stopped
        gate.set()
        status = await worker.ended()
    calls = fleet.provider.accounting.calls
    async with working(fleet.client, fleet.fleet, NANO):
        results = [await flow_result(handle) for handle in handles]

    assert peak == 2
    assert (status, calls) == (0, 8 + 2)
    assert [r.reply for r in results] == [{"text": "late"}] * 3
    assert [r.attempts for r in results] == [1, 1, 1]
    assert fleet.provider.accounting.calls == 8 + 3
    assert fleet.provider.accounting.aborted == []


async def test_second_sigterm_aborts(running: Start, launch: Launch) -> None:
    """Who cannot wait for the drain sends SIGTERM again: status 1, at once."""
    fleet = await running(REVIEW, served=FLOWS)
    fleet.provider.default(Reply("never", gate=asyncio.Event()))

    async with launch(fleet, "--pool", "nano") as worker:
        handle = await fleet.start("review")
        await fleet.provider.until(lambda books: books.in_flight == 1)
        worker.process.send_signal(signal.SIGTERM)
        await worker.logged("worker.draining")
        worker.process.send_signal(signal.SIGTERM)
        status = await worker.ended()
    await handle.terminate()

    assert status == 1
    await fleet.provider.until(lambda books: len(books.aborted) == 1)


async def test_killed_worker_costs_one_more_attempt(
    running: Start, launch: Launch
) -> None:
    """After kill -9 another worker goes on; the lost attempt stays at its reservation."""
    fleet = await running(REVIEW, served=FLOWS)
    fleet.provider.script(Reply("never", gate=asyncio.Event()), Reply("fine"))

    async with launch(fleet, "--pool", "nano") as worker:
        handle = await fleet.start("review")
        await fleet.provider.until(lambda books: books.in_flight == 1)
        worker.process.send_signal(signal.SIGKILL)
        await worker.ended()
    async with working(fleet.client, fleet.fleet, NANO):
        result = await flow_result(handle)
    costs = await handle.query("costs", result_type=ItemCosts)

    assert (result.state, result.attempts, result.unknown_cost_attempts) == (
        "done",
        2,
        1,
    )
    lost, paid = costs.attempts
    assert (lost.outcome, lost.cost_usd) == (Outcome.AMBIGUOUS, lost.reserved_usd)
    assert lost.cost_usd > paid.cost_usd
    assert "worker was lost" in lost.note
    assert paid.outcome is Outcome.BILLED
    assert fleet.provider.accounting.calls == 2


@pytest.mark.parametrize(
    ("arguments", "env", "status", "said"),
    [
        (
            ["--pool", "nano", "standard"],
            {"ANTHROPIC_API_KEY": "sk-ant-the-other-key-0123456789"},
            2,
            "the environment variable ACME_KEY is not set; the pool needs it: nano",
        ),
        (["--pool", "nanno"], {}, 2, "unknown pool 'nanno'; did you mean 'nano'?"),
        (
            ["--flows"],
            {"TEMPORAL_ADDRESS": "127.0.0.1:1"},
            3,
            "no Temporal server at 127.0.0.1:1",
        ),
    ],
    ids=["missing key", "unknown pool", "no server"],
)
async def test_worker_that_cannot_work_does_not_start(
    running: Start,
    launch: Launch,
    arguments: list[str],
    env: dict[str, str],
    status: int,
    said: str,
) -> None:
    """Each obstacle has its exit status and is named, without a secret."""
    keyed = FLEET.replace("openai:small", "openai:small\n    api_key_env: ACME_KEY")
    fleet = await running(REVIEW, base=keyed, served=FLOWS)

    async with launch(fleet, *arguments, **env) as worker:
        ended = await worker.ended()
    output = " ".join("".join(worker.output).split())

    assert ended == status
    assert said in output
    assert "worker.started" not in output
    assert "0123456789" not in output


async def test_unknown_pool_names_the_nearest(running: Start) -> None:
    """From code, too, a misspelt pool is an error that knows what was meant."""
    fleet = await running(REVIEW, served=FLOWS)

    with pytest.raises(UnknownName, match="did you mean 'premium'"):
        Served(pools=("premum",)).queues(fleet.fleet)
