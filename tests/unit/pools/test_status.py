"""What `status` and `apply` make of what the workers say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tierpool import load_fleet
from tierpool.contracts.limits import AppliedLimits
from tierpool.contracts.reports import PoolReport, Window, WorkerReport
from tierpool.fleet import LoadedFleet, fixed_parts
from tierpool.pools.apply import pool_limits, refusals
from tierpool.pools.observe import notes_on, pool_status
from tierpool.pools.statistics import QueueStatistics, together

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
NOW = NOON + timedelta(seconds=20)
FILE = """
version: 1
fleet: acme
tiers:
  nano:
    model: openai:small
    free: true
    pool: {max_instances: 3}
    fallback: [{model: openai:spare, free: true}]
  premium: {model: openai:large, free: true, base_url: "http://127.0.0.1:1/v1"}
agents:
  clerk: {prompt: "Work.\\n", tier: nano}
"""


def pool(**fields: Any) -> PoolReport:
    return PoolReport(**{"pool": "nano", "limit": 4} | fields)


def worker(*pools: PoolReport, **fields: Any) -> WorkerReport:
    given = {
        "id": "w",
        "fleet": "acme",
        "serves": ("nano",),
        "state": "running",
        "version": "1",
        "host": "h",
        "pid": 7,
        "started": NOON,
        "at": NOON,
        "pools": pools or (pool(),),
    }
    return WorkerReport.model_validate(given | fields)


def window(share: float, seconds: float = 300) -> Window:
    capacity = 4 * seconds
    return Window(
        seconds=seconds, busy_seconds=share * capacity, capacity_seconds=capacity
    )


SEEN = QueueStatistics(backlog=9, oldest=timedelta(seconds=4), added_per_second=1.5)


class TestPool:
    def test_draining_process_is_no_capacity(self) -> None:
        drains = pool(limit=0, busy=3, draining=3, bound="max", reason="it drains")
        full = pool(busy=4, bound="max", reason="all 4")
        both = [worker(drains, state="draining"), worker(full)]
        status = pool_status("nano", (), SEEN, both)
        assert (4, 7, 3) == (status.limit, status.busy, status.draining)
        assert "all 4" == status.reason
        alone = pool_status("nano", (), SEEN, both[:1])
        assert ("max", "it drains") == (alone.bound, alone.reason)

    def test_processes_add_up(self) -> None:
        one = worker(pool(busy=4, bound="max", reason="all 4"))
        other = worker(pool(ready=1, busy=1, cooldown=2, bound="backlog", draining=1))
        status = pool_status("nano", ("openai:small",), SEEN, [one, other])
        assert (2, 8, 1, 5, 2) == (
            status.workers,
            status.limit,
            status.ready,
            status.busy,
            status.cooldown,
        )
        assert (9, 4.0, 1.5) == (
            status.backlog,
            status.oldest_seconds,
            status.arrivals_per_second,
        )
        assert 1 == status.draining
        assert ("backlog", 0) == (status.bound, status.silent)

    def test_what_holds_back_most_processes_is_named(self) -> None:
        full = worker(pool(busy=4, bound="max", reason="all 4"))
        cooling = worker(pool(bound="provider", reason="429"))
        status = pool_status("nano", (), SEEN, [full, cooling, cooling])
        assert ("provider", "429") == (status.bound, status.reason)

    @pytest.mark.parametrize(
        ("share", "seconds", "sizing"),
        [
            (0.81, 300, "undersized"),
            (0.8, 300, ""),
            (0.2, 300, ""),
            (0.19, 300, "oversized"),
            (1.0, 59, ""),
        ],
    )
    def test_size_is_judged_by_five_minutes(
        self, share: float, seconds: float, sizing: str
    ) -> None:
        one = worker(pool(window=window(share, seconds), bound="backlog"))
        assert sizing == pool_status("nano", (), SEEN, [one]).sizing

    @pytest.mark.parametrize("bound", ["provider", "budget", "rate", "max"])
    def test_pool_that_is_held_back_is_not_too_large(self, bound: str) -> None:
        one = worker(pool(window=window(0.0), bound=bound, reason="it waits"))
        assert "" == pool_status("nano", (), SEEN, [one]).sizing

    def test_pool_that_nobody_serves(self) -> None:
        status = pool_status("premium", ("openai:large",), SEEN, [worker()])
        assert (0, "no worker", ("openai:large",)) == (
            status.workers,
            status.reason,
            status.models,
        )

    def test_without_a_registry_pollers_are_counted(self) -> None:
        seen = QueueStatistics(pollers=frozenset({"a", "b"}))
        assert 2 == pool_status("nano", (), seen, None).workers
        assert 2 == pool_status("nano", (), seen, []).silent


class TestNotes:
    def said(self, *workers: WorkerReport, limits: str = "") -> str:
        pools = [pool_status("nano", (), SEEN, list(workers))]
        return "\n".join(notes_on(pools, list(workers), AppliedLimits(id=limits), NOW))

    def test_nothing_to_say(self) -> None:
        assert "" == self.said(worker(), worker())

    def test_trouble_is_named(self) -> None:
        assert "nano: HTTP 401" == self.said(worker(pool(trouble="HTTP 401")))

    def test_workers_of_another_version_are_named(self) -> None:
        said = self.said(worker(), worker(version="2"), worker())
        assert "workers of different versions of tierpool: 2 of 1, 1 of 2" == said

    def test_workers_of_another_file_are_named(self) -> None:
        said = self.said(
            worker(file={"tiers.nano.model": "a"}),
            worker(file={"tiers.nano.model": "b"}),
        )
        assert "tiers.nano.model is a (1), b (1)" in said

    def test_who_cannot_follow_says_why(self) -> None:
        assert "h:7 (min above max)" in self.said(
            worker(limits="a", refused_limits="min above max"), limits="b"
        )

    def test_draining_worker_need_not_follow(self) -> None:
        assert "" == self.said(worker(limits="a", state="draining"), limits="b")

    def test_silent_worker_and_wrong_clocks_are_named(self) -> None:
        gone = self.said(worker(at=NOW - timedelta(seconds=40)))
        assert "h:7 has not reported for 40 s: it is gone, or its clock" in gone
        ahead = self.said(worker(at=NOW + timedelta(seconds=99)))
        assert "the clock of h:7 is 99 s ahead of this one's" == ahead
        assert "" == self.said(worker(at=NOW - timedelta(minutes=11)))

    def test_who_does_not_follow_is_named(self) -> None:
        said = self.said(worker(limits="b"), worker(limits="a"), limits="b")
        assert "do not follow the applied limits (yet): h:7" == said


class TestRefusals:
    @pytest.fixture
    def fleet(self, tmp_path: Path) -> LoadedFleet:
        path = tmp_path / "agents.yaml"
        path.write_text(FILE)
        return load_fleet(path)

    def changed(self, fleet: LoadedFleet, **file: str) -> list[str]:
        known = fixed_parts(fleet) | {k.replace("__", "."): v for k, v in file.items()}
        found = refusals(fleet, [worker(file=known)])
        return [f"{problem.path}: {problem.value}" for problem in found]

    def test_same_file_is_taken(self, fleet: LoadedFleet) -> None:
        assert [] == self.changed(fleet)
        assert 3 == pool_limits(fleet)["nano"].max_instances

    def test_another_model_is_refused(self, fleet: LoadedFleet) -> None:
        assert ["tiers.nano.model: openai:small"] == self.changed(
            fleet, tiers__nano__model="openai:other"
        )

    def test_a_tier_too_few_or_too_many_is_refused(self, fleet: LoadedFleet) -> None:
        assert [
            "tiers: nano, premium",
            "tiers.deluxe.model: nothing",
        ] == self.changed(
            fleet, tiers="nano, premium, deluxe", tiers__deluxe__model="openai:x"
        )

    def test_a_fallback_that_no_worker_has_is_refused(self, fleet: LoadedFleet) -> None:
        known = fixed_parts(fleet)
        del known["tiers.nano.fallback"]
        (problem,) = refusals(fleet, [worker(file=known)])
        assert "tiers.nano.fallback" == problem.path
        assert "the workers run nothing" in problem.message

    def test_address_is_part_of_a_model(self, fleet: LoadedFleet) -> None:
        assert (
            "openai:large at http://127.0.0.1:1/v1"
            == fixed_parts(fleet)["tiers.premium.model"]
        )


def test_statistics_of_queues_add_up() -> None:
    other = QueueStatistics(backlog=1, oldest=timedelta(seconds=9), taken_per_second=2)
    both = together([SEEN, other])
    assert (10, timedelta(seconds=9), 1.5, 2) == (
        both.backlog,
        both.oldest,
        both.added_per_second,
        both.taken_per_second,
    )
