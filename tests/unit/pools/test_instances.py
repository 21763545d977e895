"""Instances of a pool: when they are built, lent, renewed and let go."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from tierpool.blueprint import PoolSpec
from tierpool.errors import NotAdmitted, TierpoolError, UsageError
from tierpool.pools import instances
from tierpool.pools.instances import Pool, surplus

from .conftest import Clock


class Client:
    """Counts what becomes of it."""

    def __init__(self) -> None:
        self.closed = False

    async def close(self) -> None:
        self.closed = True


class Workshop:
    """Builds clients, unless it is out of order."""

    def __init__(self) -> None:
        self.built: list[Client] = []
        self.trouble = ""

    async def build(self, warm: bool) -> Client:
        await asyncio.sleep(0)
        if self.trouble:
            raise TierpoolError(self.trouble)
        self.built.append(Client())
        return self.built[-1]


@pytest.fixture
def workshop() -> Workshop:
    return Workshop()


def pool_of(workshop: Workshop, clock: Clock, **spec: int) -> Pool[Client]:
    values = {"min_instances": 0, "max_instances": 2} | spec
    return Pool("nano", PoolSpec(**values), workshop.build, clock)


async def busy(pool: Pool[Client], count: int, stack: AsyncExitStack) -> None:
    for _ in range(count):
        await stack.enter_async_context(pool.lend())


async def test_minimum_is_built_before_the_first_call(
    workshop: Workshop, clock: Clock
) -> None:
    """`min_instances` stand ready and are used before another one is built."""
    pool = pool_of(workshop, clock, min_instances=2, max_instances=4)

    await pool.ready()
    async with AsyncExitStack() as stack:
        await busy(pool, 3, stack)
        view = pool.view()

    assert (3, 0, 3) == (view.busy, view.ready, view.built)


async def test_instance_is_used_again(workshop: Workshop, clock: Clock) -> None:
    """One call after the other needs one instance."""
    pool = pool_of(workshop, clock)

    for _ in range(5):
        async with pool.lend():
            pass

    assert 1 == len(workshop.built)


async def test_instance_is_replaced_after_its_requests(
    workshop: Workshop, clock: Clock
) -> None:
    """`max_requests_per_agent` calls, and it is closed; the next call has another."""
    pool = pool_of(workshop, clock, max_requests_per_agent=2)

    for _ in range(5):
        async with pool.lend():
            pass
    await pool.close()

    assert 3 == len(workshop.built)
    assert all(client.closed for client in workshop.built)


async def test_failed_instance_is_replaced(workshop: Workshop, clock: Clock) -> None:
    """One whose connections are in doubt makes no further call; the minimum stays."""
    pool = pool_of(workshop, clock, min_instances=1)
    await pool.ready()

    async with pool.lend() as instance:
        instance.failed = True
    await asyncio.sleep(0.01)

    first, second = workshop.built
    assert (True, False) == (first.closed, second.closed)
    assert 1 == pool.view().ready


async def test_shrinking_kills_nothing(workshop: Workshop, clock: Clock) -> None:
    """Busy instances come to their end; idle ones and those above the limit go."""
    pool = pool_of(workshop, clock, max_instances=4)
    async with AsyncExitStack() as stack:
        await busy(pool, 3, stack)
        pool.resize(1)
        during = pool.view()
    await asyncio.sleep(0.01)

    assert (3, 2) == (during.busy, during.draining)
    assert (0, 1) == (pool.view().busy, pool.view().ready)
    assert 2 == sum(client.closed for client in workshop.built)


async def test_call_above_the_limit_waits_then_is_turned_away(
    workshop: Workshop, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call on its way when the pool became smaller gets the next free instance."""
    monkeypatch.setattr(instances, "_FULL_SECONDS", 0.05)
    pool = pool_of(workshop, clock, max_instances=1)

    async with pool.lend():
        with pytest.raises(NotAdmitted, match="1 instances, and all are busy"):
            async with pool.lend():
                pass
    async with AsyncExitStack() as stack:
        await busy(pool, 1, stack)
        second = asyncio.create_task(pool.lend().__aenter__())
        await asyncio.sleep(0)
        assert not second.done()
        pool.resize(2)
        await asyncio.wait_for(second, 1)


async def test_trouble_is_told_and_passes(workshop: Workshop, clock: Clock) -> None:
    """While nothing can be built the pool says why; afterwards it is as before."""
    pool = pool_of(workshop, clock, min_instances=1)
    workshop.trouble = "the key is not set"

    await pool.ready()
    before = pool.view()
    workshop.trouble = ""
    await pool.ready()

    assert ("the key is not set", 0) == (before.trouble, before.ready)
    assert ("", 1) == (pool.view().trouble, pool.view().ready)


def test_negative_size_is_refused(workshop: Workshop, clock: Clock) -> None:
    """0 pauses; there is nothing below."""
    with pytest.raises(UsageError, match="not -1"):
        pool_of(workshop, clock).resize(-1)


@pytest.mark.parametrize(
    ("idle", "size", "least", "most", "gone"),
    [
        ([0, 0, 90], 5, 1, 8, 2),  # two are idle for too long
        ([0, 0, 90], 3, 2, 8, 1),  # but the minimum stays
        ([0], 1, 1, 8, 0),
        ([90, 90], 6, 1, 5, 1),  # above the limit
        ([90], 6, 1, 2, 1),  # busy ones are not touched
        ([90, 90], 2, 2, 0, 2),  # paused: the minimum is none
        ([], 3, 0, 0, 0),
    ],
)
def test_what_is_too_much_goes(
    idle: list[float], size: int, least: int, most: int, gone: int
) -> None:
    """The longest idle go first, above the minimum by age, above the limit at once."""
    assert gone == surplus(idle, size, least=least, most=most, now=100, patience=60)
