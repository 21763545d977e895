"""Records the histories that the replay tests replay; run by `make histories`.

A recorded history is a promise to the items that were running when tierpool
was updated: record a new one beside the old ones, and replace an old one only
if no release can have made it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any

from temporalio.client import Client, WorkflowFailureError
from temporalio.worker import Worker
from tests.histories.own_workflow import OWN, Book, RoutedWriter

from tierpool import TierpoolPlugin, load_fleet, start_flow
from tierpool.client import ItemHandle, fleet_of, lease_of
from tierpool.contracts import HumanDecision, ItemStatus, Usage
from tierpool.contracts.claims import CLAIMS_QUERY, ClaimsState, claims_id
from tierpool.contracts.ledger import (
    CALLS,
    LEDGER_QUERY,
    NANO,
    USD,
    Cap,
    FleetLimits,
    LedgerState,
    ledger_id,
)
from tierpool.contracts.limits import LimitsRequest
from tierpool.contracts.reports import WorkerReport
from tierpool.contracts.scaling import PoolDecision, scaling_id
from tierpool.pools.apply import apply_limits, pool_limits
from tierpool.pools.autoscaler.acting import Slots
from tierpool.pools.autoscaler.leading import Candidate
from tierpool.testing import (
    Overloaded,
    RateLimited,
    Reply,
    ScriptedProvider,
    SeenRequest,
    dev_server,
)
from tierpool.worker import Served, run_workers

FOLDER = Path(__file__).parent
DOUBTFUL = (
    "Please:\n- rename the field\n- move the button\n- explain why\nx = compute(1)"
)

Scenario = Callable[[Client, ScriptedProvider], Awaitable[Any]]


def verdict(value: str) -> Reply:
    return Reply(json={"verdict": value, "notes": "seen"})


async def _item(client: Client, flow: str) -> ItemHandle:
    fields = {"title": "Rename a field", "text": DOUBTFUL, "data": {"priority": 2}}
    return await start_flow(client, flow, fields, id=f"recorded-{flow}")


async def reviewed(client: Client, provider: ScriptedProvider) -> ItemHandle:
    """Make a loop: planned, rejected, planned again, approved; with a state's timer."""
    provider.script(
        Reply("plan"), verdict("reject"), Reply("plan 2"), verdict("approve")
    )
    return await _item(client, "reviewed")


async def verified(client: Client, provider: ScriptedProvider) -> ItemHandle:
    """Escalate after a refusal."""
    provider.script(
        Reply("work"),
        Reply(json={"accept": False, "reason": "too vague"}),
        Reply("better work"),
        Reply(json={"accept": True, "reason": ""}),
    )
    return await _item(client, "verified")


async def released(client: Client, provider: ScriptedProvider) -> ItemHandle:
    """Let a person decide."""
    provider.script(Reply("plan"))
    handle = await _item(client, "released")
    await handle.query("status", result_type=ItemStatus)  # it waits from now on
    await handle.execute_update("decide", HumanDecision(reply={"verdict": "approve"}))
    return handle


async def troubled(client: Client, provider: ScriptedProvider) -> ItemHandle:
    """Wait for a provider, fail over to the other model, repair an invalid reply."""
    provider.script(
        RateLimited(), Reply("plan"), Overloaded(), Overloaded(), Reply("fine"),
        verdict("approve"),
    )  # fmt: skip
    return await start_flow(client, "reviewed", DOUBTFUL, id="recorded-troubled")


async def cancelled(client: Client, provider: ScriptedProvider) -> ItemHandle:
    """Cancel an item while its provider is at work."""
    provider.script(Reply("never", gate=asyncio.Event()))
    handle = await start_flow(client, "reviewed", DOUBTFUL, id="recorded-cancelled")
    await provider.until(lambda books: books.in_flight == 1)
    await handle.cancel()
    return handle


async def paused(client: Client, provider: ScriptedProvider) -> ItemHandle:
    """Break off a call by a pause; after it a role goes on in its conversation."""
    provider.script(
        Reply("never", gate=asyncio.Event()), Reply("1"), verdict("reject"), Reply("2"),
        verdict("approve"),
    )  # fmt: skip
    handle = await _item(client, "talked")
    await provider.until(lambda books: books.in_flight == 1)
    await handle.execute_update("pause")
    await provider.until(lambda books: books.in_flight == 0)
    await handle.execute_update("resume")
    return handle


async def denied(client: Client, provider: ScriptedProvider) -> ItemHandle:
    """Wait for a raise in vain: the second call is denied, the item fails."""
    provider.script(Reply("plan"))
    return await start_flow(
        client, "reviewed", DOUBTFUL, id="recorded-denied", budget_usd="0.005"
    )


async def shared(client: Client, provider: ScriptedProvider) -> Any:
    """Share a budget among parallel calls and children, until nothing is left."""
    provider.default(Reply("well", usage=Usage(input_tokens=500, output_tokens=500)))
    async with Worker(client, task_queue="recorded-own", workflows=OWN):
        handle = await client.start_workflow(
            Book.run, "0.02", id="recorded-shared", task_queue="recorded-own"
        )
        await handle.result()
    return handle


async def chapter(client: Client, provider: ScriptedProvider) -> Any:
    """Draw on a parent's budget; recorded by `shared`."""
    await shared(client, provider)
    return client.get_workflow_handle("recorded-shared-0")


async def routed(client: Client, provider: ScriptedProvider) -> Any:
    """Route a call of a user's own workflow with the LLM classifier's help."""

    def asked(request: SeenRequest) -> bool:
        return "<work>" in request.text

    provider.on(asked, Reply(json={"tier": "PREMIUM"}), times=1)
    provider.script(Reply(json={"title": "On fields", "words": 3}))
    async with Worker(client, task_queue="recorded-own", workflows=OWN):
        handle = await client.start_workflow(
            RoutedWriter.run, DOUBTFUL, id="recorded-own", task_queue="recorded-own"
        )
        await handle.result()
    return handle


async def passed_by(client: Client, provider: ScriptedProvider) -> ItemHandle:
    """Fail over; the next call of the item passes the first model by."""
    provider.script(
        Reply("plan"), Overloaded(), Overloaded(), verdict("reject"), Reply("plan 2"),
        verdict("approve"),
    )  # fmt: skip
    return await start_flow(client, "reviewed", DOUBTFUL, id="recorded-passed-by")


async def closed(client: Client, provider: ScriptedProvider) -> ItemHandle:
    """Leave in the memo what an item cost."""
    provider.script(Reply("plan"), verdict("approve"))
    return await start_flow(client, "reviewed", DOUBTFUL, id="recorded-closed")


async def limited(client: Client, provider: ScriptedProvider) -> Any:
    """Apply limits to the fleet twice, and withdraw them."""
    pools = pool_limits(fleet_of(client))
    more = pools["nano"].model_copy(update={"max_instances": 20})
    await apply_limits(client, "recorded", LimitsRequest(pools=pools), "recorder")
    larger = LimitsRequest(pools=pools | {"nano": more})
    await apply_limits(client, "recorded", larger, "recorder")
    await apply_limits(client, "recorded", LimitsRequest(), "recorder")
    handle = client.get_workflow_handle("recorded-limits")
    await handle.terminate("recorded")
    return handle


async def claimed(client: Client, provider: ScriptedProvider) -> ItemHandle:
    """Wait for the only instance of a role, and for a slot of a WIP limit with it."""
    gate = asyncio.Event()
    provider.script(Reply("built", gate=gate))
    provider.default(Reply("built", delay=timedelta(seconds=0.2)))
    first = await start_flow(client, "claimed", DOUBTFUL, id="recorded-claimed-1")
    await provider.until(lambda books: books.in_flight == 1)
    second = await start_flow(client, "claimed", DOUBTFUL, id="recorded-claimed-2")
    claims = client.get_workflow_handle(claims_id("recorded"))
    while not (await claims.query(CLAIMS_QUERY, result_type=ClaimsState)).waiting:  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    gate.set()
    await first.result()
    return second


async def claims(client: Client, provider: ScriptedProvider) -> Any:
    """Grant claims to the runs of `claimed`, and look after a terminated holder."""
    second = await claimed(client, provider)
    await second.result()
    provider.script(Reply("never", gate=asyncio.Event()))
    item = await start_flow(client, "claimed", DOUBTFUL, id="recorded-claimed-3")
    await provider.until(lambda books: books.in_flight == 1)
    await item.terminate("recorded")
    handle = client.get_workflow_handle(claims_id("recorded"))
    while (await handle.query(CLAIMS_QUERY, result_type=ClaimsState)).held:  # noqa: ASYNC110
        await asyncio.sleep(0.5)
    await handle.terminate("recorded")
    return handle


async def ledger(client: Client, provider: ScriptedProvider) -> Any:
    """Lease money and calls, run out of both, and raise an alert."""
    usage = Usage(input_tokens=500, output_tokens=500)
    provider.script(Reply("plan", usage=usage), verdict("approve"))
    shared = FleetLimits(
        caps={
            USD: (Cap(amount=NANO // 10, seconds=3600.0, bucket=60.0),),
            CALLS: (Cap(amount=2),),
        },
        alert_usd=Decimal("0.001"),
    )
    await apply_limits(client, "recorded", LimitsRequest(shared=shared), "recorder")
    lease_of(client).follow(shared.model_copy(update={"generation": 1}))
    item = await start_flow(client, "reviewed", DOUBTFUL, id="recorded-leased")
    await item.result()
    handle = client.get_workflow_handle(ledger_id("recorded"))
    while not (await handle.query(LEDGER_QUERY, result_type=LedgerState)).alerts:  # noqa: ASYNC110
        await asyncio.sleep(0.3)
    await asyncio.sleep(5)  # the lease is given back
    await handle.terminate("recorded")
    return handle


async def scaled(client: Client, provider: ScriptedProvider) -> Any:
    """Let one autoscaler lead and another one not, and give the lead back."""
    first, second = (Candidate(client, "recorded", "slots", 5.0) for _ in range(2))
    await first.ask(())
    made = PoolDecision(
        pool="nano",
        at=datetime(2026, 11, 22, tzinfo=UTC),
        instances=3,
        workers=1,
        reason="recorded",
    )
    await first.ask((made,))
    await second.ask((made,))
    await first.resign()
    await second.ask(())
    await second.ask((made.model_copy(update={"instances": 5}),), "refused")
    handle = client.get_workflow_handle(scaling_id("recorded"))
    await handle.terminate("recorded")
    return handle


async def followed(client: Client, provider: ScriptedProvider) -> Any:
    """Let workers follow an autoscaler for a while."""
    slots = Slots(client, "recorded", 2.0)
    now = datetime.now(UTC)
    made = PoolDecision(pool="nano", at=now, instances=3, workers=1)
    there = {"nano": [WorkerReport(id="w", fleet="recorded", started=now, at=now)]}
    await slots.scale((made,), there)
    await slots.scale((made.model_copy(update={"instances": 2}),), there)
    handle = client.get_workflow_handle("recorded-limits")
    await handle.terminate("recorded")
    return handle


SCENARIOS: Mapping[str, Scenario] = MappingProxyType(
    {
        made.__name__: made
        for made in (
            *(reviewed, verified, released, troubled, cancelled, routed),
            *(paused, denied, shared, chapter, passed_by, limited),
            *(claimed, claims, closed, ledger, scaled, followed),
        )
    }
)


def _write(name: str, history: Any) -> None:
    text = json.dumps(_without_traces(history), indent=1, sort_keys=True)
    (FOLDER / f"{name}.json").write_text(text + "\n")


def _without_traces(value: Any) -> Any:
    """Leave out stack traces: they name folders of this machine."""
    if isinstance(value, list):
        return [_without_traces(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {k: _without_traces(v) for k, v in value.items() if k != "stackTrace"}


async def record(names: list[str]) -> None:
    """Play scenarios and write what happened."""
    socket.gethostname = lambda: "recorder"  # lessees tell the ledger where they are
    async with dev_server() as server, ScriptedProvider() as provider:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "agents.yaml"
            text = (FOLDER / "agents.yaml").read_text()
            path.write_text(text.replace("BASE_URL", provider.base_url))
            fleet = load_fleet(path)
            client = await Client.connect(
                server.client.service_client.config.target_host,
                identity="recorder",  # the default would name this machine
                plugins=[
                    TierpoolPlugin(fleet, compress=False)
                ],  # tests edit these bytes
            )
            stop = asyncio.Event()
            everything = Served.everything(fleet)
            working = asyncio.create_task(run_workers(client, everything, stop))
            for name in names:
                handle = await SCENARIOS[name](client, provider)
                with suppress(WorkflowFailureError):
                    await handle.result()
                _write(name, json.loads((await handle.fetch_history()).to_json()))
            stop.set()
            await working


def main() -> None:
    """Record the scenarios named, or those that have no file yet."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(SCENARIOS))
    names = parser.parse_args().names
    if not set(names) <= SCENARIOS.keys():
        parser.error(f"known: {', '.join(SCENARIOS)}")
    missing = [name for name in SCENARIOS if not (FOLDER / f"{name}.json").exists()]
    if names or missing:
        asyncio.run(record(names or missing))


if __name__ == "__main__":
    main()
