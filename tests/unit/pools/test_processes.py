"""What a supervisor decides to do, from what it observed; a clock that tests move."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import pytest

from tierpool.contracts.reports import PoolReport, WorkerReport
from tierpool.pools.processes.decisions import (
    Action,
    Decision,
    State,
    decide,
    drain_all,
)
from tierpool.pools.processes.labelled import labelled
from tierpool.pools.processes.view import Ended, Limits, Process

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
SIGKILLED = -9


def pool(name: str = "nano", **fields: Any) -> PoolReport:
    return PoolReport(**{"pool": name, "limit": 10} | fields)


IDLE = pool()
FULL = pool(busy=10, bound="max", backlog=5)


def report(*pools: PoolReport, **fields: Any) -> WorkerReport:
    given = {"id": "x", "fleet": "f", "state": "running", "started": NOON, "at": NOON}
    return WorkerReport.model_validate(given | fields | {"pools": pools or (IDLE,)})


@dataclass
class Machine:
    """Processes that do as they are told, and a supervisor that decides."""

    limits: Limits
    now: float = 1000.0
    running: dict[int, Process] = field(default_factory=dict)
    ended: list[Ended] = field(default_factory=list)
    last: Decision | None = None

    def __post_init__(self) -> None:
        self.state = State(wanted=self.limits.least)

    def look(self, seconds: float = 1.0) -> list[str]:
        """Let time pass, let all answer, decide once and do it; return what was done."""
        self.now += seconds
        running = self.running.values()
        return self.decide([replace(one, answered=self.now) for one in running])

    def decide(self, seen: Sequence[Process]) -> list[str]:
        ended, self.ended = self.ended, []
        self.running = {one.index: one for one in seen}
        self.last = decide(self.state, self.limits, seen, ended, self.now)
        self.state = self.last.state
        for action in self.last.actions:
            self.act(action)
        return [f"{a.do} {a.index}: {a.reason}" for a in self.last.actions]

    def act(self, action: Action) -> None:
        if action.do == "start":
            new = Process(action.index, started=self.now, answered=self.now)
            self.running[action.index] = new
        elif action.do == "drain":
            self.change(action.index, draining_since=self.now)

    def change(self, index: int, **fields: Any) -> None:
        self.running[index] = replace(self.running[index], **fields)

    def ready(self, *indexes: int) -> None:
        for index in indexes or self.running:
            self.change(index, ready_since=self.now, report=report())

    def tell(self, *pools: PoolReport, **fields: Any) -> None:
        """Let all that are ready report the same."""
        for one in self.running.values():
            if one.ready:
                self.change(one.index, report=report(*pools, **fields))

    def end(self, index: int, status: int = SIGKILLED) -> None:
        one = self.running.pop(index)
        drained = one.draining_since is not None
        self.ended.append(Ended(index, status, one.started, one.ready_since, drained))


def machine(least: int, most: int, up: int | None = None, **limits: Any) -> Machine:
    """Make a machine on which so many processes are ready."""
    made = Machine(Limits(least, most, **limits))
    made.state = replace(made.state, wanted=up or least)
    made.look()
    made.ready()
    made.look()
    return made


class TestStarts:
    def test_least_number_is_started(self) -> None:
        made = Machine(Limits(2, 4))

        assert ["start 0: wanted", "start 1: wanted"] == made.look()
        assert [] == made.look()

    def test_many_start_four_at_a_time(self) -> None:
        """They would share the cores, and none would be ready in time."""
        made = Machine(Limits(6, 6))

        assert 4 == len(made.look())
        assert [] == made.look()
        made.ready(0, 1)
        assert ["start 4: wanted", "start 5: wanted"] == made.look()

    def test_bad_configuration_of_all_ends_it(self) -> None:
        made = Machine(Limits(2, 2))
        made.look()

        made.end(0, 2)
        assert [] == made.look(5)  # the other one may still come up
        made.end(1, 2)
        made.look()

        assert made.last is not None
        assert 2 == made.last.status

    def test_one_that_comes_up_refutes_bad_configuration(self) -> None:
        made = Machine(Limits(2, 2))
        made.look()

        made.end(0, 2)
        made.look()
        made.ready(1)

        assert ["start 0: respawned"] == made.look()

    @pytest.mark.parametrize("statuses", [(3, 3), (2, 3), (SIGKILLED, 2)])
    def test_other_ends_are_tried_again(self, statuses: tuple[int, int]) -> None:
        """A server that is away, say, comes back."""
        made = Machine(Limits(2, 2))
        made.look()

        made.end(0, statuses[0])
        made.end(1, statuses[1])
        assert [] == made.look()
        assert 2 == len(made.look(1))

    def test_bad_configuration_later_is_tried_again(self) -> None:
        """A file that was broken meanwhile stops no process that runs."""
        made = machine(2, 2)

        for one in (0, 1):
            made.end(one, 2)

        made.look()
        assert made.last is not None
        assert None is made.last.status
        assert ["start 0: respawned", "start 1: respawned"] == made.look(1)


class TestDeaths:
    def test_healthy_process_is_replaced_at_once(self) -> None:
        made = machine(1, 1)
        made.now += 100

        made.end(0)

        assert ["start 0: respawned"] == made.look()

    def test_early_deaths_wait_longer_and_longer(self) -> None:
        made = machine(1, 1)
        waits = []
        for _ in range(9):
            made.end(0)
            died = made.now
            made.look(0)
            while not made.running:
                made.look(1)
            waits.append(made.now - died)

        assert [1, 2, 4, 8, 16, 32, 60, 60, 60] == waits

    def test_healthy_run_forgives(self) -> None:
        made = machine(1, 1)
        for wait in (1, 2, 4):
            made.end(0)
            made.look(0)
            assert ["start 0: respawned"] == made.look(wait)
        made.ready(0)
        made.now += 61

        made.end(0)

        assert ["start 0: respawned"] == made.look()

    def test_several_that_die_together_are_one_failure(self) -> None:
        made = machine(3, 3)

        for index in (0, 1, 2):
            made.end(index)

        assert [] == made.look(0)
        assert 3 == len(made.look(1))

    def test_grown_number_is_kept(self) -> None:
        """What was grown stays wanted after a death."""
        made = machine(1, 3, up=3)
        made.now += 100

        made.end(1)

        assert ["start 1: respawned"] == made.look()

    def test_draining_process_may_end(self) -> None:
        made = machine(1, 1)
        made.change(0, draining_since=made.now)

        assert ["start 1: wanted"] == made.look()
        made.end(0, 0)
        made.ready(1)
        assert [] == made.look()

    def test_silent_process_is_killed_and_replaced(self) -> None:
        """Its last answer is 30 s old: its event loop hangs."""
        made = machine(1, 1)
        (one,) = made.running.values()

        made.now += 30
        assert [] == made.decide([one])
        made.now += 1
        assert ["kill 0: no answer for 30 s"] == made.decide([one])
        made.end(0)
        made.now += 60
        assert ["start 0: respawned"] == made.look()

    def test_process_that_does_not_get_ready_is_killed(self) -> None:
        made = Machine(Limits(1, 1))
        made.look()

        assert [] == made.look(60)
        assert ["kill 0: not ready after 60 s"] == made.look(1)

    def test_process_in_trouble_is_left_alone(self) -> None:
        """A bad key is told of; killing the process would not help."""
        made = Machine(Limits(1, 1))
        made.look()
        made.change(0, report=report(pool(trouble="the key is refused")))

        assert [] == made.look(600)

    def test_grace_of_a_draining_process_ends(self) -> None:
        made = machine(1, 1, grace=300)
        made.change(0, draining_since=made.now)
        made.look(0)
        made.ready(1)

        assert [] == made.look(320)
        assert ["kill 0: outlived its grace period"] == made.look(1)


class TestResizing:
    def test_grows_when_all_are_full_twice(self) -> None:
        made = machine(1, 4)
        made.tell(FULL)

        assert [] == made.look()
        assert ["start 1: full, with a backlog: nano"] == made.look()
        assert [] == made.look()  # not while one is starting
        assert [] == made.look()

    def test_does_not_grow_above_the_most(self) -> None:
        made = machine(1, 2, up=2)
        made.tell(FULL)

        assert [[]] * 5 == [made.look() for _ in range(5)]

    @pytest.mark.parametrize(
        "other",
        [
            pool(busy=9, bound="backlog", backlog=5),
            pool(busy=10, bound="max", backlog=4),
            pool(busy=2, bound="provider", backlog=500),
            pool(limit=0, bound="max", backlog=500),
            pool(bound="provider", backlog=500, trouble="the key is refused"),
        ],
        ids=["free instances", "little backlog", "provider", "paused", "trouble"],
    )
    def test_does_not_grow_for_nothing(self, other: PoolReport) -> None:
        """More processes would find nothing to do, or nobody to do it with."""
        made = machine(1, 4)
        made.tell(other)

        assert [[]] * 5 == [made.look() for _ in range(5)]

    def test_does_not_grow_on_one_observation(self) -> None:
        made = machine(1, 4)

        for seen in (FULL, IDLE, FULL, IDLE):
            made.tell(seen)
            assert [] == made.look()

    def test_one_full_process_is_not_all(self) -> None:
        made = machine(2, 4)
        made.change(0, report=report(FULL))

        assert [[]] * 5 == [made.look() for _ in range(5)]

    def test_worst_pool_decides(self) -> None:
        made = machine(1, 4)
        made.tell(IDLE, pool("premium", limit=1, busy=1, bound="max", backlog=9))
        made.look()

        assert ["start 1: full, with a backlog: premium"] == made.look()

    def test_missing_answers_argue_against_any_change(self) -> None:
        made = machine(1, 4, up=2)
        made.tell(FULL)
        silent = [replace(one, answered=made.now - 6) for one in made.running.values()]

        assert [[]] * 3 == [made.decide(silent) for _ in range(3)]

    def test_shrinks_after_an_idle_time(self) -> None:
        """The process with the fewest calls goes; of equals the youngest."""
        made = machine(1, 4, up=3)
        made.tell(pool(busy=1))
        made.change(1, report=report(IDLE))

        assert [] == made.look(0)
        assert [] == made.look(299)
        assert ["drain 1: one process less will do"] == made.look(1)
        made.end(1, 0)
        assert [] == made.look(299)
        made.look(1)
        assert ["drain 2: one process less will do"] == made.look(
            1
        ) or 2 in made.running

    def test_shrinks_one_at_a_time_to_the_least(self) -> None:
        made = machine(1, 4, up=3)
        made.tell(IDLE)

        drained = []
        for _ in range(2000):
            drained += made.look()
            for index in [i for i, one in made.running.items() if not one.active]:
                made.end(index, 0)

        assert ["drain 2", "drain 1"] == [done.partition(":")[0] for done in drained]

    @pytest.mark.parametrize(("busy", "goes"), [(7, True), (8, False)])
    def test_keeps_what_would_fill_the_rest(self, busy: int, goes: bool) -> None:
        """7 calls are 70 % of the 10 instances of one process."""
        made = machine(1, 2, up=2)
        made.change(0, report=report(pool(busy=busy)))

        made.look()
        assert goes is bool(made.look(300))

    def test_busy_moment_starts_the_idle_time_again(self) -> None:
        made = machine(1, 2, up=2)

        made.look(200)
        made.tell(pool(busy=5))
        made.look()
        made.tell(IDLE)
        assert [] == made.look(200)
        assert [] == made.look(200)
        assert 1 == len(made.look(100))

    def test_longest_patience_of_several_pools_counts(self) -> None:
        made = machine(1, 2, up=2)
        made.tell(IDLE, pool("premium", limit=1, scale_down_idle_secs=900))

        assert [] == made.look(898)
        assert 1 == len(made.look(2))


class TestRecycling:
    def test_successor_is_ready_before_the_old_one_drains(self) -> None:
        made = machine(1, 1, requests=100)
        made.tell(pool(calls=99))
        assert [] == made.look()
        made.tell(pool(calls=100))

        assert ["start 1: replaces 0: 100 calls"] == made.look()
        assert [] == made.look(10)
        made.ready(1)
        assert ["drain 0: recycled: 100 calls"] == made.look()
        assert [] == made.look(10)
        made.end(0, 0)
        assert [] == made.look()

    def test_one_at_a_time(self) -> None:
        made = machine(3, 3, requests=100)
        made.tell(pool(calls=100))

        assert ["start 3: replaces 0: 100 calls"] == made.look()
        assert [] == made.look()
        made.ready(3)
        assert ["drain 0: recycled: 100 calls"] == made.look()
        assert ["start 4: replaces 1: 100 calls"] == made.look()

    def test_ages_are_staggered(self) -> None:
        """They were started together, and do not all go together."""
        made = machine(3, 3, age=1000.0)
        starts = []
        for _ in range(1200):
            made.now += 1
            starts += [made.now - 1002 for done in made.look(0) if done[:5] == "start"]
            made.ready(*(i for i, one in made.running.items() if not one.ready))
            for index in [i for i, one in made.running.items() if not one.active]:
                made.end(index, 0)

        assert starts == sorted(starts)
        assert 3 == len(set(starts))
        assert all(899 <= start <= 1000 for start in starts)

    def test_memory_of_a_fresh_process_is_no_reason(self) -> None:
        """A limit below what every process takes does not recycle without end."""
        made = machine(1, 1, memory_bytes=100_000_000)
        made.tell(IDLE, memory_bytes=120_000_000)

        assert [] == made.look(58)
        assert ["start 1: replaces 0: 120 MB of memory"] == made.look(1)

    def test_successor_that_dies_is_tried_again_later(self) -> None:
        made = machine(1, 1, requests=100)
        made.tell(pool(calls=100))
        made.look()

        made.end(1, 1)

        assert [] == made.look(0)
        assert ["start 1: replaces 0: 100 calls"] == made.look(1)

    def test_old_one_that_dies_has_its_successor(self) -> None:
        made = machine(1, 1, requests=100)
        made.tell(pool(calls=100))
        made.look()

        made.end(0)
        made.ready(1)

        assert [] == made.look()
        assert {1} == set(made.running)

    def test_growing_comes_first(self) -> None:
        """A process that is always worn does not keep the pool from growing."""
        made = machine(1, 2, requests=1)
        made.tell(pool(calls=5, busy=10, bound="max", backlog=9))

        assert [] == made.look()
        assert ["start 1: full, with a backlog: nano"] == made.look()


class TestStopping:
    def test_all_are_drained_once(self) -> None:
        made = machine(2, 2)
        made.change(0, draining_since=made.now)

        actions = drain_all([*made.running.values()], made.limits, made.now)

        assert [Action("drain", 1, "told to stop")] == actions

    def test_what_outlives_the_grace_is_killed(self) -> None:
        made = machine(1, 1, grace=10)
        made.change(0, draining_since=made.now)

        late = drain_all([*made.running.values()], made.limits, made.now + 31)

        assert [Action("kill", 0, "outlived its grace period")] == late

    def test_process_that_hangs_is_drained_first(self) -> None:
        """It may still recover within the grace."""
        made = machine(1, 1)

        actions = drain_all([*made.running.values()], made.limits, made.now + 31)

        assert ["drain"] == [action.do for action in actions]


CHILD = """\
# HELP calls_total Calls.
# TYPE calls_total counter
calls_total{pool="a{b} c"} 3.0
# HELP took_seconds Time.
# TYPE took_seconds histogram
took_seconds_bucket{le="+Inf"} 2 1700000000
took_seconds_count 2
alone 1
# EOF
"""


def test_metrics_of_several_processes_are_one_page() -> None:
    """Each family is announced once, with the samples of all processes below it."""
    page = labelled("process", [("0", CHILD), ("1", CHILD)])

    assert page.splitlines() == [
        "# HELP calls_total Calls.",
        "# TYPE calls_total counter",
        'calls_total{process="0",pool="a{b} c"} 3.0',
        'calls_total{process="1",pool="a{b} c"} 3.0',
        "# HELP took_seconds Time.",
        "# TYPE took_seconds histogram",
        'took_seconds_bucket{process="0",le="+Inf"} 2 1700000000',
        'took_seconds_count{process="0"} 2',
        'took_seconds_bucket{process="1",le="+Inf"} 2 1700000000',
        'took_seconds_count{process="1"} 2',
        'alone{process="0"} 1',
        'alone{process="1"} 1',
    ]
