"""A worker polls only for what it could start: refusing providers, bad keys, fallbacks."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from temporalio.client import WorkflowExecutionStatus
from temporalio.worker import Worker

from tierpool.client import flow_result, gates_of
from tierpool.pools.gate import Gate
from tierpool.testing import Overloaded, RateLimited, Reply, ScriptedProvider
from tierpool.worker import Served

from .conftest import FLEET, REVIEW, Running, Start, nano

ROLES = REVIEW.replace("tier: nano", "tier: nano, max_attempts: 9")
WITH_KEY = FLEET.replace(
    "base_url: BASE_URL/v1", "base_url: BASE_URL/v1\n    api_key_env: OPENAI_API_KEY", 1
)
RUNNING = WorkflowExecutionStatus.RUNNING
KEY = "sk-test-0123456789abcdef"  # as the fixture sets it
WITH_FALLBACK = FLEET.replace(
    "pool: {max_instances: 4}",
    """fallback:
      - model: openai:spare
        base_url: BASE_URL/v1
        price: {input_usd_per_mtok: 3, output_usd_per_mtok: 4}
    pool: {max_instances: 4}""",
    1,
)


def gate(fleet: Running) -> Gate:
    return gates_of(fleet.client)["nano"]


async def test_refused_key_closes_the_pool_until_it_is_accepted(running: Start) -> None:
    """With a key that is not taken hardly anything is sent; items wait, and go on."""
    fleet = await running(ROLES, base=WITH_KEY)
    fleet.provider.default(Reply("fine"))
    first = await fleet.run("review")
    fleet.provider.keys = frozenset()
    handles = [await fleet.start("review") for _ in range(12)]
    await asyncio.sleep(2)
    report, calls = gate(fleet).report(), fleet.provider.accounting.calls
    fleet.provider.keys = frozenset([KEY])
    results = [await flow_result(handle) for handle in handles]

    assert "done" == first.state
    assert (1, "provider") == (calls, report.bound)
    assert "HTTP 401" in report.trouble
    assert KEY not in report.model_dump_json()
    assert ["done"] * 12 == [result.state for result in results]
    assert 13 == fleet.provider.accounting.calls
    assert "" == gate(fleet).report().trouble


async def test_key_is_asked_for_before_the_first_poll(
    running: Start, provider: ScriptedProvider
) -> None:
    """A pool whose key was never taken begins in trouble; its items lose nothing."""
    provider.keys = frozenset()
    fleet = await running(ROLES, base=WITH_KEY)
    fleet.provider.default(Reply("fine"))
    begun = gate(fleet).report()
    handle = await fleet.start("review")
    await asyncio.sleep(1)
    fleet.provider.keys = None

    result = await flow_result(handle)

    assert ("provider", 0) == (begun.bound, begun.ready)
    assert "HTTP 401" in begun.trouble
    assert "done" == result.state
    assert 1 == fleet.provider.accounting.calls


async def test_provider_that_asks_for_time_gets_it_without_a_slot(
    running: Start,
) -> None:
    """After one 429 the pool sends nothing until the time is over; then all is made."""
    fleet = await running(ROLES)
    fleet.provider.script(RateLimited(wait=timedelta(seconds=3)))
    fleet.provider.default(Reply("fine"))
    refused = await fleet.start("review")
    await fleet.provider.until(lambda books: books.calls == 1 and not books.in_flight)
    handles = [await fleet.start("review") for _ in range(9)]
    await asyncio.sleep(1.5)
    during = gate(fleet).report()
    calls = fleet.provider.accounting.calls

    results = [await flow_result(handle) for handle in [refused, *handles]]

    assert 1 == calls
    assert ("provider", 0) == (during.bound, during.busy)
    assert "openai:small takes no calls for" in during.reason
    assert during.ready + during.cooldown >= 1
    assert during.cooldown >= 1
    assert ["done"] * 10 == [result.state for result in results]
    assert 11 == fleet.provider.accounting.calls


async def test_provider_that_refuses_for_ever_is_asked_less_and_less(
    running: Start,
) -> None:
    """Many items against 429s for ever: a few requests, no slot held, then recovery."""
    fleet = await running(ROLES)
    fleet.provider.default(RateLimited(dialect="none"))
    handles = [await fleet.start("review") for _ in range(20)]
    await fleet.provider.until(lambda books: books.calls >= 3)
    await asyncio.sleep(3)
    calls, during = fleet.provider.accounting.calls, gate(fleet).report()
    fleet.provider.default(Reply("fine"))
    results = await asyncio.gather(*(flow_result(handle) for handle in handles))

    assert calls <= 8
    assert ("provider", 0) == (during.bound, during.busy)
    assert ["done"] * 20 == [result.state for result in results]


async def test_items_go_to_the_fallback_and_come_back(running: Start) -> None:
    """While the first model is overloaded the second serves; later the first again."""
    fleet = await running(ROLES, base=WITH_FALLBACK)
    down = True
    fleet.provider.on(lambda r: down and r.model == "small", Overloaded())
    fleet.provider.default(Reply("fine"))
    results = await asyncio.gather(*(fleet.run("review") for _ in range(12)))
    refused = sum(r.model == "small" for r in fleet.provider.requests)
    down = False
    gate(fleet).throttles[f"{fleet.fleet.name}-nano"].answered()
    gate(fleet).throttles[f"{fleet.fleet.name}-nano"]._closed_until = 0.0
    fleet.provider.requests.clear()
    await asyncio.gather(*(fleet.run("review") for _ in range(4)))

    assert ["done"] * 12 == [result.state for result in results]
    assert refused <= 8
    assert {"small"} == {r.model for r in fleet.provider.requests}


async def test_fallback_serves_while_the_key_of_the_first_model_is_refused(
    running: Start,
) -> None:
    """Items go on at once at the fallback, which needs no key here."""
    base = WITH_FALLBACK.replace(
        "base_url: BASE_URL/v1",
        "base_url: BASE_URL/v1\n    api_key_env: OPENAI_API_KEY",
        1,
    )
    fleet = await running(ROLES, base=base)
    fleet.provider.default(Reply("fine"))
    fleet.provider.keys = frozenset(["none"])  # what stands for no key
    results = await asyncio.gather(*(fleet.run("review") for _ in range(6)))

    assert ["done"] * 6 == [result.state for result in results]
    assert {"spare"} == {request.model for request in fleet.provider.requests}
    assert "HTTP 401" in gate(fleet).report().trouble


async def test_worker_of_a_users_own_is_gated_and_tended(running: Start) -> None:
    """Its number of activities is the pool's limit; a refused key is got over."""
    fleet = await running(ROLES, base=WITH_KEY, served=Served(flows=True))
    fleet.provider.default(Reply("fine"))
    fleet.provider.keys = frozenset()
    queue = f"{fleet.fleet.name}-nano"
    async with Worker(fleet.client, task_queue=queue, max_concurrent_activities=2):
        handles = [await fleet.start("review") for _ in range(5)]
        await asyncio.sleep(2)
        trouble, limit = gate(fleet).report().trouble, nano(fleet).limit
        fleet.provider.keys = None
        results = [await flow_result(handle) for handle in handles]

    assert ("HTTP 401" in trouble, limit) == (True, 2)
    assert ["done"] * 5 == [result.state for result in results]
    assert fleet.provider.accounting.peak_in_flight <= 2


async def test_tiers_that_share_a_model_share_what_it_takes(running: Start) -> None:
    """While one call at a time is allowed, a busy tier does not keep out another."""
    base = FLEET.replace("openai:large", "openai:small").replace(
        "max_instances: 2", "max_instances: 4"
    )
    other = """
  second: {prompt: "Second.\\n", tier: premium}
flows:
  urgent:
    initial: incoming
    transitions:
      "incoming -> done": {agent: second}
"""
    fleet = await running(ROLES.replace("flows:", other), base=base)
    fleet.provider.script(RateLimited(wait=timedelta(seconds=1)))
    fleet.provider.default(Reply("fine", delay=timedelta(seconds=0.2)))
    busy = [await fleet.start("review") for _ in range(25)]
    await fleet.provider.until(lambda books: books.calls >= 3)
    await fleet.run("urgent")
    waiting = sum([(await handle.describe()).status is RUNNING for handle in busy])
    for handle in busy:
        await flow_result(handle)

    assert waiting > 0


async def test_headers_slow_a_pool_down_before_it_is_refused(running: Start) -> None:
    """With 1 request left of the minute, 4 instances send one at a time."""
    fleet = await running(ROLES)
    told = {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "60s",
    }
    fleet.provider.script(Reply("fine", headers=told))
    fleet.provider.default(Reply("fine"))
    await fleet.run("review")
    closed = gate(fleet).throttles[f"{fleet.fleet.name}-nano"].closed_for

    result = await fleet.run("review")

    assert 0 < closed <= 1
    assert ("done", 1) == (result.state, result.attempts)
