"""`tierpool apply` and `tierpool status` beside a running fleet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from temporalio.client import Client

from tierpool import TierpoolPlugin, load_fleet
from tierpool.client import flow_result, pools_of
from tierpool.pools.announce import living_workers
from tierpool.testing import Reply
from tierpool.worker import Served

from .conftest import REVIEW, Command, Running, Start, nano, plugged, working

WITHOUT_CONTROL = Served(flows=True, pools=("nano", "standard", "premium"))


def rewrite(fleet: Running, change: Callable[[str], str]) -> None:
    path = fleet.fleet.path
    path.write_text(change(path.read_text()))


def four_to(count: int) -> Callable[[str], str]:
    new = f"min_instances: 0, max_instances: {count}"
    return lambda text: text.replace("max_instances: 4", new, 1)


async def reports(fleet: Running) -> None:
    """Wait until a worker with pools has reported: `apply` asks those that have."""
    async with asyncio.timeout(30):
        while True:
            known = await living_workers(fleet.client, fleet.fleet.name)
            if any(worker.pools for worker in known or ()):
                return
            await asyncio.sleep(0.05)


async def test_running_pool_follows_the_file_and_items_go_on(
    running: Start, tierpool: Command
) -> None:
    """To 0 and up again with calls in flight: none is killed, none is repeated."""
    fleet = await running(REVIEW)
    gate = asyncio.Event()
    fleet.provider.default(Reply("fine", gate=gate))
    handles = [await fleet.start("review") for _ in range(8)]
    await fleet.provider.until(lambda books: books.in_flight == 4)
    await reports(fleet)

    rewrite(fleet, four_to(0))
    paused = await tierpool("apply", "--json")
    gate.set()
    await fleet.provider.until(lambda books: books.in_flight == 0)
    await asyncio.sleep(0.5)
    calls = fleet.provider.accounting.calls
    rewrite(fleet, lambda text: text.replace("max_instances: 0", "max_instances: 6", 1))
    resumed = await tierpool("apply", "agents.yaml")
    results = [await flow_result(handle) for handle in handles]

    assert 0 == paused.status
    assert isinstance(paused.json, dict)
    assert (1, []) == (paused.json["generation"], paused.json["not_following"])
    assert calls < 8
    assert 0 == resumed.status
    assert "1 worker follows" in resumed.out
    assert 6 == nano(fleet).limit
    assert [1] * 8 == [result.attempts for result in results]
    assert 8 == fleet.provider.accounting.calls


async def test_what_cannot_change_live_is_refused_as_a_whole(
    running: Start, tierpool: Command
) -> None:
    """Another model and a new tier are named, with what runs; nothing is applied."""
    fleet = await running(REVIEW)
    more = """
  deluxe:
    model: openai:larger
    base_url: http://127.0.0.1:1/v1
    price: {input_usd_per_mtok: 100, output_usd_per_mtok: 200}
agents:"""

    def change(text: str) -> str:
        text = four_to(1)(text).replace("openai:small", "openai:other")
        return text.replace("\nagents:", more)

    rewrite(fleet, change)
    await reports(fleet)
    ran = await tierpool("apply")
    status = await tierpool("status", "--json")

    assert 2 == ran.status
    assert "tiers.nano.model: cannot change live" in ran.err
    assert "openai:small" in ran.err
    assert "openai:other" in ran.err
    assert "tiers cannot come, go or change places live" in ran.err
    assert "tiers.deluxe.model" in ran.err
    assert 4 == nano(fleet).limit
    assert isinstance(status.json, dict)
    assert 0 == status.json["limits"]["generation"]


async def test_later_workers_follow_too_until_it_is_withdrawn(
    running: Start, tierpool: Command
) -> None:
    """What was applied goes before the file of a worker that starts with an older one."""
    fleet = await running(REVIEW, served=Served(flows=True, control=True))
    client = plugged(fleet.client, fleet.fleet)
    nobody = await tierpool("apply")
    async with working(client, fleet.fleet, Served(pools=("nano",))):
        await reports(fleet)
        rewrite(fleet, four_to(7))
        dry = await tierpool("apply", "--dry-run")
        before = pools_of(client)["nano"].limit
        await tierpool("apply")
    late = plugged(fleet.client, fleet.fleet)
    async with working(late, fleet.fleet, Served(pools=("nano",))):
        at_start = pools_of(late)["nano"].limit
        withdrawn = await tierpool("apply", "--withdraw")
        after = pools_of(late)["nano"].limit

    assert (1, 0, 0) == (nobody.status, dry.status, withdrawn.status)
    assert "no worker of the fleet" in nobody.err
    assert "would be applied" in dry.out
    assert (4, 7, 4) == (before, at_start, after)


async def test_without_a_keeper_it_says_how_to_start_one(
    running: Start, tierpool: Command
) -> None:
    """`apply` needs a worker with --control, and names it."""
    fleet = await running(REVIEW, served=WITHOUT_CONTROL)
    await reports(fleet)

    ran = await tierpool("apply")

    assert 1 == ran.status
    assert "tierpool worker --control" in ran.err


async def test_status_shows_instances_by_state_and_what_holds_them_back(
    running: Start, tierpool: Command
) -> None:
    """Busy instances, a backlog, completions and the bound; the same in JSON."""
    fleet = await running(REVIEW)
    fleet.provider.default(Reply("fine"))
    for _ in range(3):
        await fleet.run("review")
    gate = asyncio.Event()
    fleet.provider.default(Reply("fine", gate=gate))
    handles = [await fleet.start("review") for _ in range(7)]
    await fleet.provider.until(lambda books: books.in_flight == 4)

    async def shown() -> dict[str, Any]:
        ran = await tierpool("status", "--json")
        assert isinstance(ran.json, dict)
        return ran.json

    status = await shown()
    while (pool := status["pools"][0])["backlog"] < 3 or pool["busy"] < 4:
        await asyncio.sleep(0.3)  # what the server says is some seconds old
        status = await shown()
    for_people = await tierpool("status")
    gate.set()
    for handle in handles:
        await flow_result(handle)

    assert ("nano", 1, 4, 4, 0) == tuple(
        pool[key] for key in ("pool", "workers", "limit", "busy", "ready")
    )
    assert (3, "max", "all 4 instances are busy") == tuple(
        pool[key] for key in ("completed", "bound", "reason")
    )
    assert ["openai:small"] == pool["models"]
    assert pool["oldest_seconds"] > 0
    assert pool["mean_seconds"] > 0
    (worker,) = status["workers"]
    assert {"flows", "tools", "control", "nano"} < set(worker["serves"])
    assert "max: all 4 instances are busy" in for_people.out
    assert "incoming" in for_people.out


async def test_status_names_workers_that_do_not_fit_together(
    running: Start, tierpool: Command
) -> None:
    """Another model in the file of a second worker is a note."""
    fleet = await running(REVIEW)
    rewrite(fleet, lambda text: text.replace("openai:small", "openai:other"))
    other = load_fleet(fleet.fleet.path)
    address = fleet.client.service_client.config.target_host
    client = await Client.connect(address, plugins=[TierpoolPlugin(other)])
    async with working(client, other, Served(pools=("nano",))):
        ran = await tierpool("status")

    assert 0 == ran.status
    assert "workers run different fleet files: tiers.nano.model is" in ran.out
