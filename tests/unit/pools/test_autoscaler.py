"""What an autoscaler decides on, and what it shows; and its bad options."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from tierpool import load_fleet
from tierpool.cli.autoscale import _deployments
from tierpool.cli.main import build_parser, main
from tierpool.contracts.claims import ClaimLimits, role_of
from tierpool.contracts.ledger import Cap
from tierpool.contracts.limits import AppliedLimits, PoolLimits
from tierpool.contracts.reports import PoolReport, Window, WorkerReport
from tierpool.contracts.scaling import PoolDecision, ScalingState
from tierpool.fleet import LoadedFleet
from tierpool.manifests.names import deployment_name
from tierpool.pools.autoscaler.acting import Advice, Workers
from tierpool.pools.autoscaler.asked import Asked
from tierpool.pools.autoscaler.deciding import Brain
from tierpool.pools.autoscaler.limiting import Reach, pool_limits
from tierpool.pools.autoscaler.loop import Autoscaler
from tierpool.pools.autoscaler.pages import serve_autoscaler
from tierpool.pools.endpoint import Listen
from tierpool.pools.observe import FleetStatus, pool_status
from tierpool.pools.shared import ClaimsStatus, LedgerStatus, SharedStatus
from tierpool.pools.statistics import QueueStatistics
from tierpool.scaling.file_limits import limits_of_file
from tierpool.scaling.policies import by_name
from tierpool.scaling.policy import Constraint

FILE = """
version: 1
fleet: acme
max_concurrent: 60
tiers:
  nano:
    model: openai:small
    free: true
    rate_limit: {requests_per_minute: 9000, tokens_per_minute: 900000}
    pool: {max_instances: 8, scaling: {min_workers: 2, max_workers: 5}}
  premium: {model: openai:large, free: true}
agents:
  clerk: {prompt: "Work.\\n", tier: nano, max_instances: 30}
  teller: {prompt: "Work.\\n", tier: auto, max_instances: 7}
"""
PODS = Reach(45.0, whole_workers=True)
SLOTS = Reach(2.0, whole_workers=False)


@pytest.fixture
def fleet(tmp_path: Path) -> LoadedFleet:
    path = tmp_path / "agents.yaml"
    path.write_text(FILE)
    return load_fleet(path)


class Clock:
    """The same time for people and for arithmetic, moved by hand."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


class Told:
    """A target that takes whatever it is told."""

    name = "told"

    def __init__(self, reach: Reach) -> None:
        self.reach = reach

    def running(self) -> Any:
        raise AssertionError

    async def scale(self, decisions: Any, workers: Workers) -> None:
        pass


class Desk:
    """An autoscaler that is shown a fleet, and whose decisions are carried out or not."""

    def __init__(self, fleet: LoadedFleet, reach: Reach, policy: str) -> None:
        self.clock, self.last = Clock(), ScalingState(fleet="acme")
        brain = Brain({"nano": by_name(policy)})
        nobody = cast("Any", None)
        target = Told(reach)
        self.scaler = Autoscaler(nobody, fleet, target, brain, clock=self.clock)

    def look(
        self, *sizes: int, busy: int = 0, after: float = 10.0, **more: Any
    ) -> PoolDecision:
        """Show workers of these sizes some seconds later; return what is decided."""
        self.clock.seconds += after
        aged = tuple(
            one.model_copy(update={"at": one.at - timedelta(seconds=after)})
            for one in self.last.decisions
        )
        seen = status(
            *sizes,
            busy=busy,
            scaling=ScalingState(fleet="acme", decisions=aged),
            **more,
        )
        made, self.missing = self.scaler._decide(seen)
        self.last = ScalingState(fleet="acme", decisions=made)
        return made[0]

    async def act(self) -> None:
        """Carry out the last decisions."""
        self.scaler.looked_at = self.clock()
        await self.scaler._act(status(8, 8))


def worker(name: str, size: int, busy: int) -> WorkerReport:
    now = datetime.now(UTC)
    used = Window(seconds=300, completed=100, call_seconds=400)
    pool = PoolReport(pool="nano", limit=size, busy=busy, window=used)
    return WorkerReport(
        id=name, fleet="acme", serves=("nano",), state="running", started=now, at=now, pools=(pool,)
    )  # fmt: skip


def status(
    *sizes: int,
    busy: int = 0,
    scaling: ScalingState | None = None,
    limits: AppliedLimits | None = None,
    statistics: bool = True,
    registry: bool = True,
    pollers: frozenset[str] = frozenset(),
) -> FleetStatus:
    """Return a fleet whose workers have these sizes; the first one has the calls."""
    calls = [busy, *[0] * len(sizes)]
    workers = [worker(f"w{n}", size, calls[n]) for n, size in enumerate(sizes)]
    seen = QueueStatistics(known=statistics, pollers=pollers)
    return FleetStatus(
        fleet="acme",
        pools=(pool_status("nano", (), seen, workers if registry else None),),
        workers=tuple(workers if registry else ()),
        limits=limits or AppliedLimits(),
        items=(),
        items_complete=True,
        notes=(),
        shared=SharedStatus(LedgerStatus("none"), ClaimsStatus("none")),
        scaling=scaling,
        registry=registry,
    )


def applied(**pool: int) -> AppliedLimits:
    given = {"min_instances": 0, "max_instances": 8, "scale_up_threshold": 4}
    given |= {"scale_down_idle_secs": 300, "max_requests_per_agent": 9} | pool
    return AppliedLimits(id="x", pools={"nano": PoolLimits(**given)})


class TestAsked:
    def test_missing_instances_are_starting_for_a_while(self) -> None:
        asked = Asked(45.0)
        asked.note("nano", 24, 0.0)

        assert (8, 16) == asked.counted("nano", 8, 119.0)
        assert (8, 0) == asked.counted("nano", 8, 121.0)

    def test_the_same_wish_again_gives_no_more_time(self) -> None:
        asked = Asked(45.0)
        asked.note("nano", 24, 0.0)
        asked.note("nano", 24, 100.0)
        assert (8, 0) == asked.counted("nano", 8, 121.0)

        asked.note("nano", 32, 130.0)
        assert (8, 24) == asked.counted("nano", 8, 200.0)

    def test_what_was_there_and_is_gone_is_waited_for_from_then_on(self) -> None:
        asked = Asked(45.0)
        asked.note("nano", 24, 0.0)
        asked.counted("nano", 24, 500.0)

        assert (0, 24) == asked.counted("nano", 0, 510.0)

    def test_more_than_was_asked_for_does_not_count(self) -> None:
        asked = Asked(45.0)
        asked.note("nano", 8, 0.0)

        assert (8, 0) == asked.counted("nano", 24, 500.0)

    def test_without_any_decision_what_is_there_counts(self) -> None:
        assert (5, 0) == Asked(45.0).counted("nano", 5, 0.0)


class TestSizes:
    def test_what_was_decided_first_is_remembered_by_who_decided(
        self, fleet: LoadedFleet
    ) -> None:
        """No record of it is there yet: who has just begun to lead keeps none."""
        desk = Desk(fleet, PODS, "utilisation")
        desk.scaler.decisions = (desk.look(8, 8, busy=12),)
        asyncio.run(desk.act())
        desk.last = ScalingState(fleet="acme")

        assert 24 == desk.look(8, 8, busy=9).instances

    def test_pods_that_still_start_are_not_taken_back(self, fleet: LoadedFleet) -> None:
        """8 of 16 instances are crowded; 9 of the 24 that were asked for are not."""
        desk = Desk(fleet, PODS, "utilisation")
        assert 24 == desk.look(8, 8, busy=12).instances

        decided = desk.look(8, 8, busy=9)

        assert (24, 3, 16) == (decided.instances, decided.workers, decided.before)

    def test_pods_that_go_slowly_are_not_asked_back(self, fleet: LoadedFleet) -> None:
        """A HPA waits for minutes; meanwhile there are more than are desired."""
        desk = Desk(fleet, PODS, "utilisation")
        assert 32 == desk.look(8, 8, 8, 8, 8, busy=2).instances

        assert [32, 32] == [
            desk.look(8, 8, 8, 8, 8, busy=9).instances,
            desk.look(8, 8, 8, 8, 8, busy=9, after=300.0).instances,
        ]

    def test_workers_that_all_vanish_do_not_shrink_the_pool(
        self, fleet: LoadedFleet
    ) -> None:
        """A server that is started again knows of no worker until they report."""
        desk = Desk(fleet, PODS, "utilisation")
        sizes = [desk.look(8, 8, 8, 8, busy=15), desk.look(), desk.look()]

        assert [32, 32, 32] == [one.instances for one in sizes]
        assert "no_data" == sizes[-1].constraint

    def test_instances_of_several_workers_go_one_of_each(
        self, fleet: LoadedFleet
    ) -> None:
        """One less of all would be the same number for each, for ever."""
        decided = Desk(fleet, SLOTS, "utilisation").look(4, 4, 4, busy=1)

        assert (9, 3) == (decided.instances, decided.workers)

    def test_a_draining_worker_has_no_share(self, fleet: LoadedFleet) -> None:
        seen = status(8, 8, 0)
        gone = seen.workers[2].model_copy(update={"state": "draining"})
        object.__setattr__(seen, "workers", (*seen.workers[:2], gone))

        limits = pool_limits(fleet, seen, seen.pools[0], SLOTS)

        assert (2, 16, 2) == (limits.step, limits.max_instances, limits.min_instances)

    @pytest.mark.parametrize("policy", ["predictive", "threshold", "utilisation"])
    def test_a_paused_pool_keeps_its_least_workers(
        self, fleet: LoadedFleet, policy: str
    ) -> None:
        paused = applied(max_instances=0)

        decided = Desk(fleet, PODS, policy).look(0, 0, 0, limits=paused)

        assert (0, 2) == (decided.instances, decided.workers)

    def test_limits_that_are_applied_meanwhile_count_at_once(
        self, fleet: LoadedFleet
    ) -> None:
        """The same instances need more of smaller workers, as many as there may be."""
        desk = Desk(fleet, PODS, "utilisation")
        assert 24 == desk.look(8, 8, 8, busy=15).instances

        halved = desk.look(4, 4, 4, busy=9, limits=applied(max_instances=4))
        tiny = desk.look(1, 1, 1, busy=3, limits=applied(max_instances=1))

        assert (20, 5, "max_instances") == (
            halved.instances, halved.workers, halved.constraint,
        )  # fmt: skip
        assert (5, 5) == (tiny.instances, tiny.workers)

    @pytest.mark.parametrize("policy", ["predictive", "threshold"])
    def test_without_statistics_sizes_stay_and_it_is_said(
        self, fleet: LoadedFleet, policy: str
    ) -> None:
        desk = Desk(fleet, PODS, policy)

        decided = [desk.look(8, 8, 8, busy=24, statistics=False) for _ in range(3)]

        assert {(24, "no_data")} == {(d.instances, d.constraint) for d in decided}
        assert "nano: this server has no statistics of task queues" in desk.missing[0]

    @pytest.mark.parametrize("reach", [PODS, SLOTS])
    def test_without_a_registry_nothing_is_decided(
        self, fleet: LoadedFleet, reach: Reach
    ) -> None:
        """Zero instances that nobody has seen are no size."""
        desk = Desk(fleet, reach, "predictive")
        seen = status(registry=False, pollers=frozenset({"a", "b"}))

        made, missing = desk.scaler._decide(seen)

        assert () == made
        assert ["nano: this server keeps no registry of workers"] == [
            one.split(",")[0] for one in missing
        ]


class TestLimits:
    def test_they_are_those_of_the_file_as_plan_and_simulate_take_it(
        self, fleet: LoadedFleet
    ) -> None:
        """Nothing applied, nothing spent: the live limits and the file's are the same."""
        seen = status(8)

        live = pool_limits(fleet, seen, seen.pools[0], PODS)

        assert limits_of_file(fleet, "nano", lead_seconds=45.0) == live
        assert (37, 60) == (live.role_caps, live.max_concurrent)

    def test_a_role_whose_classifier_is_a_model_counts_on_the_cheapest_tier(
        self, tmp_path: Path
    ) -> None:
        """The classifier's calls come to it, though the role's own do not."""
        path = tmp_path / "other.yaml"
        own = 'judge: {prompt: "Work.\\n", tier: {min: premium}, max_instances: 9, classifier: llm}'
        path.write_text(FILE + f"  {own}\n")

        caps = [
            limits_of_file(load_fleet(path), tier).role_caps
            for tier in ("nano", "premium")
        ]

        assert [30 + 7 + 9, 7 + 9] == caps

    def test_applied_caps_of_roles_count(self, fleet: LoadedFleet) -> None:
        caps = {role_of("clerk"): (Cap(amount=3),), role_of("teller"): (Cap(amount=2),)}
        limits = AppliedLimits(id="x", claims=ClaimLimits(caps=caps))
        seen = status(8, limits=limits)

        assert 5 == pool_limits(fleet, seen, seen.pools[0], PODS).role_caps

    def test_a_role_whose_cap_was_taken_away_lifts_the_ceiling(
        self, fleet: LoadedFleet
    ) -> None:
        caps = {role_of("clerk"): (Cap(amount=3),)}
        seen = status(8, limits=AppliedLimits(id="x", claims=ClaimLimits(caps=caps)))

        assert pool_limits(fleet, seen, seen.pools[0], PODS).role_caps is None


async def test_a_constraint_that_no_longer_holds_is_no_metric_any_more(
    fleet: LoadedFleet,
) -> None:
    """One sample for each pool; none from one that does not lead."""
    scaler = Autoscaler(cast("Any", None), fleet, Advice(45.0), Brain({}))
    scaler.leads = True
    pages = []
    async with serve_autoscaler(scaler, Listen(port=0)) as url:
        for constraint in ("demand", "tokens_per_minute"):
            scaler.decisions = (_decision(cast("Constraint", constraint)),)
            pages.append(await _samples(url))
        scaler.leads = False
        pages.append(await _samples(url))

    labels = 'fleet="acme",pool="nano"'
    assert [
        {f'tierpool_desired_instances{{constraint="{name}",{labels}}}': "16.0"}
        for name in ("demand", "tokens_per_minute")
    ] == pages[:2]
    assert {} == pages[2]


def _decision(constraint: Constraint) -> PoolDecision:
    now = datetime.now(UTC)
    return PoolDecision(pool="nano", at=now, instances=16, constraint=constraint)


async def _samples(url: str) -> Mapping[str, str]:
    """Return the samples of desired instances."""

    def fetched() -> str:
        with urllib.request.urlopen(f"{url}/metrics", timeout=10) as response:
            return str(response.read().decode())

    lines = (await asyncio.to_thread(fetched)).splitlines()
    name = "tierpool_desired_instances{"
    return dict(line.rsplit(" ", 1) for line in lines if line.startswith(name))


CLUSTER = ("--act", "kubernetes", "--kubernetes-api", "http://x")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--pool", "nono"), "unknown pool 'nono'; known: nano, premium"),
        (("--every", "0"), "one second is the least"),
        (("--every", "101"), "100 seconds are the most"),
        (("--act", "kubernetes"), "--kubernetes-api"),
        (
            ("--act", "kubernetes", "--kubernetes-api", "proxy:8001"),
            "http://127.0.0.1:8001",
        ),
        ((*CLUSTER, "--deployment", "{x}"), "only {fleet} and {pool}"),
        ((*CLUSTER, "--deployment", "{fleet.__class__}"), "only {fleet} and {pool}"),
        ((*CLUSTER, "--deployment", "{pool!r}"), "only {fleet} and {pool}"),
        ((*CLUSTER, "--deployment", "{pool:>9}"), "only {fleet} and {pool}"),
        ((*CLUSTER, "--deployment", "{}"), "only {fleet} and {pool}"),
        ((*CLUSTER, "--deployment", "{pool"), "only {fleet} and {pool}"),
        ((*CLUSTER, "--deployment", "one"), "put {pool} into it"),
        ((*CLUSTER, "--deployment", "{pool}/x"), "'nano/x', for nano, cannot be"),
        ((*CLUSTER, "--deployment", "Big-{pool}"), "'Big-nano', for nano, cannot be"),
        (("--http", "nowhere"), "write HOST:PORT"),
    ],
)
def test_bad_options_are_named_before_a_server_is_asked(
    fleet: LoadedFleet,
    options: tuple[str, ...],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TEMPORAL_ADDRESS", "127.0.0.1:1")
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)

    status = main(["autoscale", "--json", "--file", str(fleet.path), *options])

    assert 2 == status
    assert said in json.loads(capsys.readouterr().out)["error"]


def test_deployments_are_called_as_manifests_call_them(tmp_path: Path) -> None:
    """Also where a name of the file cannot be one of a cluster."""
    path = tmp_path / "agents.yaml"
    path.write_text(
        FILE.replace("fleet: acme", "fleet: 9acme").replace("nano", "na_no")
    )
    args = build_parser().parse_args(["autoscale"])

    named = _deployments(args, load_fleet(path), ["na_no", "premium"])

    assert {n: deployment_name("9acme", n) for n in named} == named
    assert "fleet-9acme-na-no" == named["na_no"]


def test_without_a_server_it_says_how_to_start_one(
    fleet: LoadedFleet,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TEMPORAL_ADDRESS", "127.0.0.1:1")

    status = main(["autoscale", "--json", "--file", str(fleet.path), *CLUSTER])

    assert 3 == status
    assert "`tierpool dev`" in json.loads(capsys.readouterr().out)["error"]
