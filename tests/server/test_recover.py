"""`tierpool ledger recover`: nothing limited begins without a ledger, and it goes on."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, cast

import pytest
from temporalio.client import WorkflowHandle
from temporalio.service import RPCError

from tierpool.client import flow_result, lease_of
from tierpool.contracts import Usage
from tierpool.contracts.ledger import ledger_id
from tierpool.testing import Reply
from tierpool.worker import Served

from .claims import BASE, REVIEWED, claims_of, entity, held, until_claims, waits, worked
from .conftest import Command, Running, Start, working

ROLES = """
guardrails: {max_cost_per_hour_usd: 0.02, on_exhausted: wait}
agents:
  writer: {prompt: "Write.\\n", tier: nano, max_output_tokens: 1000, max_instances: 1}
flows:
  writing:
    initial: incoming
    transitions:
      "incoming -> done": {agent: writer}
"""
USAGE = Usage(input_tokens=600, output_tokens=700)
COST = Decimal("0.002")
CAP = Decimal("0.02")
WITHOUT_CONTROL = Served(flows=True, pools=("nano", "standard", "premium"))


def ledger(fleet: Running) -> WorkflowHandle[Any, Any]:
    return fleet.client.get_workflow_handle(ledger_id(fleet.fleet.name))


async def until(condition: Callable[[], object], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while True:
            if condition():
                return
            await asyncio.sleep(0.1)


async def recover(tierpool: Command, *args: str) -> list[dict[str, Any]]:
    ran = await tierpool("ledger", "recover", "--yes", "--json", *args)
    assert 0 == ran.status, ran.err
    return cast(list[dict[str, Any]], ran.json)


async def status_with(tierpool: Command, words: str) -> str:
    """Wait for what workers report every few seconds."""
    said = ""
    async with asyncio.timeout(30):
        while words not in said:
            said = " ".join((await tierpool("status")).out.split())
    return said


async def test_ended_ledger_stops_the_fleet_until_it_is_recovered(
    running: Start, tierpool: Command, capfd: pytest.CaptureFixture[str]
) -> None:
    """Worker and status say what to do; afterwards the hour's cap holds as before."""
    fleet = await running(ROLES)
    calls = lambda: fleet.provider.accounting.calls  # noqa: E731
    fleet.provider.default(Reply("fine", usage=USAGE, delay=timedelta(seconds=0.5)))
    items = [await fleet.start("writing") for _ in range(16)]
    await until(lambda: calls() >= 2)
    await ledger(fleet).terminate("by mistake")
    lease = lease_of(fleet.client)
    await until(lambda: lease.trouble and not lease.view().valid)
    await until(lambda: fleet.provider.accounting.in_flight == 0)
    before = calls()
    said = await status_with(tierpool, "without a valid lease")

    assert before == calls()
    assert before * COST < CAP
    assert "the ledger was terminated at" in said
    assert "nothing begins that needs max_cost_per_hour_usd" in said
    assert "run `tierpool ledger recover`" in said
    logged = "".join(capfd.readouterr())  # on which of the two depends on earlier tests
    assert "lease.lost" in logged
    assert "run `tierpool ledger recover`" in logged

    asked = await tierpool("ledger", "recover")
    done, claims = await recover(tierpool)
    again = await tierpool("ledger", "recover", "--yes")
    await until(lambda: not lease.trouble)
    await until(lambda: calls() > before or before * COST + COST > CAP)
    await until(lambda: lease.view().blocked)
    costs = await tierpool("costs", "--json")

    assert 1 == asked.status
    assert "was terminated at" in asked.out
    assert "nothing was started; pass --yes" in asked.out
    assert (True, True, None) == (
        done["started"],
        done["seeded"],
        done["closed_until"],
    )
    assert ("running", False) == (claims["found"], claims["started"])
    assert "there is nothing to recover" in again.out
    assert before < calls()
    assert calls() * COST <= CAP
    assert isinstance(costs.json, dict)
    assert Decimal(costs.json["total"]["settled_usd"]) <= CAP
    for item in items:
        with suppress(RPCError):  # some have ended
            await item.terminate()


async def test_ledger_that_cannot_be_asked_starts_closed(
    running: Start, tierpool: Command
) -> None:
    """For an hour and the longest call after its end; status says why and how long."""
    fleet = await running(ROLES, served=WITHOUT_CONTROL)
    fleet.provider.default(Reply("fine", usage=USAGE))
    await lease_started(fleet)
    await ledger(fleet).terminate("by mistake")
    ended = datetime.now(UTC)

    (done, _) = await recover(tierpool)
    async with working(fleet.client, fleet.fleet, Served(control=True)):
        item = await fleet.start("writing")
        lease = lease_of(fleet.client)
        await until(lambda: "recovered without" in lease.trouble)
        status = await tierpool("status")
        await item.terminate()

    assert (True, False) == (done["started"], done["seeded"])
    assert "no control worker" in done["unknown"]
    until_then = datetime.fromisoformat(done["closed_until"]) - ended
    assert timedelta(hours=1) < until_then < timedelta(hours=1, minutes=10)
    assert "the ledger grants nothing until" in status.out
    assert 0 == fleet.provider.accounting.calls


async def lease_started(fleet: Running) -> None:
    """Wait until a worker has started the ledger."""
    async with asyncio.timeout(30):
        while True:
            try:
                await ledger(fleet).describe()
            except RPCError:  # it is not there yet
                await asyncio.sleep(0.1)
            else:
                return


async def test_ended_claims_go_on_where_they_were(
    running: Start, tierpool: Command
) -> None:
    """Who held a claim holds it, who waited waits, and the cap is kept."""
    fleet = await running(worked("max_instances: 2"), base=BASE)
    gate = asyncio.Event()
    fleet.provider.script(Reply("a", gate=gate), Reply("b", gate=gate))
    fleet.provider.default(Reply("fine"))
    items = [await fleet.start("work") for _ in range(6)]
    await until_claims(fleet, waits(4))
    await entity(fleet).terminate("by mistake")

    status = await tierpool("status")
    (done,) = await recover(tierpool, "--claims")
    state = await until_claims(fleet, waits(4))
    gate.set()
    results = await asyncio.gather(*(flow_result(item) for item in items))

    assert "the claims workflow was terminated at" in status.out
    assert (True, True) == (done["started"], done["seeded"])
    assert 2 == len(state.held)
    assert {"done"} == {result.state for result in results}
    assert 2 == fleet.provider.accounting.peak_in_flight
    await until_claims(fleet, held(0))


async def test_claims_without_knowledge_count_what_items_hold(
    running: Start, tierpool: Command
) -> None:
    """Closed for the longest call, with the WIP limits of the items that run."""
    fleet = await running(REVIEWED, base=BASE)
    gate = asyncio.Event()
    fleet.provider.on(lambda request: "Review" in (request.system or ""),
                      Reply(json={"verdict": "approve"}, gate=gate))  # fmt: skip
    fleet.provider.default(Reply("fine"))
    items = [await fleet.start("work") for _ in range(2)]
    await fleet.provider.until(lambda books: books.in_flight == 2)
    await until_claims(fleet, held(2))
    before = await claims_of(fleet)
    await entity(fleet).terminate("by mistake")

    (done,) = await recover(tierpool, "--claims", "--closed")
    state = await until_claims(fleet, held(2))
    gate.set()
    for item in items:
        await item.terminate()

    assert (True, False, 2) == (done["started"], done["seeded"], done["holds"])
    assert done["closed_until"] is not None
    assert {claim.key for claim in before.held} == {claim.key for claim in state.held}
    assert {f"prs/{item.id}" for item in items} == {claim.id for claim in state.held}


async def test_where_nothing_ever_ran_there_is_nothing_to_recover(
    running: Start, tierpool: Command
) -> None:
    """Unless it is to start closed, as after the loss of the server's database."""
    await running(ROLES, served=Served(flows=True))

    nothing = await tierpool("ledger", "recover", "--yes")
    (done, _) = await recover(tierpool, "--closed")

    assert 0 == nothing.status
    assert "workers start one when they need it" in nothing.out
    assert ("none", True, False) == (done["found"], done["started"], done["seeded"])
