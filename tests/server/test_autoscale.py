"""`tierpool autoscale`: one leads, pools follow, nothing is killed."""

from __future__ import annotations

import asyncio

import pytest
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import WorkflowEnvironment

from tierpool import flow_result
from tierpool.leases.applied import applied_limits
from tierpool.pools.autoscaler.acting import Advice, Slots
from tierpool.pools.observe import observe
from tierpool.scaling.policies import by_name
from tierpool.testing import Reply
from tierpool.worker import Served

from .autoscalers import (
    EIGHT,
    Late,
    Noted,
    Wanting,
    following,
    scaler,
    scaling,
    state_of,
    until,
)
from .conftest import REVIEW, Start, nano

CONTROL = Served(control=True)


async def test_running_workers_follow_and_nothing_is_killed(running: Start) -> None:
    """Instances come and go with the decisions, while calls go on."""
    fleet = await running(REVIEW, base=EIGHT, served=CONTROL)
    gate = asyncio.Event()
    fleet.provider.default(Reply("fine", gate=gate))
    policy = Wanting(3)
    slots = Slots(fleet.client, fleet.fleet.name, 1.0)
    async with following(fleet), scaling(scaler(fleet, slots, policy)):
        await until(lambda: nano(fleet).limit == 3)
        handles = [await fleet.start("review") for _ in range(8)]
        try:
            await fleet.provider.until(lambda books: books.in_flight == 3)
            policy.instances = 6
            await fleet.provider.until(lambda books: books.in_flight == 6)
            policy.instances = 2
            await until(lambda: nano(fleet).limit == 2)
        finally:
            gate.set()  # a worker whose calls never end would not stop
        peak = fleet.provider.accounting.peak_in_flight
        results = [await flow_result(handle) for handle in handles]
        status = await observe(fleet.client, fleet.fleet)

    assert [1] * 8 == [result.attempts for result in results]
    assert (6, 8) == (peak, fleet.provider.accounting.calls)
    assert status.scaling is not None
    assert [2] == [one.instances for one in status.scaling.decisions]
    assert [3, 6, 2] == [one.instances for one in status.scaling.changes]


async def test_observations_are_what_the_fleet_does(running: Start) -> None:
    """Backlog, calls under way, durations, tokens and costs reach the policy."""
    fleet = await running(REVIEW, base=EIGHT)
    fleet.provider.default(Reply("fine"))
    await asyncio.gather(*(fleet.run("review") for _ in range(6)))
    gate = asyncio.Event()
    fleet.provider.default(Reply("fine", gate=gate))
    policy = Wanting(8)
    async with scaling(scaler(fleet, Noted(), policy)):
        handles = [await fleet.start("review") for _ in range(11)]
        await until(lambda: any((s.busy, s.backlog) == (8, 3) for s in policy.seen))
        gate.set()
        for handle in handles:
            await flow_result(handle)
        await until(
            lambda: any(s.tokens_per_call and s.usd_per_call for s in policy.seen)
        )

    known = [seen for seen in policy.seen if seen.usd_per_call]
    reply = (await flow_result(handles[0])).cost_usd
    assert reply == known[-1].usd_per_call
    assert all(seen.mean_seconds for seen in known)


async def test_one_leads_and_another_takes_over_when_it_falls_silent(
    running: Start,
) -> None:
    fleet = await running(REVIEW, base=EIGHT)
    first, second = Noted(), Noted()
    async with scaling(scaler(fleet, second, Wanting(16), 4.0)) as other:
        await until(lambda: other.leads)
        async with scaling(scaler(fleet, first, Wanting(8), 4.0)) as late:
            await asyncio.sleep(1)
            assert (True, False, []) == (other.leads, late.leads, first.told)
            other.target.refuses = True  # type: ignore[attr-defined]
            await until(lambda: "says no" in other.trouble)
            other.every = 60.0  # it says nothing any more
            await until(lambda: late.leads)
            await until(lambda: bool(first.told))

    assert {16} == {one.instances for told in second.told for one in told}
    assert {8} == {one.instances for told in first.told for one in told}


async def test_who_is_told_to_stop_lets_another_lead_at_once(running: Start) -> None:
    fleet = await running(REVIEW, base=EIGHT)
    one, stop = scaler(fleet, Noted(), Wanting(8), 300.0), asyncio.Event()
    task = asyncio.create_task(one.run(stop))
    await until(lambda: one.leads)

    stop.set()
    await task

    state = await state_of(fleet)
    assert ("", None) == (state.leader, state.until)


async def test_without_anybody_who_says_so_nobody_leads(running: Start) -> None:
    """No control worker: nothing is changed, and it says what is missing."""
    served = Served(flows=True, pools=("nano",))
    fleet = await running(REVIEW, base=EIGHT, served=served)
    target = Noted()
    one = scaler(fleet, target, Wanting(8), 3.0)

    await one.step()

    assert "--control" in one.trouble
    assert (False, []) == (one.leads, target.told)


async def test_who_is_told_to_stop_while_nobody_answers_stops(running: Start) -> None:
    """Ctrl-C waits for no answer that does not come."""
    fleet = await running(REVIEW, base=EIGHT, served=Served(flows=True))
    one, stop = scaler(fleet, Noted(), Wanting(8), 3000.0), asyncio.Event()
    task = asyncio.create_task(one.run(stop))
    await until(lambda: one.decisions or one.trouble)

    stop.set()

    async with asyncio.timeout(8):  # it would wait for 10 s
        await task


async def test_who_has_looked_for_too_long_does_not_act(running: Start) -> None:
    """Somebody else may lead soon, so it is too late; and it says so."""
    fleet = await running(REVIEW, base=EIGHT)
    clock, target = Late(), Noted()
    policy = Wanting(8, thinks=lambda: clock.by(16.0))
    one = scaler(fleet, target, policy, 30.0, clock=clock)

    await one.step()

    assert (True, []) == (one.leads, target.told)
    assert "it took 16 s to look at the fleet" in one.trouble


async def test_a_target_that_hangs_is_left_before_another_may_lead(
    running: Start,
) -> None:
    fleet = await running(REVIEW, base=EIGHT)
    clock = Late()
    policy = Wanting(8, thinks=lambda: clock.by(3.0))
    one = scaler(fleet, Noted(hangs=True), policy, 6.0, clock=clock, every=0.5)

    async with asyncio.timeout(15):
        await one.step()

    assert "no answer from noted" in one.trouble


async def test_a_record_that_is_not_understood_changes_nothing(running: Start) -> None:
    """Limits that another version has applied end no autoscaler."""
    fleet = await running(REVIEW, base=EIGHT, served=CONTROL)
    target = Noted()
    one = scaler(fleet, target, Wanting(8))
    async with following(fleet, memo='{"pools": 7}'):
        await one.step()

    assert "not understood" in one.trouble
    assert (False, []) == (one.leads, target.told)


@pytest.mark.parametrize("policy", ["predictive", "threshold", "utilisation"])
async def test_a_server_without_registry_and_statistics_is_told_and_sizes_stay(
    running: Start, skipping: WorkflowEnvironment, policy: str
) -> None:
    """The test server of Temporal keeps neither; nobody has seen no worker there."""
    fleet = await running(REVIEW, base=EIGHT, environment=skipping)
    target = Slots(fleet.client, fleet.fleet.name, 2.0)
    one = scaler(fleet, target, by_name(policy))

    await one.step()
    await one.step()

    assert "nano: this server keeps no registry of workers" in one.trouble
    assert one.trouble == (await state_of(fleet)).trouble
    assert (True, (), 8) == (one.leads, one.decisions, nano(fleet).limit)
    told = await applied_limits(fleet.client, fleet.fleet.name)
    assert {} == told.scaled


async def test_a_server_without_statistics_is_told_and_sizes_stay(
    running: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It knows its workers, and of no backlog."""
    fleet = await running(REVIEW, base=EIGHT)

    async def refuse(*_: object, **__: object) -> None:
        raise RPCError("unknown method", RPCStatusCode.UNIMPLEMENTED, b"")

    service = fleet.client.workflow_service
    monkeypatch.setattr(service, "describe_task_queue", refuse)
    target = Noted()
    one = scaler(fleet, target, by_name("predictive"))

    await one.step()
    await one.step()

    assert "nano: this server has no statistics of task queues" in one.trouble
    decided = [(d.instances, d.constraint) for told in target.told for d in told]
    assert [(8, "no_data")] * 2 == decided


async def test_advice_changes_nothing(running: Start) -> None:
    fleet = await running(REVIEW, base=EIGHT)
    async with scaling(scaler(fleet, Advice(45.0), Wanting(24))) as one:
        await until(lambda: one.leads and bool(one.decisions))
        await asyncio.sleep(0.5)

    assert 8 == nano(fleet).limit
    assert [(24, 3)] == [(d.instances, d.workers) for d in one.decisions]
