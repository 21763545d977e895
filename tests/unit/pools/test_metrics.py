"""The report of a worker process as Prometheus reads it."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tierpool import telemetry
from tierpool.contracts import Usage
from tierpool.contracts.ledger import Total
from tierpool.contracts.reports import (
    Bound,
    LeaseReport,
    PoolReport,
    Window,
    WorkerReport,
)
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
    wait_target_secs=7.5,
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
        ("wait_target_seconds", 7.5),
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
    listed = telemetry.METRICS | telemetry.METERED | telemetry.AUTOSCALER_METRICS
    assert {getattr(telemetry, name) for name in names} == set(listed)


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


LEASE = LeaseReport(
    limited=True,
    valid=True,
    free={"usd": 1_500_000_000, "calls": 3},
    reserved={"usd": 250_000_000, "calls": 1},
    refused={"calls": 4},
    renewals=9,
    hour_usd=Decimal("1.25"),
    held_usd=Decimal("3"),
    cap_usd=Decimal("50"),
    alerting=True,
    totals=(
        Total(
            flow="work", role="clerk", tier="nano", model="openai:small", calls=6,
            unknown=2, unbilled=1, denied=5, reserved_usd=Decimal("0.5"),
            settled_usd=Decimal("0.25"), top_usd=Decimal("2"),
            usage=Usage(input_tokens=70, output_tokens=30),
        ),
    ),
)  # fmt: skip
KIND = {"flow": "work", "role": "clerk", "tier": "nano", "model": "openai:small"}


@pytest.mark.parametrize(
    ("name", "labels", "expected"),
    [
        ("lease_valid", {}, 1),
        ("lease_trouble", {}, 0),
        ("lease_renewals_total", {}, 9),
        ("lease_free", {"resource": "usd"}, 1.5),
        ("lease_free", {"resource": "calls"}, 3),
        ("lease_reserved", {"resource": "usd"}, 0.25),
        ("lease_refused_total", {"resource": "calls"}, 4),
        ("hour_settled_usd", {}, 1.25),
        ("hour_held_usd", {}, 3),
        ("hour_cap_usd", {}, 50),
        ("hour_alerting", {}, 1),
        ("cost_calls_total", KIND | {"outcome": "billed"}, 3),
        ("cost_calls_total", KIND | {"outcome": "unknown"}, 2),
        ("cost_calls_total", KIND | {"outcome": "unbilled"}, 1),
        ("cost_denied_total", KIND, 5),
        ("cost_reserved_usd_total", KIND, 0.5),
        ("cost_settled_usd_total", KIND, 0.25),
        ("cost_top_tier_usd_total", KIND, 2),
        ("cost_tokens_total", KIND | {"kind": "input"}, 70),
        ("cost_tokens_total", KIND | {"kind": "output"}, 30),
    ],
)
def test_lease_and_costs(name: str, labels: dict[str, str], expected: float) -> None:
    found = value(worker(lease=LEASE), f"tierpool_{name}", fleet="acme", **labels)

    assert expected == found


def test_nothing_is_told_of_a_ledger_that_was_never_heard() -> None:
    silent = worker(lease=LeaseReport(limited=True, trouble="no ledger"))

    assert value(silent, "tierpool_hour_settled_usd", fleet="acme") is None
    assert 1 == value(silent, "tierpool_lease_trouble", fleet="acme")
    assert value(worker(), "tierpool_lease_valid", fleet="acme") is None


def test_registry_gets_no_totals() -> None:
    short = worker(lease=LEASE).short()

    assert short.lease is not None
    assert ((), 9) == (short.lease.totals, short.lease.renewals)
