"""The report of a worker process as Prometheus reads it."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tierpool import telemetry
from tierpool.contracts.reports import Bound, PoolReport, Window, WorkerReport
from tierpool.pools.endpoint.metrics import exposition, merged

NOW = datetime(2026, 11, 2, 12, tzinfo=UTC)
NANO = PoolReport(
    pool="nano",
    models=("openai:small",),
    limit=9,
    ready=2,
    busy=4,
    starting=1,
    cooldown=3,
    draining=1,
    bound="rate",
    reason="500 requests/minute",
    built=11,
    calls=100,
    failed=7,
    call_seconds=250.5,
    window=Window(seconds=300, busy_seconds=900, capacity_seconds=2700),
    backlog=42,
    oldest_seconds=12.5,
    arrivals_per_second=1.5,
)
PAUSED = PoolReport(pool="premium", trouble="no key in OPENAI_API_KEY")
TOOLS = PoolReport(pool="tools", calls=3)


def worker(*pools: PoolReport, **more: Any) -> WorkerReport:
    more = {"id": "w1", "fleet": "acme", "started": NOW, "at": NOW} | more
    return WorkerReport(pools=pools, **more)


def read(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Read samples by name and labels; each may stand there once."""
    found: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in found
            found[key] = sample.value
    return found


def value(report: WorkerReport, name: str, **labels: str) -> float | None:
    return read(exposition(report)).get((name, frozenset(labels.items())))


def of_pool(name: str, pool: str = "nano", **labels: str) -> float | None:
    report = worker(NANO, PAUSED, TOOLS)
    return value(report, f"tierpool_pool_{name}", fleet="acme", pool=pool, **labels)


def test_worker_is_described_by_labels() -> None:
    report = worker(version="1.2", host="h", serves=("flows", "nano"), pid=4)

    labels = {"worker": "w1", "fleet": "acme", "version": "1.2", "host": "h"}
    assert 1 == value(report, "tierpool_worker_info", **labels, serves="flows,nano")


@pytest.mark.parametrize("state", ["starting", "running", "draining"])
def test_one_state_is_true(state: str) -> None:
    report = worker(state=state)

    found = {
        one: value(report, "tierpool_worker_state", state=one)
        for one in ("starting", "running", "draining")
    }

    assert {one: one == state for one in found} == found


def test_calls_of_a_worker_are_those_of_its_pools() -> None:
    assert 103 == value(worker(NANO, TOOLS), "tierpool_worker_calls_total")
    assert 0 == value(worker(), "tierpool_worker_calls_total")


def test_each_instance_is_in_one_state() -> None:
    """Busy ones that drain are counted as draining only."""
    states = ("ready", "busy", "cooldown", "draining", "starting")

    found = {state: of_pool("instances", state=state) for state in states}

    expected = {"ready": 2, "busy": 3, "cooldown": 3, "draining": 1, "starting": 1}
    assert expected == found
    assert NANO.ready + NANO.busy + NANO.starting + NANO.cooldown == sum(
        expected.values()
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("instances_limit", 9),
        ("instances_built_total", 11),
        ("utilisation_ratio", 1 / 3),
        ("call_seconds_sum", 250.5),
        ("call_seconds_count", 100),
        ("trouble", 0),
        ("backlog", 42),
        ("backlog_age_seconds", 12.5),
        ("arrivals_per_second", 1.5),
    ],
)
def test_numbers_of_a_pool(name: str, expected: float) -> None:
    found = of_pool(name)

    assert found is not None
    assert math.isclose(expected, found)


def test_calls_are_split_by_outcome() -> None:
    assert (93, 7) == (
        of_pool("calls_total", outcome="answered"),
        of_pool("calls_total", outcome="failed"),
    )


def test_utilisation_is_absent_without_capacity() -> None:
    assert of_pool("utilisation_ratio", pool="premium") is None


def test_every_bound_is_shown() -> None:
    found = {bound: of_pool("bound", bound=bound) for bound in get_args(Bound)}

    assert {bound: bound == "rate" for bound in get_args(Bound)} == found


def test_trouble_is_a_number_and_its_text_no_label() -> None:
    text = exposition(worker(NANO, PAUSED))

    assert (1, 0) == (of_pool("trouble", pool="premium"), of_pool("trouble"))
    assert "OPENAI_API_KEY" not in text
    assert "requests/minute" not in text


def test_every_metric_is_announced_with_its_help() -> None:
    """All metrics of the list are there, even when a worker has no pools."""
    families = {
        family.name + "_total" * (family.type == "counter"): family
        for family in text_string_to_metric_families(exposition(worker()))
    }

    ours = {n: f.documentation for n, f in families.items() if "tierpool" in n}
    of_supervisors = {telemetry.METRIC_PROCESSES, telemetry.METRIC_PROCESSES_ENDED}
    assert of_supervisors == telemetry.METRICS.keys() - ours.keys()
    assert ours == {name: telemetry.METRICS[name] for name in ours}
    assert "counter" == families[telemetry.METRIC_POOL_CALLS].type
    assert "summary" == families[telemetry.METRIC_POOL_CALL_SECONDS].type


def test_names_are_exported() -> None:
    names = {name for name in vars(telemetry) if name.startswith("METRIC_")}

    assert names <= set(telemetry.__all__)
    assert {getattr(telemetry, name) for name in names} == set(telemetry.METRICS)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_cpu_and_memory_of_the_process_are_there() -> None:
    found = read(exposition(worker()))

    assert found["process_resident_memory_bytes", frozenset()] > 1_000_000
    assert found["process_cpu_seconds_total", frozenset()] > 0


def test_labels_are_escaped() -> None:
    name = 'a "b" \\ c\nd'

    assert 0 == value(
        worker(PoolReport(pool=name)), "tierpool_pool_backlog", fleet="acme", pool=name
    )


OURS = """\
# HELP a_total Ours.
# TYPE a_total counter
a_total 1.0
"""


def test_other_metrics_are_appended() -> None:
    theirs = '# HELP b B.\n# TYPE b gauge\nb{x="# EOF"} 2\nb{x="y"} 3'

    assert OURS + theirs + "\n" == merged(OURS, theirs)


def test_metric_that_is_there_already_is_left_out() -> None:
    theirs = (
        "# HELP b B.\n# TYPE b gauge\nb 2\n"
        "# HELP a_total Theirs.\n# TYPE a_total counter\na_total 5\n"
        "# TYPE c gauge\nc 4\n"
        "# TYPE b gauge\nb 9\n"
    )

    made = merged(OURS, theirs)

    none: frozenset[tuple[str, str]] = frozenset()
    assert {("a_total", none): 1, ("b", none): 2, ("c", none): 4} == read(made)
    assert 1 == made.count("# HELP a_total")


def test_end_marks_and_comments_are_left_out() -> None:
    assert OURS + "b 1\n" == merged(OURS, "# a comment\nb 1\n# EOF\n")
    assert OURS == merged(OURS, "")


def test_odd_line_breaks_within_labels_stay() -> None:
    theirs = '# TYPE b gauge\nb{x="1\u20282\x85"} 2\n'

    assert OURS + theirs == merged(OURS, theirs)
