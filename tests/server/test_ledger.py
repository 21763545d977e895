"""Limits of the whole fleet: dollars per hour, rates and calls at a time."""

import asyncio
import json
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from datetime import timedelta
from decimal import Decimal

import pytest
from aiohttp import web
from temporalio.client import Client

from tierpool import TierpoolPlugin
from tierpool.contracts import FlowResult, ItemCosts, Usage
from tierpool.contracts.ledger import LEDGER_QUERY, LedgerState, ledger_id
from tierpool.testing import Reply
from tierpool.worker import Served

from .conftest import Running, Start, working

ROLES = """
LIMITS
agents:
  writer: {prompt: "Write.\\n", tier: TIER, max_output_tokens: 1000}
flows:
  writing:
    initial: incoming
    transitions:
      "incoming -> done": {agent: writer}
"""
ALL = Served(flows=True, pools=("nano", "standard"), control=True)
USAGE = Usage(input_tokens=600, output_tokens=700)
"""Costs 0.002 USD on nano; the worst case of a call is about 0.0027."""
DOUBTFUL = (
    "Please:\n- rename the field\n- move the button\n- explain why\nx = compute(1)"
)
"""Neither plainly easy nor hard: goes to the tier standard."""
HOUR = "guardrails: {max_cost_per_hour_usd: CAP, on_exhausted: MODE}"


def roles(limits: str, tier: str = "nano") -> str:
    return ROLES.replace("LIMITS", limits).replace("TIER", tier)


def capped(cap: str, mode: str = "wait") -> str:
    return HOUR.replace("CAP", cap).replace("MODE", mode)


async def another(fleet: Running) -> Client:
    """Connect as another process would: with a lease of its own."""
    host = fleet.client.service_client.config.target_host
    return await Client.connect(host, plugins=[TierpoolPlugin(fleet.fleet)])


async def ledger(fleet: Running) -> LedgerState:
    handle = fleet.client.get_workflow_handle(ledger_id(fleet.fleet.name))
    return await handle.query(LEDGER_QUERY, result_type=LedgerState)


def most_within(moments: Iterable[float], seconds: float) -> int:
    """Return the most that fell into any window of so many seconds."""
    at = sorted(moments)
    return max(sum(1 for b in at if a <= b < a + seconds) for a in at)


def begun(fleet: Running) -> list[float]:
    return [call.started.timestamp() for call in fleet.provider.calls]


@pytest.fixture
def short_hour(monkeypatch: pytest.MonkeyPatch) -> float:
    monkeypatch.setenv("TIERPOOL_LEDGER_HOUR_SECONDS", "3")
    return 3.0


async def test_the_hour_is_never_overspent_and_frees_again(
    running: Start, short_hour: float
) -> None:
    """Over two processes' leases; items wait in the queue and go on by themselves."""
    fleet = await running(roles(capped("0.02")), served=ALL)
    fleet.provider.default(Reply("well", usage=USAGE))
    async with working(await another(fleet), fleet.fleet, ALL):
        items = [await fleet.start("writing") for _ in range(24)]
        results = [await item.result() for item in items]

    assert {result.state for result in results} == {"done"}
    assert all(result.attempts == 1 for result in results)
    assert sum(result.cost_usd for result in results) == Decimal("0.048")
    assert most_within(begun(fleet), short_hour) <= 10


async def test_fleet_that_fails_denies_what_the_hour_does_not_pay_for(
    running: Start,
) -> None:
    fleet = await running(roles(capped("0.006", "fail")), served=ALL)
    fleet.provider.default(Reply("well", usage=USAGE))

    first = await fleet.run("writing")
    second = await fleet.run("writing")
    third = await fleet.run("writing")

    assert first.cost_usd == second.cost_usd == Decimal("0.002")
    assert third.state == "failed"
    assert "max_cost_per_hour_usd leaves too little" in third.reason
    assert fleet.provider.accounting.calls == 2


async def test_fleet_that_downgrades_goes_a_tier_down(running: Start) -> None:
    """What the dear tier cannot have any more, the cheap one may."""
    tier = "{min: nano, max: standard}"
    fleet = await running(roles(capped("0.03", "downgrade"), tier=tier), served=ALL)
    fleet.provider.default(Reply("well", usage=USAGE))

    tiers = []
    for _ in range(2):
        item = await fleet.start("writing", DOUBTFUL)
        assert (await item.result()).state == "done"
        costs = await item.query("costs", result_type=ItemCosts)
        tiers.append(costs.attempts[-1].tier)

    assert tiers == ["standard", "nano"]
    assert "max_cost_per_hour_usd" in costs.attempts[-1].reason


async def test_call_above_the_whole_cap_is_denied_at_once(running: Start) -> None:
    """Waiting would be for ever."""
    fleet = await running(roles(capped("0.001")), served=ALL)

    result = await fleet.run("writing")

    assert result.state == "failed"
    assert "allows $0.001" in result.reason
    assert not fleet.provider.accounting.calls


async def test_calls_at_a_time_are_bounded_over_processes(running: Start) -> None:
    fleet = await running(roles("max_concurrent: 3"), served=ALL)
    fleet.provider.default(Reply("well", first_byte_delay=timedelta(seconds=0.4)))
    async with AsyncExitStack() as stack:
        for _ in range(2):
            more = working(await another(fleet), fleet.fleet, ALL)
            await stack.enter_async_context(more)
        items = [await fleet.start("writing") for _ in range(15)]
        results = [await item.result() for item in items]

    assert {result.state for result in results} == {"done"}
    assert fleet.provider.accounting.peak_in_flight == 3


async def test_requests_of_a_model_keep_to_its_rate(running: Start) -> None:
    """A burst of requests is spread: none is turned away, and none is lost."""
    base = """
version: 1
fleet: FLEET_NAME
tiers:
  nano:
    model: openai:small
    base_url: BASE_URL/v1
    price: {input_usd_per_mtok: 1, output_usd_per_mtok: 2}
    rate_limit: {requests_per_minute: 600, burst: 3}
"""
    served = Served(flows=True, pools=("nano",), control=True)
    fleet = await running(roles(""), base=base, served=served)
    fleet.provider.default(Reply("well"))
    async with working(await another(fleet), fleet.fleet, served):
        items = [await fleet.start("writing") for _ in range(12)]
        results = [await item.result() for item in items]

    assert {result.state for result in results} == {"done"}
    assert most_within(begun(fleet), 1.0) <= 3


async def test_alert_is_told_once_for_each_crossing(
    running: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To a webhook that first refuses, while calls go on."""
    told: list[object] = []

    async def hook(request: web.Request) -> web.Response:
        told.append(json.loads(await request.text()))
        return web.Response(status=500 if len(told) == 1 else 200)

    app = web.Application()
    app.router.add_post("/secret-hook", hook)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    rules = (
        "guardrails: {max_cost_per_hour_usd: 1, alert_threshold_usd: 0.003, "
        f"alert_webhook: http://127.0.0.1:{port}/secret-hook}}"
    )
    fleet = await running(roles(rules), served=ALL)
    fleet.provider.default(Reply("well", usage=USAGE))
    try:
        for _ in range(4):
            await fleet.run("writing")
            await asyncio.sleep(0.2)
        await until(lambda: len(told) == 2)
    finally:
        await runner.cleanup()

    state = await ledger(fleet)
    assert state.alerting
    [alert] = state.alerts
    assert alert.threshold_usd == Decimal("0.003") <= alert.hour_usd
    assert told[0] == told[1]
    history = await fleet.client.get_workflow_handle(
        ledger_id(fleet.fleet.name)
    ).fetch_history()
    assert "secret-hook" not in history.to_json()


async def test_totals_of_the_hour_are_what_the_provider_charged(
    running: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any limit, too: the ledger only counts then."""
    monkeypatch.setattr("tierpool.leases.lease._METER_PERIOD", 1.0)
    fleet = await running(roles(""), served=ALL)
    fleet.provider.default(Reply("well", usage=USAGE))
    results: list[FlowResult] = [await fleet.run("writing") for _ in range(3)]

    async def counted() -> Decimal:
        hours = (await ledger(fleet)).hours
        return sum((t.settled_usd for h in hours for t in h.totals), Decimal(0))

    spent = sum((result.cost_usd for result in results), Decimal(0))
    async with asyncio.timeout(30):
        while await counted() != spent:  # noqa: ASYNC110
            await asyncio.sleep(0.3)


async def until(condition: Callable[[], object], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.05)
