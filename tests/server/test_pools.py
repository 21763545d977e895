"""Pools of a live worker: they follow their limits and kill nothing."""

import asyncio

from tierpool.client import ItemHandle, flow_result, gates_of, start_flow
from tierpool.testing import CutConnection, Overloaded, Reply, ScriptedProvider
from tierpool.worker import Served

from .conftest import FLEET, REVIEW, Command, Running, Start, nano, working

ROLES = REVIEW.replace("tier: nano", "tier: nano, max_attempts: 9")
WITH_KEY = FLEET.replace(
    "base_url: BASE_URL/v1", "base_url: BASE_URL/v1\n    api_key_env: OPENAI_API_KEY", 1
)


async def in_flight(fleet: Running, count: int) -> None:
    """Wait until so many calls are under way, and see that there are no more."""
    await fleet.provider.until(lambda books: books.in_flight == count)
    await asyncio.sleep(0.5)
    assert count == fleet.provider.accounting.in_flight


async def test_live_pool_follows_its_limit(running: Start) -> None:
    """Up, down, paused and up again, while calls are under way; none is repeated."""
    fleet = await running(
        ROLES, base=FLEET.replace("max_instances: 4", "max_instances: 2")
    )
    gates = [asyncio.Event() for _ in range(12)]
    fleet.provider.script(*(Reply("fine", gate=gate) for gate in gates))
    handles = [await fleet.start("review") for _ in gates]
    await in_flight(fleet, 2)

    nano(fleet).resize(6)
    await in_flight(fleet, 6)
    nano(fleet).resize(3)
    for gate in gates[:4]:
        gate.set()
    await in_flight(fleet, 3)
    nano(fleet).resize(0)
    for gate in gates:
        gate.set()
    await in_flight(fleet, 0)
    paused = fleet.provider.accounting.calls
    nano(fleet).resize(8)
    results = [await flow_result(handle) for handle in handles]

    assert paused < 12
    assert ["done"] * 12 == [result.state for result in results]
    assert [1] * 12 == [result.attempts for result in results]
    assert 12 == fleet.provider.accounting.calls


async def test_fallback_queues_share_the_pool(running: Start) -> None:
    """Calls on a tier's two queues together are never more than its instances."""
    spare = """fallback:
      - model: openai:spare
        base_url: BASE_URL/v1
        price: {input_usd_per_mtok: 3, output_usd_per_mtok: 4}
    pool: {max_instances: 3}"""
    base = FLEET.replace("pool: {max_instances: 4}", spare, 1)
    fleet = await running(ROLES, base=base)
    fleet.provider.on(lambda request: request.model == "small", Overloaded())
    fleet.provider.default(Reply("fine"))

    handles = [await fleet.start("review") for _ in range(12)]
    results = [await flow_result(handle) for handle in handles]

    assert ["done"] * 12 == [result.state for result in results]
    assert fleet.provider.accounting.peak_in_flight <= 3


async def test_instances_are_renewed_and_kept_ready(running: Start) -> None:
    """One stands ready at the start; each makes two calls and is replaced."""
    pool = "min_instances: 1, max_instances: 1, max_requests_per_agent: 2"
    base = FLEET.replace("max_instances: 4", pool)
    fleet = await running(ROLES, base=base)
    fleet.provider.default(Reply("fine"))
    before = nano(fleet).view()

    for _ in range(4):
        await fleet.run("review")

    assert (1, 1) == (before.ready, before.built)
    assert 3 == nano(fleet).view().built


async def test_broken_connections_go_with_their_instance(running: Start) -> None:
    """An instance whose provider cannot be reached is replaced; the item tries again."""
    fleet = await running(
        ROLES, base=FLEET.replace("max_instances: 4", "max_instances: 1")
    )
    built = nano(fleet).view().built
    fleet.provider.script(CutConnection(), Reply("fine"))

    result = await fleet.run("review")

    assert ("done", 2) == (result.state, result.attempts)
    assert built < nano(fleet).view().built


async def test_refused_key_is_shown_again_without_an_item(running: Start) -> None:
    """While the key stays refused no further call is made; once taken, all goes on."""
    base = WITH_KEY.replace("max_instances: 4", "max_instances: 1", 1)
    fleet = await running(ROLES, base=base)
    fleet.provider.default(Reply("fine"))
    fleet.provider.keys = frozenset()
    handles = [await fleet.start("review") for _ in range(3)]
    async with asyncio.timeout(20):
        while not nano(fleet).trouble:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    await asyncio.sleep(5)
    sent = nano(fleet).meter.calls
    fleet.provider.keys = None
    results = [await flow_result(handle) for handle in handles]

    assert 1 == sent
    assert ["done"] * 3 == [result.state for result in results]
    assert 4 == nano(fleet).meter.calls


async def test_pool_recovers_from_a_refused_key_without_calls(
    running: Start, provider: ScriptedProvider
) -> None:
    """Nobody has to wait for an item to learn that the key is taken by now."""
    provider.keys = frozenset()
    fleet = await running(ROLES, base=WITH_KEY)
    begun = gates_of(fleet.client)["nano"].report().trouble
    fleet.provider.keys = None

    async with asyncio.timeout(20):
        while gates_of(fleet.client)["nano"].report().trouble:  # noqa: ASYNC110
            await asyncio.sleep(0.05)

    assert "HTTP 401" in begun
    assert 1 == gates_of(fleet.client)["nano"].report().ready


async def test_status_says_how_to_start_workers_that_have_just_gone(
    running: Start, provider: ScriptedProvider, tierpool: Command
) -> None:
    """The server remembers pollers for minutes; they may be gone all the same."""
    fleet = await running(REVIEW, served=Served(flows=True))
    fleet.provider.default(Reply("fine"))
    async with working(fleet.client, fleet.fleet, Served(pools=("nano",))):
        await fleet.run("review")

    ran = await tierpool("status")

    said = "no worker for nano reports; if those are gone, start one: tierpool worker"
    assert said in ran.out


async def test_urgent_items_are_served_first(running: Start) -> None:
    """In a backlog the calls of items with priority 1 come before all others."""
    fleet = await running(
        ROLES, base=FLEET.replace("max_instances: 4", "max_instances: 1")
    )
    fleet.provider.default(Reply("fine"))
    nano(fleet).resize(0)
    handles = [
        await start_flow(
            fleet.client, "review", {"text": f"{priority}", "priority": priority}, id=id
        )
        for priority, id in [(3, "usual"), (5, "late"), (1, "urgent"), (2, "soon")]
    ]
    for handle in handles:
        await has_scheduled(handle)

    nano(fleet).resize(1)
    for handle in handles:
        await flow_result(handle)

    order = [request.messages[-1][1] for request in fleet.provider.requests]
    assert ["1", "2", "3", "5"] == order


async def has_scheduled(handle: ItemHandle) -> None:
    """Wait until an item's attempt waits for the pool."""
    async with asyncio.timeout(20):
        while not (await handle.describe()).raw_description.pending_activities:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
