"""Role caps and role rates on a real server, whatever happens to the holders."""

import asyncio
import time
from datetime import timedelta
from secrets import token_hex
from typing import Any

import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import Client

from tierpool import TierpoolPlugin, flow_result
from tierpool.budget.claim_limits import claim_limits
from tierpool.config import load_fleet
from tierpool.contracts import ItemStatus, Outcome, Usage
from tierpool.contracts.claims import (
    CLAIM_ASK_SIGNAL,
    CLAIM_LIMITS_SIGNAL,
    ClaimAsk,
    ClaimLimits,
    ClaimsState,
)
from tierpool.fleet import LoadedFleet
from tierpool.pools.apply import apply_limits, wanted_limits
from tierpool.testing import RateLimited, Reply
from tierpool.worker import Served

from .budget_workflows import GreedyWorkflow
from .budgets import costs_of, started, until_it_shows
from .claims import (
    BASE,
    claims_of,
    entity,
    held,
    until_claims,
    waits,
    worked,
)
from .conftest import REVIEW, Running, Start, working


def slow(seconds: float = 0.2) -> Reply:
    return Reply("fine", delay=timedelta(seconds=seconds))


async def another(fleet: Running, file: LoadedFleet) -> Client:
    """Connect once more, as another process would."""
    address = fleet.client.service_client.config.target_host
    return await Client.connect(address, plugins=[TierpoolPlugin(file)])


async def kinds_of(handle: Any) -> list[str]:
    """Return which external signals and local activities a run has made."""
    history = await handle.fetch_history()
    names = (
        "signal_external_workflow_execution_initiated",
        "workflow_execution_signaled",
    )
    return [
        name
        for event in history.events
        for name in names
        if event.HasField(f"{name}_event_attributes")
    ]


async def test_cap_holds_over_two_sets_of_workers(running: Start) -> None:
    """Two processes' worth of workers together make no more calls than the role may."""
    fleet = await running(worked("max_instances: 3"), base=BASE)
    fleet.provider.default(slow())

    async with working(await another(fleet, fleet.fleet), fleet.fleet):
        results = await asyncio.gather(*(fleet.run("work") for _ in range(18)))

    assert {"done"} == {result.state for result in results}
    assert 3 == fleet.provider.accounting.peak_in_flight
    state = await until_claims(fleet, held(0))
    assert (0, 3) == (
        state.resources["role:worker"].used,
        state.resources["role:worker"].cap,
    )


async def test_role_without_limits_pays_nothing(running: Start) -> None:
    """No claims workflow, no signal: its history is what it was."""
    fleet = await running(REVIEW)
    fleet.provider.default(Reply("fine"))

    handle = await fleet.start("review")
    await flow_result(handle)

    assert [] == await kinds_of(handle)
    with pytest.raises(Exception, match="not found"):
        await claims_of(fleet)


async def test_line_goes_by_priority_then_arrival(running: Start) -> None:
    """Whoever waits longest goes first among those of the highest priority."""
    fleet = await running(worked("max_instances: 1"), base=BASE)
    gate = asyncio.Event()
    fleet.provider.script(Reply("first", gate=gate))
    fleet.provider.default(Reply("fine"))
    handles = [await fleet.start("work", "first")]
    await fleet.provider.until(lambda books: books.in_flight == 1)
    for number, priority in enumerate((5, 3, 1, 3, 1)):
        item = {"text": f"{priority} {number}", "priority": priority}
        handles.append(await fleet.start("work", item))
        await until_claims(fleet, waits(number + 1))

    gate.set()
    await asyncio.gather(*(flow_result(handle) for handle in handles))

    order = [request.messages[-1][1] for request in fleet.provider.requests]
    assert ["first", "1 2", "1 4", "3 1", "3 3", "5 0"] == order


@pytest.mark.usefixtures("soon_looked_after")
async def test_wait_is_shown_and_named(running: Start) -> None:
    """Details, the claims query and history say who waits for what."""
    fleet = await running(worked("max_instances: 1"), base=BASE)
    gate = asyncio.Event()
    fleet.provider.default(Reply("fine", gate=gate))
    first = await fleet.start("work", id="ITEM-1")
    await fleet.provider.until(lambda books: books.in_flight == 1)
    second = await fleet.start("work", id="ITEM-2")

    state = await until_claims(fleet, waits(1))
    await until_it_shows(second, "waits for an instance of worker")
    await until_it_shows(entity(fleet), "| role:worker | 1 | 1 | 1 |")  # type: ignore[arg-type]
    gate.set()
    await asyncio.gather(flow_result(first), flow_result(second))

    assert ["worker/ITEM-1"] == [claim.id for claim in state.held]
    assert ["worker/ITEM-2"] == [claim.ask.id for claim in state.waiting]
    timers = [
        event.user_metadata.summary.data.decode()
        for event in (await second.fetch_history()).events
        if event.HasField("timer_started_event_attributes")
    ]
    assert ['"waits for an instance of worker (max_instances 1)"'] == timers


async def test_parallel_calls_of_one_workflow_have_claims_of_their_own(
    running: Start,
) -> None:
    """Six callers in one workflow keep to the cap of two; the IDs are numbered."""
    yaml = worked("max_instances: 2").replace("worker", "reviewer")
    fleet = await running(yaml, base=BASE)
    gate = asyncio.Event()
    fleet.provider.script(Reply("a", gate=gate), Reply("b", gate=gate))
    fleet.provider.default(slow(0.05))

    async with started(fleet, GreedyWorkflow.run, 6, 2, id="own-1") as handle:
        state = await until_claims(fleet, waits(4))
        gate.set()
        replies = await handle.result()

    assert 12 == len(replies)
    assert 2 == fleet.provider.accounting.peak_in_flight
    names = [c.id for c in state.held] + [w.ask.id for w in state.waiting]
    others = {f"reviewer/own-1#{number}" for number in range(2, 7)}
    assert {"reviewer/own-1"} | others == set(names)


async def test_cancelled_waiter_leaves_the_line_unbilled(running: Start) -> None:
    """It made no attempt, its reservation comes back, and the next one is served."""
    fleet = await running(worked("max_instances: 1"), base=BASE)
    gate = asyncio.Event()
    fleet.provider.default(Reply("fine", gate=gate))
    first = await fleet.start("work")
    await fleet.provider.until(lambda books: books.in_flight == 1)
    second = await fleet.start("work")
    await until_claims(fleet, waits(1))
    third = await fleet.start("work")
    await until_claims(fleet, waits(2))

    await second.execute_update("cancel_item", "no more")
    result = await flow_result(second)
    state = await until_claims(fleet, waits(1))
    gate.set()
    others = await asyncio.gather(flow_result(first), flow_result(third))

    assert ("cancelled", 0, 0) == (result.state, result.attempts, result.cost_usd)
    assert 1 == len(state.held)
    assert ["done", "done"] == [other.state for other in others]
    costs = await costs_of(second)
    assert (0, 0) == (costs.reserved_usd, costs.made)


async def test_cancelled_holder_gives_its_claim_back(running: Start) -> None:
    """Only when its call has really ended."""
    fleet = await running(worked("max_instances: 1"), base=BASE)
    fleet.provider.script(Reply("never", gate=asyncio.Event()))
    fleet.provider.default(Reply("fine"))
    first = await fleet.start("work")
    await fleet.provider.until(lambda books: books.in_flight == 1)
    second = await fleet.start("work")
    await until_claims(fleet, waits(1))

    await first.cancel()
    result = await flow_result(second)

    assert "done" == result.state
    assert 1 == fleet.provider.accounting.peak_in_flight
    await until_claims(fleet, held(0))


async def test_failed_attempt_gives_its_claim_back_while_it_waits(
    running: Start,
) -> None:
    """A 429 with a long wait does not keep the role from others."""
    fleet = await running(worked("max_instances: 1"), base=BASE)
    fleet.provider.script(RateLimited(wait=timedelta(seconds=3)))
    fleet.provider.default(Reply("fine"))

    results = await asyncio.gather(*(fleet.run("work") for _ in range(3)))

    assert {"done"} == {result.state for result in results}
    assert 1 == fleet.provider.accounting.peak_in_flight
    await until_claims(fleet, held(0))


@pytest.mark.usefixtures("soon_looked_after")
async def test_terminated_holder_is_found_and_its_call_is_dead_before(
    running: Start,
) -> None:
    """The next one gets the claim, and never beside the call of the dead one."""
    fleet = await running(worked("max_instances: 1"), base=BASE)
    fleet.provider.script(Reply("never", gate=asyncio.Event()))
    fleet.provider.default(Reply("fine"))
    first = await fleet.start("work")
    await fleet.provider.until(lambda books: books.in_flight == 1)
    waiting = [await fleet.start("work") for _ in range(2)]
    await until_claims(fleet, waits(2))

    await first.terminate()
    await waiting[0].terminate()
    result = await flow_result(waiting[1])

    assert "done" == result.state
    assert 1 == fleet.provider.accounting.peak_in_flight
    await until_claims(fleet, held(0))


@pytest.mark.usefixtures("soon_looked_after")
async def test_reused_item_id_is_another_holder(running: Start) -> None:
    """A new execution with the ID of a terminated holder waits for its call's end."""
    yaml = worked("max_instances: 1").replace("worker", "reviewer")
    fleet = await running(yaml, base=BASE)
    fleet.provider.script(Reply("never", gate=asyncio.Event()))
    fleet.provider.default(Reply("fine"))

    async with started(fleet, GreedyWorkflow.run, 1, 1, id="same") as old:
        await fleet.provider.until(lambda books: books.in_flight == 1)
        await old.terminate()
    async with started(fleet, GreedyWorkflow.run, 1, 1, id="same") as new:
        state = await until_claims(fleet, waits(1))
        replies = await new.result()

    assert ["fine"] == replies
    assert state.held[0].id == state.waiting[0].ask.id
    assert state.held[0].first != state.waiting[0].ask.first
    assert 1 == fleet.provider.accounting.peak_in_flight


@pytest.mark.usefixtures("soon_looked_after")
async def test_reset_holder_asks_anew(running: Start) -> None:
    """The run that a reset makes gets a claim of its own, after the dead call."""
    fleet = await running(worked("max_instances: 1"), base=BASE)
    fleet.provider.script(Reply("never", gate=asyncio.Event()))
    fleet.provider.default(Reply("fine"))
    handle = await fleet.start("work")
    await fleet.provider.until(lambda books: books.in_flight == 1)

    await reset_to_the_start(fleet.client, handle.id)
    await fleet.provider.until(lambda books: books.calls == 2, timedelta(seconds=40))
    result = await fleet.client.get_workflow_handle(handle.id).result()

    assert "done" == result["state"]
    assert 1 == fleet.provider.accounting.peak_in_flight
    await until_claims(fleet, held(0))


async def reset_to_the_start(client: Client, workflow_id: str) -> None:
    """Reset a workflow to its first task."""
    run = (await client.get_workflow_handle(workflow_id).describe()).run_id
    await client.workflow_service.reset_workflow_execution(
        ResetWorkflowExecutionRequest(
            namespace=client.namespace,
            workflow_execution=WorkflowExecution(workflow_id=workflow_id, run_id=run),
            reason="test",
            request_id=workflow_id,
            workflow_task_finish_event_id=3,
        )
    )


async def test_paused_item_waits_for_nothing(running: Start) -> None:
    """A pause takes an item out of the line; resumed, it asks again."""
    fleet = await running(worked("max_instances: 1"), base=BASE)
    gate = asyncio.Event()
    fleet.provider.script(Reply("first", gate=gate))
    fleet.provider.default(Reply("fine"))
    first = await fleet.start("work")
    await fleet.provider.until(lambda books: books.in_flight == 1)
    second = await fleet.start("work")
    await until_claims(fleet, waits(1))

    await second.execute_update("pause")
    await until_claims(fleet, waits(0))
    gate.set()
    await flow_result(first)
    await until_claims(fleet, held(0))
    status = await second.query("status", result_type=ItemStatus)
    calls = fleet.provider.accounting.calls
    await second.execute_update("resume")
    result = await flow_result(second)

    assert (True, 0, 1) == (status.paused, status.attempts, calls)
    assert ("done", 1) == (result.state, result.attempts)


async def test_pause_breaks_off_a_held_call_and_frees_the_role(running: Start) -> None:
    """While an item is paused, others use what it held."""
    fleet = await running(worked("max_instances: 1"), base=BASE)
    fleet.provider.script(Reply("never", gate=asyncio.Event()))
    fleet.provider.default(Reply("fine"))
    first = await fleet.start("work")
    await fleet.provider.until(lambda books: books.in_flight == 1)

    await first.execute_update("pause")
    other = await fleet.run("work")
    await first.execute_update("resume")
    result = await flow_result(first)

    assert ("done", "done") == (other.state, result.state)
    assert [Outcome.AMBIGUOUS, Outcome.BILLED] == [
        attempt.outcome for attempt in (await costs_of(first)).attempts
    ]
    assert 1 == fleet.provider.accounting.peak_in_flight


async def test_cap_of_zero_pauses_a_role_until_it_is_raised(running: Start) -> None:
    """Items wait; new limits of the same generation count at once."""
    fleet = await running(worked("max_instances: 0"), base=BASE)
    fleet.provider.default(slow())
    handles = [await fleet.start("work") for _ in range(6)]
    await until_claims(fleet, waits(6))
    paused = fleet.provider.accounting.calls

    await change_limits(fleet, "max_instances: 0", "max_instances: 2")
    results = await asyncio.gather(*(flow_result(handle) for handle in handles))

    assert 0 == paused
    assert {"done"} == {result.state for result in results}
    assert 2 == fleet.provider.accounting.peak_in_flight


async def test_cap_lowered_below_what_is_in_use_stops_new_grants_only(
    running: Start,
) -> None:
    """Calls under way go on; the rest goes by the new cap."""
    fleet = await running(worked("max_instances: 4"), base=BASE)
    gate = asyncio.Event()
    fleet.provider.script(*[Reply("fine", gate=gate)] * 4)
    running_now: list[int] = []

    def answer(request: object) -> Reply:
        running_now.append(fleet.provider.accounting.in_flight)
        return slow()

    fleet.provider.default(answer)
    handles = [await fleet.start("work") for _ in range(8)]
    await until_claims(fleet, waits(4))

    await change_limits(fleet, "max_instances: 4", "max_instances: 1")
    state = await until_claims(fleet, lambda s: s.resources["role:worker"].cap == 1)
    gate.set()
    results = await asyncio.gather(*(flow_result(handle) for handle in handles))

    assert 4 == state.resources["role:worker"].used
    assert {"done"} == {result.state for result in results}
    assert [1, 1, 1, 1] == running_now


async def change_limits(fleet: Running, old: str, new: str) -> None:
    await entity(fleet).signal(
        CLAIM_LIMITS_SIGNAL, claim_limits(changed(fleet, old, new))
    )


def changed(fleet: Running, old: str, new: str) -> LoadedFleet:
    """Write other limits into the fleet's file."""
    path = fleet.fleet.path
    path.write_text(path.read_text().replace(old, new))
    return load_fleet(path)


async def test_restarted_control_worker_tells_of_its_file(running: Start) -> None:
    """Another cap in the file of the control worker counts from its start on."""
    served = Served(flows=True, pools=("nano",))
    fleet = await running(worked("max_instances: 1"), base=BASE, served=served)
    fleet.provider.default(Reply("fine"))
    control = Served(control=True)
    async with working(fleet.client, fleet.fleet, control):
        await fleet.run("work")
    other = changed(fleet, "max_instances: 1}", "max_instances: 7}")

    async with working(await another(fleet, other), other, control):
        state = await until_claims(fleet, lambda s: bool(s.limits.caps))
        state = await until_claims(fleet, lambda s: s.resources["role:worker"].cap == 7)

    assert 0 == state.limits.generation


async def test_claims_start_with_what_was_applied_before_them(running: Start) -> None:
    """The first claim of a fleet meets the limits of today, not those of the file."""
    fleet = await running(worked("max_instances: 1"), base=BASE)
    fleet.provider.default(Reply("fine"))
    other = changed(fleet, "max_instances: 1}", "max_instances: 7}")
    await apply_limits(fleet.client, fleet.fleet.name, wanted_limits(other))

    await fleet.run("work")

    state = await claims_of(fleet)
    assert (1, 7) == (state.limits.generation, state.resources["role:worker"].cap)


async def test_line_goes_on_in_the_next_run(running: Start) -> None:
    """Continue-as-new forgets neither holders nor waiters, nor loses a signal."""
    fleet = await running(worked("max_instances: 2"), base=BASE)
    fleet.provider.default(Reply("fine"))
    gate = asyncio.Event()
    fleet.provider.script(Reply("a", gate=gate), Reply("b", gate=gate))
    handles = [await fleet.start("work") for _ in range(8)]
    await until_claims(fleet, waits(6))
    before = (await entity(fleet).describe()).run_id

    await make_history_long(fleet)
    gate.set()
    results = await asyncio.gather(*(flow_result(handle) for handle in handles))

    assert {"done"} == {result.state for result in results}
    assert before != (await entity(fleet).describe()).run_id
    assert 2 == fleet.provider.accounting.peak_in_flight
    await until_claims(fleet, held(0))


async def make_history_long(fleet: Running) -> None:
    """Let the claims continue as new: a run's history has at most 4 MiB."""
    run = (await entity(fleet).describe()).run_id
    async with asyncio.timeout(40):
        while (await entity(fleet).describe()).run_id == run:
            noise = ClaimLimits(caps={token_hex(200_000): ()}, generation=-1)
            await entity(fleet).signal(CLAIM_LIMITS_SIGNAL, noise)


async def test_nothing_is_granted_after_the_claims_were_terminated(
    running: Start,
) -> None:
    """Fail closed, in sight; recovered with their state, they go on."""
    fleet = await running(worked("max_instances: 1"), base=BASE)
    gate = asyncio.Event()
    fleet.provider.script(Reply("first", gate=gate))
    fleet.provider.default(Reply("fine"))
    first = await fleet.start("work")
    await fleet.provider.until(lambda books: books.in_flight == 1)
    await entity(fleet).terminate("by hand")

    second = await fleet.start("work")
    await until_it_shows(second, "run tierpool ledger recover")
    calls = fleet.provider.accounting.calls
    state = await claims_of(fleet)
    await fleet.client.start_workflow(
        "ClaimsWorkflow",
        state,
        id=entity(fleet).id,
        task_queue=f"{fleet.fleet.name}-control",
    )
    after = await until_claims(fleet, waits(1))
    gate.set()
    results = await asyncio.gather(flow_result(first), flow_result(second))

    assert 1 == calls
    assert 1 == len(after.held)
    assert ["done", "done"] == [result.state for result in results]
    assert 1 == fleet.provider.accounting.peak_in_flight


async def test_closed_claims_grant_nothing_until_their_time(running: Start) -> None:
    """A recovery that knows nothing waits until every call must be over."""
    fleet = await running(worked("max_instances: 1"), base=BASE)
    fleet.provider.default(Reply("fine"))
    closed = ClaimsState(
        fleet=fleet.fleet.name,
        limits=claim_limits(fleet.fleet),
        closed_until=time.time() + 3,
        closed_why="recovered without knowledge",
    )
    await fleet.client.start_workflow(
        "ClaimsWorkflow",
        closed,
        id=entity(fleet).id,
        task_queue=f"{fleet.fleet.name}-control",
    )

    handle = await fleet.start("work")
    await until_claims(fleet, waits(1))
    await until_it_shows(entity(fleet), "recovered without knowledge")  # type: ignore[arg-type]
    calls = fleet.provider.accounting.calls
    result = await flow_result(handle)

    assert (0, "done") == (calls, result.state)
    assert time.time() >= closed.closed_until


async def test_ask_of_a_run_that_has_ended_does_not_stop_the_line(
    running: Start,
) -> None:
    """Its grant finds nobody; the next one in line gets it."""
    fleet = await running(worked("max_instances: 1"), base=BASE)
    fleet.provider.default(Reply("fine"))
    await fleet.run("work")
    ghost = ClaimAsk(
        workflow="ghost", run="no-such-run", number=1, id="worker/ghost",
        needs={"role:worker": 1}, priority=1,
    )  # fmt: skip
    nonsense = ghost.model_copy(update={"run": "no run", "workflow": ""})
    for ask in (nonsense, *(ghost.model_copy(update={"number": n}) for n in (1, 2, 3))):
        await entity(fleet).signal(CLAIM_ASK_SIGNAL, ask)

    result = await fleet.run("work")

    assert "done" == result.state
    await until_claims(fleet, lambda s: not s.held and not s.waiting)


async def test_role_rate_is_kept_before_scheduling(running: Start) -> None:
    """A burst of two a second: no window of a second sees a third request."""
    limits = "rate_limit: {requests_per_minute: 600, burst: 2}"
    fleet = await running(worked(limits), base=BASE)
    fleet.provider.default(Reply("fine"))

    await asyncio.gather(*(fleet.run("work") for _ in range(8)))
    state = await claims_of(fleet)

    assert 8 == state.resources["requests:worker"].used
    history = entity(fleet).fetch_history_events()
    grants = [
        event.event_time.ToNanoseconds() / 1e9
        async for event in history
        if event.HasField(
            "signal_external_workflow_execution_initiated_event_attributes"
        )
    ]
    assert 8 == len(grants)
    for number in range(6):
        assert grants[number + 2] - grants[number] >= 0.9


async def test_role_tokens_are_told_as_they_were_used(running: Start) -> None:
    """What the call did not use comes back to the rate."""
    fleet = await running(worked("rate_limit: {tokens_per_minute: 80000}"), base=BASE)
    usage = Usage(input_tokens=100, output_tokens=50)
    fleet.provider.default(Reply("fine", usage=usage))

    results = [await fleet.run("work") for _ in range(3)]
    state: ClaimsState = await until_claims(fleet, held(0))

    assert {"done"} == {result.state for result in results}
    assert 450 == state.resources["tokens:worker"].used
