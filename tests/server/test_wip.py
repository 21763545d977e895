"""WIP limits: never more items in a state than it may have, whatever ends them."""

import asyncio
from collections.abc import Callable
from datetime import timedelta

import pytest

from tierpool import flow_result
from tierpool.contracts import FlowCarry, FlowStart, ItemStatus, WorkItem
from tierpool.contracts.claims import ClaimsState
from tierpool.testing import Reply, SeenRequest

from .budgets import until_it_shows
from .claims import BASE, REVIEWED, claims_of, until_claims, waits
from .conftest import Start

REJECT = Reply(json={"verdict": "reject"})


def is_review(request: SeenRequest) -> bool:
    return "Review." in request.system


def slots(used: int, waiting: int = 0) -> Callable[[ClaimsState], bool]:
    """Tell whether so many slots of the limit are used, and waited for."""

    def holds(state: ClaimsState) -> bool:
        use = state.resources.get("wip:prs")
        return use is not None and (use.used, use.waiting) == (used, waiting)

    return holds


async def test_no_more_items_in_the_states_than_the_limit(running: Start) -> None:
    """Two of eight are in review at a time, over two states that hold the limit."""
    fleet = await running(REVIEWED, base=BASE)
    inside: list[int] = []

    def review(request: SeenRequest) -> Reply:
        inside.append(1)
        return Reply(json={"verdict": "approve"}, delay=timedelta(seconds=0.1))

    fleet.provider.on(is_review, review)
    fleet.provider.default(Reply("fine", delay=timedelta(seconds=0.1)))
    peak = 0
    done = asyncio.gather(*(fleet.run("work") for _ in range(8)))

    while not done.done():
        await asyncio.wait([done], timeout=0.1)
        try:
            state = await claims_of(fleet)
        except Exception:  # noqa: BLE001 - the claims are not there yet
            continue
        peak = max(peak, state.resources["wip:prs"].used)

    assert {"done"} == {result.state for result in await done}
    assert 2 == peak
    assert 8 == len(inside)
    await until_claims(fleet, slots(0))


async def test_slot_comes_with_the_first_claim_of_the_role(running: Start) -> None:
    """Who gets no slot starts no work either; who enters keeps it over both states."""
    fleet = await running(REVIEWED, base=BASE)
    gate = asyncio.Event()
    fleet.provider.on(is_review, Reply(json={"verdict": "approve"}, gate=gate))
    fleet.provider.default(Reply("fine"))
    handles = [await fleet.start("work", id=f"wip-{n}") for n in range(3)]

    state = await until_claims(fleet, slots(2, 1))
    calls = len(fleet.provider.requests)
    (waiting,) = state.waiting
    third = next(h for h in handles if h.id == waiting.ask.workflow)
    await until_it_shows(third, "a slot of prs (2)")
    status = await third.query("status", result_type=ItemStatus)
    gate.set()
    results = await asyncio.gather(*(flow_result(handle) for handle in handles))

    assert {h.id for h in state.held if not h.number} == {
        f"prs/{h.id}" for h in handles if h is not third
    }
    assert ("incoming", 0) == (status.state, status.attempts)
    assert calls <= 4
    assert {"done"} == {result.state for result in results}
    assert ("incoming", "in_review", "checked", "done") == results[0].path
    await until_claims(fleet, slots(0))


async def test_leaving_the_state_gives_the_slot_back(running: Start) -> None:
    """Rejected, an item goes back to the line; abandoned, it is gone."""
    fleet = await running(REVIEWED, base=BASE)
    fleet.provider.on(is_review, REJECT)
    fleet.provider.default(Reply("fine"))

    results = await asyncio.gather(*(fleet.run("work") for _ in range(4)))

    path = ("incoming", "in_review") * 3 + ("abandoned",)
    assert [path] * 4 == [result.path for result in results]
    await until_claims(fleet, slots(0))


@pytest.mark.usefixtures("soon_looked_after")
async def test_cancelled_and_terminated_items_give_their_slots_back(
    running: Start,
) -> None:
    """One by itself, the other is found; a waiter leaves the line."""
    fleet = await running(REVIEWED, base=BASE)
    gate = asyncio.Event()
    fleet.provider.on(is_review, Reply(json={"verdict": "approve"}, gate=gate))
    fleet.provider.default(Reply("fine"))
    first, second = [await fleet.start("work") for _ in range(2)]
    await until_claims(fleet, slots(2))
    await fleet.provider.until(lambda books: books.in_flight == 2)
    third, fourth = [await fleet.start("work") for _ in range(2)]
    await until_claims(fleet, slots(2, 2))

    await third.execute_update("cancel_item")
    await until_claims(fleet, slots(2, 1))
    await first.cancel()
    await until_claims(fleet, slots(2, 0))
    await second.terminate()
    await until_claims(fleet, slots(1, 0))
    gate.set()

    assert "done" == (await flow_result(fourth)).state
    assert "cancelled" == (await flow_result(third)).state
    await until_claims(fleet, slots(0))


async def test_transition_without_agent_waits_before_it_enters(running: Start) -> None:
    """In sight, and the item still is where it was."""
    yaml = REVIEWED.replace("prs: 2", "prs: 1").replace(
        "max_instances: 4", "timeout: 60s"
    )
    fleet = await running(yaml, base=BASE)
    gate = asyncio.Event()
    fleet.provider.on(is_review, Reply(json={"verdict": "approve"}, gate=gate))
    fleet.provider.default(Reply("fine"))
    handles = [await fleet.start("work") for _ in range(2)]
    state = await until_claims(fleet, slots(1, 1))

    (waiting,) = state.waiting
    last = next(h for h in handles if h.id == waiting.ask.workflow)
    status = await last.query("status", result_type=ItemStatus)
    gate.set()
    results = await asyncio.gather(*(flow_result(handle) for handle in handles))

    assert ("incoming", 1) == (status.state, status.attempts)
    assert "" == waiting.ask.id
    assert {"done"} == {result.state for result in results}
    await until_claims(fleet, slots(0))


async def test_item_of_an_initial_state_waits_to_begin(running: Start) -> None:
    """A limit of the first state holds, too; 0 lets nobody in."""
    yaml = """
backpressure: {prs: 0}
agents:
  worker: {prompt: "Work.\\n", tier: nano}
flows:
  work:
    initial: incoming
    transitions: {"incoming -> done": {agent: worker}}
    states: {incoming: {holds: prs}}
"""
    fleet = await running(yaml, base=BASE)
    handle = await fleet.start("work")

    await until_claims(fleet, waits(1))
    await handle.execute_update("cancel_item")
    result = await flow_result(handle)

    assert ("cancelled", ("cancelled",)) == (result.state, result.path)
    assert 0 == fleet.provider.accounting.calls
    await until_claims(fleet, waits(0))


async def test_hold_goes_with_the_item_into_its_next_run(running: Start) -> None:
    """A run that begins inside has its slot without asking, and gives it back."""
    fleet = await running(REVIEWED, base=BASE)
    gate = asyncio.Event()
    fleet.provider.on(is_review, Reply(json={"verdict": "approve"}))
    fleet.provider.default(Reply("fine", gate=gate))
    start = FlowStart(
        flow="work",
        item=WorkItem(id="wip-next", text="text"),
        fleet=fleet.fleet.packed_for("work"),
        carried=FlowCarry(state="in_review", path=("incoming", "in_review")),
    )
    handle = await fleet.client.start_workflow(
        "work", start, id="wip-next", task_queue=f"{fleet.fleet.name}-flows"
    )

    state = await until_claims(fleet, slots(1))
    gate.set()
    result = await handle.result()

    assert {"prs/wip-next", "worker/wip-next"} == {claim.id for claim in state.held}
    assert "done" == result["state"]
    await until_claims(fleet, slots(0))
