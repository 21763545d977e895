"""`tierpool autoscale`: one leads, pools follow, nothing is killed."""

from __future__ import annotations

import asyncio
import json
import signal
import urllib.request
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from temporalio.testing import WorkflowEnvironment

from tierpool import flow_result
from tierpool.contracts.scaling import PoolDecision, ScalingState, scaling_id
from tierpool.pools.autoscaler.acting import Advice, NotScaled, Slots, Target
from tierpool.pools.autoscaler.deciding import Brain
from tierpool.pools.autoscaler.kubernetes import Cluster, Deployments
from tierpool.pools.autoscaler.limiting import Reach
from tierpool.pools.autoscaler.loop import Autoscaler
from tierpool.pools.observe import observe
from tierpool.scaling.ceilings import Bounded
from tierpool.scaling.policy import Decision, Limits, Observation
from tierpool.testing import Reply
from tierpool.worker import Served

from .conftest import FLEET, REVIEW, Command, Running, Start, nano
from .worker_process import tierpool_process

EIGHT = FLEET.replace("max_instances: 4", "min_instances: 1, max_instances: 8", 1)


@dataclass
class Wanting:
    """A policy that wants what the test says."""

    instances: int
    name: str = "wanting"
    seen: list[Observation] = field(default_factory=list)

    def start(self) -> None:
        """Begin."""

    def decide(
        self, seen: Observation, limits: Limits, state: None
    ) -> tuple[Decision, None]:
        self.seen.append(seen)
        return Decision(self.instances, "demand", "the test wants it"), None


@dataclass
class Noted:
    """A target that remembers what it was told."""

    refuses: bool = False
    name: str = "noted"
    reach: Reach = field(default_factory=lambda: Reach(1.0, whole_workers=True))
    told: list[tuple[PoolDecision, ...]] = field(default_factory=list)

    def running(self) -> Any:
        return nullcontext()

    async def scale(
        self, decisions: Sequence[PoolDecision], workers: Mapping[str, int]
    ) -> None:
        if self.refuses:
            raise NotScaled("the target says no")
        self.told.append(tuple(decisions))


def scaler(
    fleet: Running, target: Target, policy: Wanting, lead_for: float = 30.0
) -> Autoscaler:
    """Return one that looks often; a slow machine needs half of `lead_for` to act."""
    brain = Brain({"nano": Bounded(policy)})
    return Autoscaler(
        fleet.client, fleet.fleet, target, brain, every=0.2, lead_for=lead_for
    )


@asynccontextmanager
async def scaling(one: Autoscaler) -> AsyncIterator[Autoscaler]:
    """Run it; without a word at its end, as if it had been killed, unless told to stop."""
    task = asyncio.create_task(one.run(asyncio.Event()))
    try:
        yield one
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(holds: Any, seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def state_of(fleet: Running) -> ScalingState:
    handle = fleet.client.get_workflow_handle(scaling_id(fleet.fleet.name))
    return await handle.query("scaling", result_type=ScalingState)


async def test_running_workers_follow_and_nothing_is_killed(running: Start) -> None:
    """Instances come and go with the decisions, while calls go on; then limits count again."""
    fleet = await running(REVIEW, base=EIGHT)
    gate = asyncio.Event()
    fleet.provider.default(Reply("fine", gate=gate))
    policy = Wanting(3)
    slots = Slots(fleet.client, fleet.fleet.name, 1.0)
    async with scaling(scaler(fleet, slots, policy)):
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

    assert [1] * 8 == [result.attempts for result in results]
    assert (6, 8) == (peak, fleet.provider.accounting.calls)
    status = await observe(fleet.client, fleet.fleet)
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
    async with scaling(scaler(fleet, second, Wanting(16), 5.0)) as other:
        await until(lambda: other.leads)
        async with scaling(scaler(fleet, first, Wanting(8), 5.0)) as late:
            await asyncio.sleep(1.5)
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
    one = scaler(fleet, target, Wanting(8))

    await one.step()

    assert "--control" in one.trouble
    assert (False, []) == (one.leads, target.told)


@dataclass
class Api:
    """What of a cluster's API scaling needs, over real HTTP."""

    replicas: dict[str, int]
    patches: list[tuple[str, int]] = field(default_factory=list)
    url: str = ""

    async def get(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in self.replicas:
            return self._refuse(404, f'deployments.apps "{name}" not found')
        return web.json_response({"spec": {"replicas": self.replicas[name]}})

    async def patch(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name.endswith("-standard"):
            return self._refuse(403, "deployments.apps/scale is forbidden")
        assert "application/merge-patch+json" == request.content_type
        self.replicas[name] = (await request.json())["spec"]["replicas"]
        self.patches.append((name, self.replicas[name]))
        return web.json_response({"spec": {"replicas": self.replicas[name]}})

    def _refuse(self, status: int, message: str) -> web.Response:
        body = {"kind": "Status", "message": message, "code": status}
        return web.json_response(body, status=status)


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    known = Api({"acme-nano": 1, "acme-standard": 1})
    app = web.Application()
    path = "/apis/apps/v1/namespaces/agents/deployments/{name}/scale"
    app.router.add_get(path, known.get)
    app.router.add_patch(path, known.patch)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    known.url = f"http://{host}:{port}"
    yield known
    await runner.cleanup()


def decided(pool: str, workers: int) -> PoolDecision:
    return PoolDecision.model_validate(
        {"pool": pool, "at": "2026-01-01T00:00:00Z", "workers": workers}
    )


async def test_deployments_follow_and_one_that_refuses_does_not_hold_up_others(
    api: Api,
) -> None:
    names = {"standard": "acme-standard", "gone": "acme-gone", "nano": "acme-nano"}
    target = Deployments(Cluster(api.url, "agents"), names, 45.0)
    wanted = [decided("standard", 3), decided("gone", 2), decided("nano", 4)]

    with pytest.raises(NotScaled) as refused:
        await target.scale(wanted, {})
    with pytest.raises(NotScaled):
        await target.scale(wanted, {})

    assert "acme-standard: the API answered 403: deployments.apps/scale" in str(
        refused.value
    )
    assert "acme-gone: the API answered 404" in str(refused.value)
    assert [("acme-nano", 4)] == api.patches


async def test_a_cluster_that_is_away_is_told_and_nothing_is_lost() -> None:
    target = Deployments(Cluster("http://127.0.0.1:9", "agents"), {"nano": "n"}, 45.0)

    with pytest.raises(NotScaled, match="n: "):
        await target.scale([decided("nano", 2)], {})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--pool", "nono"), "nano"),
        (("--every", "0"), "one second is the least"),
        (("--act", "kubernetes"), "--kubernetes-api"),
        (
            ("--act", "kubernetes", "--kubernetes-api", "proxy:8001"),
            "http://127.0.0.1:8001",
        ),
        (
            (
                "--act",
                "kubernetes",
                "--kubernetes-api",
                "http://x",
                "--deployment",
                "{x}",
            ),
            "only {fleet} and {pool}",
        ),
        (
            (
                "--act",
                "kubernetes",
                "--kubernetes-api",
                "http://x",
                "--deployment",
                "one",
            ),
            "put {pool} into it",
        ),
    ],
)
async def test_bad_options_are_named(
    running: Start, tierpool: Command, options: tuple[str, ...], said: str
) -> None:
    await running(REVIEW)

    ran = await tierpool("autoscale", "--http", "off", *options)

    assert 2 == ran.status
    assert said in ran.err


async def test_worker_processes_come_with_the_lead_and_drain_with_the_end(
    running: Start, server: WorkflowEnvironment
) -> None:
    """The command itself: processes start, make calls, are shown, and finish at SIGTERM."""
    two = "max_instances: 2, scaling: {policy: fixed, min_workers: 2}"
    base = FLEET.replace("max_instances: 4", two, 1)
    fleet = await running(REVIEW, base=base, served=Served(flows=True, control=True))
    gate = asyncio.Event()
    fleet.provider.default(Reply("fine", gate=gate))
    address = server.client.service_client.config.target_host
    options = ("--act", "processes", "--pool", "nano", "--every", "1")
    async with tierpool_process(
        "autoscale", address, fleet.fleet, *options, "--http", "127.0.0.1:0"
    ) as process:
        handles = [await fleet.start("review") for _ in range(4)]
        await fleet.provider.until(lambda books: books.in_flight == 4)
        url = (await process.logged("autoscaler.listens"))["url"]
        page = await asyncio.to_thread(fetched, f"{url}/metrics")
        health = json.loads(await asyncio.to_thread(fetched, f"{url}/health"))
        process.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(1)
        gate.set()
        results = [await flow_result(handle) for handle in handles]
        status = await process.ended()

    name = fleet.fleet.name
    desired = f'fleet="{name}",pool="nano"'
    assert f'tierpool_desired_instances{{constraint="demand",{desired}}} 4.0' in page
    assert f"tierpool_desired_workers{{{desired}}} 2.0" in page
    assert (True, "processes") == (health["leads"], health["act"])
    assert [1] * 4 == [result.attempts for result in results]
    assert (4, []) == (
        fleet.provider.accounting.calls,
        fleet.provider.accounting.aborted,
    )
    assert 0 == status


def fetched(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as response:
        return str(response.read().decode())


async def test_status_shows_who_leads_and_what_is_desired(
    running: Start, tierpool: Command
) -> None:
    fleet = await running(REVIEW, base=EIGHT)
    async with scaling(scaler(fleet, Noted(), Wanting(24))) as one:
        await until(lambda: one.leads)
        await asyncio.sleep(1)
        shown = await tierpool("status")
        told = await tierpool("status", "--json")

    assert "leads (noted)" in shown.out
    assert "nano: desired 24 (3 workers), bound by demand" in shown.out
    assert isinstance(told.json, dict)
    assert 24 == told.json["scaling"]["decisions"][0]["instances"]


async def test_advice_changes_nothing(running: Start) -> None:
    fleet = await running(REVIEW, base=EIGHT)
    async with scaling(scaler(fleet, Advice(45.0), Wanting(24))) as one:
        await until(lambda: one.leads and bool(one.decisions))
        await asyncio.sleep(0.5)

    assert 8 == nano(fleet).limit
    assert [(24, 3)] == [(d.instances, d.workers) for d in one.decisions]
