"""The report of a worker process as Prometheus reads it, in text format 0.0.4."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias, get_args

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from tierpool import telemetry
from tierpool.contracts.reports import Bound, PoolReport, WorkerReport
from tierpool.pools.endpoint.families import Rows, filled
from tierpool.pools.endpoint.lease_metrics import of_costs, of_lease

__all__ = ["CONTENT_TYPE", "exposition", "merged"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""The one format that the Temporal SDK's endpoint writes as well."""

_POOL = ("fleet", "pool")
_BOUNDS: tuple[str, ...] = get_args(Bound)
_STATES: tuple[str, ...] = get_args(WorkerReport.model_fields["state"].annotation)


def exposition(report: WorkerReport) -> str:
    """Write a report as metrics, with CPU and memory of this process.

    Texts of the report are no labels, and neither is anything of an item: that
    would make a time series of each. On systems without /proc the metrics of
    the process are missing.
    """
    registry = CollectorRegistry()
    registry.register(_Reported(report))
    ProcessCollector(registry=registry)
    return generate_latest(registry).decode()


def merged(ours: str, theirs: str) -> str:
    """Append the metrics of another endpoint to ours.

    A metric that came before is left out, and so are comments: a metric may
    stand there once only, and an `# EOF` would end the reading.
    """
    seen = {name for line in ours.split("\n") if (name := _announced(line))}
    lines, current, wanted = [], "", True
    # not splitlines(): it would also cut at characters that labels may have
    for line in theirs.split("\n"):
        name = _announced(line)
        if name and name != current:
            current, wanted = name, name not in seen
            seen.add(name)
        if wanted and line and (name or not line.startswith("#")):
            lines.append(f"{line}\n")
    return ours + "".join(lines)


def _announced(line: str) -> str:
    """Return the metric that a HELP or TYPE line is about; else an empty text."""
    if not line.startswith(("# HELP ", "# TYPE ")):
        return ""
    return line.split(" ", 3)[2]


class _Reported(Collector):
    """Gives a registry the metrics of one report."""

    def __init__(self, report: WorkerReport) -> None:
        self._report = report

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of the process, of its lease, then those of its pools."""
        yield from _of_worker(self._report)
        yield from of_lease(self._report)
        yield from of_costs(self._report)
        pools = [((self._report.fleet, pool.pool), pool) for pool in self._report.pools]
        yield from _of_instances(pools)
        yield from _of_calls(pools)
        yield from _of_queues(pools)


_Pools: TypeAlias = list[tuple[tuple[str, str], PoolReport]]


def _of_worker(report: WorkerReport) -> Iterator[Metric]:
    serves = ",".join(report.serves)
    about = (report.id, report.fleet, report.version, report.host, serves)
    yield filled(
        GaugeMetricFamily,
        telemetry.METRIC_WORKER_INFO,
        ("worker", "fleet", "version", "host", "serves"),
        [(about, 1)],
    )
    yield filled(
        GaugeMetricFamily,
        telemetry.METRIC_WORKER_STATE,
        ("state",),
        [((state,), state == report.state) for state in _STATES],
    )
    yield filled(
        CounterMetricFamily, telemetry.METRIC_WORKER_CALLS, (), [((), report.calls)]
    )
    yield filled(
        GaugeMetricFamily,
        telemetry.METRIC_WORKER_SILENT,
        (),
        [((), report.silent_seconds)],
    )


def _of_instances(pools: _Pools) -> Iterator[Metric]:
    yield filled(
        GaugeMetricFamily,
        telemetry.METRIC_POOL_INSTANCES,
        (*_POOL, "state"),
        [
            ((*key, state), number)
            for key, pool in pools
            for state, number in _instances(pool).items()
        ],
    )
    yield _gauge(telemetry.METRIC_POOL_LIMIT, ((k, p.limit) for k, p in pools))
    yield filled(
        CounterMetricFamily,
        telemetry.METRIC_POOL_BUILT,
        _POOL,
        ((key, pool.built) for key, pool in pools),
    )
    yield _gauge(
        telemetry.METRIC_POOL_TROUBLE, ((k, bool(p.trouble)) for k, p in pools)
    )


def _instances(pool: PoolReport) -> dict[str, int]:
    """Count every instance once; a report counts those that drain as busy too."""
    return {
        "ready": pool.ready,
        "busy": max(0, pool.busy - pool.draining),
        "cooldown": pool.cooldown,
        "draining": pool.draining,
        "starting": pool.starting,
    }


def _of_calls(pools: _Pools) -> Iterator[Metric]:
    # no value is not 0: without capacity a pool is neither idle nor busy
    shares = ((key, pool.window.utilisation) for key, pool in pools)
    yield _gauge(
        telemetry.METRIC_POOL_UTILISATION,
        ((key, share) for key, share in shares if share is not None),
    )
    yield filled(
        CounterMetricFamily,
        telemetry.METRIC_POOL_CALLS,
        (*_POOL, "outcome"),
        [
            row
            for key, pool in pools
            for row in (
                ((*key, "answered"), pool.calls - pool.failed),
                ((*key, "failed"), pool.failed),
            )
        ],
    )
    name = telemetry.METRIC_POOL_CALL_SECONDS
    durations = SummaryMetricFamily(name, telemetry.METRICS[name], labels=_POOL)
    for key, pool in pools:
        durations.add_metric(key, pool.calls, pool.call_seconds)
    yield durations


def _of_queues(pools: _Pools) -> Iterator[Metric]:
    yield filled(
        GaugeMetricFamily,
        telemetry.METRIC_POOL_BOUND,
        (*_POOL, "bound"),
        [((*key, b), b == pool.bound) for key, pool in pools for b in _BOUNDS],
    )
    yield _gauge(telemetry.METRIC_POOL_BACKLOG, ((k, p.backlog) for k, p in pools))
    yield _gauge(
        telemetry.METRIC_POOL_BACKLOG_AGE, ((k, p.oldest_seconds) for k, p in pools)
    )
    targets = ((key, pool.wait_target_secs) for key, pool in pools)
    yield _gauge(
        telemetry.METRIC_POOL_WAIT_TARGET, ((k, secs) for k, secs in targets if secs)
    )
    yield _gauge(
        telemetry.METRIC_POOL_ARRIVALS, ((k, p.arrivals_per_second) for k, p in pools)
    )


def _gauge(name: str, rows: Rows) -> GaugeMetricFamily:
    return filled(GaugeMetricFamily, name, _POOL, rows)
