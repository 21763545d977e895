"""Admission: when a queue is polled, when a call may start, and what holds it back."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest
from tests.leases import lease_of

from tierpool.blueprint import PoolSpec
from tierpool.errors import ModelUnavailable, NotAdmitted, TierpoolError
from tierpool.leases import Ask
from tierpool.pools import gate as module
from tierpool.pools.gate import Gate
from tierpool.pools.instances import Pool
from tierpool.pools.throttle import Throttle

from .conftest import Clock

ASK = Ask(flow="review", role="reviewer", queue="nano")
SPARE = Ask(flow="review", role="reviewer", queue="nano--1")
TOOL = Ask(flow="review", role="checker")


class Agent:
    async def keep(self) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """Nothing to do."""


async def build(warm: bool) -> Agent:
    return Agent()


@dataclass
class Queue:
    """Slots of a queue, as the gate counts them."""

    name: str
    issued: int = 0
    used: int = 0


@pytest.fixture
def own(clock: Clock) -> Throttle:
    return Throttle("openai:own", clock)


@pytest.fixture
def spare(clock: Clock) -> Throttle:
    return Throttle("openai:spare", clock)


@pytest.fixture
async def gate(own: Throttle, spare: Throttle) -> Gate:
    pool: Pool[Agent] = Pool("nano", PoolSpec(max_instances=4), build)
    made = Gate(pool, {"nano": own, "nano--1": spare}, lease_of())
    made.queues += [Queue("nano"), Queue("nano--1")]
    return made


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.05)


def opened(gate: Gate) -> list[bool]:
    return [gate.opens_for(queue) for queue in gate.queues]


async def test_idle_pollers_of_one_queue_do_not_starve_the_other(gate: Gate) -> None:
    gate.queues[0].issued = 4
    assert [False, True] == opened(gate)
    gate.queues[0].used = 4
    assert [False, False] == opened(gate)


async def test_trouble_closes_every_queue(gate: Gate) -> None:
    gate.pool.trouble = "HTTP 401"
    assert [False, False] == opened(gate)


async def test_cooling_provider_closes_its_own_queue(gate: Gate, own: Throttle) -> None:
    own.refused(5)
    assert [False, True] == opened(gate)


async def test_allowed_concurrency_counts_pollers_and_calls(
    gate: Gate, own: Throttle, clock: Clock
) -> None:
    for _ in range(4):
        own.begin()
    own.refused(1)
    own.end()
    own.end()
    own.end()
    clock.now = 1.0
    assert 2 == own.allowed
    assert [True, True] == opened(gate)
    gate.queues[0].issued = 1  # one polls, or has come and was not sent yet
    assert [False, True] == opened(gate)


async def test_queue_of_an_unavailable_model_is_polled_to_send_on(
    gate: Gate, own: Throttle, spare: Throttle
) -> None:
    """Its calls go to the fallback at once; the last model's calls wait."""
    own.refused(100)
    spare.refused(100)
    assert [True, False] == opened(gate)
    with pytest.raises(ModelUnavailable, match="openai:own takes no calls for"):
        async with gate.admit("nano", ASK):
            pass
    with pytest.raises(NotAdmitted) as caught:
        async with gate.admit("nano--1", SPARE):
            pass
    assert not isinstance(caught.value, ModelUnavailable)
    assert caught.value.retry_after is not None
    assert 0 == own.under_way + spare.under_way


async def test_call_that_came_late_waits_a_moment(gate: Gate, own: Throttle) -> None:
    own.allowed = 1
    async with gate.admit("nano", ASK):
        waiting = asyncio.ensure_future(_admitted(gate))
        await asyncio.sleep(0.01)
        assert not waiting.done()
    assert "openai:own" == await waiting
    async with gate.admit("nano", ASK):
        with pytest.raises(NotAdmitted, match="takes 1 calls at a time by now"):
            await _admitted(gate)
    assert 0 == own.under_way


async def _admitted(gate: Gate) -> str:
    async with gate.admit("nano", ASK) as admitted:
        assert admitted.throttle is not None
        return admitted.throttle.name


async def test_call_that_fails_or_is_cancelled_is_over(
    gate: Gate, own: Throttle
) -> None:
    with pytest.raises(TierpoolError):
        async with gate.admit("nano", ASK):
            raise TierpoolError("no reply")
    call = asyncio.ensure_future(_hang(gate))
    await asyncio.sleep(0.01)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert (0, 0) == (own.under_way, gate.pool.view().busy)


async def _hang(gate: Gate) -> None:
    async with gate.admit("nano", ASK):
        await asyncio.sleep(60)


async def test_refused_key_is_trouble_of_its_model_alone(
    gate: Gate, own: Throttle, spare: Throttle, clock: Clock
) -> None:
    async with gate.admit("nano", ASK) as admitted:
        wait = admitted.refused_key("HTTP 401")
    assert wait.total_seconds() > 0
    assert ("HTTP 401", "backlog") == (gate.report().trouble, gate.report().bound)
    assert [True, True] == opened(gate)  # what comes for it is sent on
    with pytest.raises(ModelUnavailable, match="HTTP 401"):
        await _admitted(gate)
    spare.refused_key("also 401")
    assert [False, False] == opened(gate)
    assert ("provider", "HTTP 401; also 401") == _bound(gate)
    with pytest.raises(NotAdmitted):
        await _admitted(gate)
    clock.now = 1.0
    own.answered()
    assert [True, True] == opened(gate)  # the spare is to be tried, too
    assert "also 401" == gate.report().trouble


async def test_refused_key_of_the_only_model_closes_the_pool(own: Throttle) -> None:
    """Nothing is polled until an instance could be built, which shows the key."""
    pool: Pool[Agent] = Pool("nano", PoolSpec(max_instances=4), build)
    gate = Gate(pool, {"nano": own}, lease_of())
    gate.queues.append(Queue("nano"))
    async with gate.admit("nano", ASK) as admitted:
        admitted.refused_key("HTTP 401")
    assert ("HTTP 401", [False]) == (pool.trouble, opened(gate))


async def test_tools_need_no_throttle() -> None:
    gate = Gate(
        Pool("tools", PoolSpec(min_instances=0, max_instances=1), build), {}, lease_of()
    )
    async with gate.admit("", TOOL) as admitted:
        admitted.answered(None)
        admitted.refused(None)
        admitted.refused_key("no matter")
    assert "" == gate.pool.trouble


async def test_report_shows_what_holds_the_pool_back(
    gate: Gate, own: Throttle, spare: Throttle
) -> None:
    await gate.pool.ready()
    assert ("backlog", "instances are free") == _bound(gate)
    own.refused(31)
    assert ("backlog", "instances are free") == _bound(gate)  # the spare takes calls
    spare.refused(7)
    report = gate.report(("openai:own", "openai:spare"))
    assert ("provider", 0, 1) == (report.bound, report.ready, report.cooldown)
    assert "openai:own takes no calls for 31 s; openai:spare" in report.reason
    gate.pool.trouble = "HTTP 401"
    assert ("provider", "HTTP 401") == _bound(gate)
    gate.pool.trouble = ""
    gate.pool.resize(0)
    assert ("max", "paused: max_instances is 0") == _bound(gate)


async def test_busy_instances_beyond_a_smaller_limit_drain(gate: Gate) -> None:
    async with gate.admit("nano", ASK), gate.admit("nano", ASK):
        gate.pool.resize(1)
        report = gate.report()
    assert (2, 1, "max") == (report.busy, report.draining, report.bound)
    assert 2 == gate.report().calls


def _bound(gate: Gate) -> tuple[str, str]:
    report = gate.report()
    return report.bound, report.reason
