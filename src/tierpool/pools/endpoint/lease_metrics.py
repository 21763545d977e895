"""Metrics of a process's lease of the fleet's limits, and of what its calls cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from tierpool import telemetry
from tierpool.contracts.ledger import NANO, USD, Total
from tierpool.contracts.reports import LeaseReport, WorkerReport
from tierpool.pools.endpoint.families import filled

__all__ = ["of_costs", "of_lease"]

_FLEET = ("fleet",)
_KIND = ("fleet", "flow", "role", "tier", "model")


def of_lease(report: WorkerReport) -> Iterator[Metric]:
    """Yield the metrics of the lease; a process that makes no calls has no values."""
    lease, fleet = report.lease, (report.fleet,)

    def one(
        name: str, value: Callable[[LeaseReport], Decimal | float | None]
    ) -> Metric:
        found = None if lease is None else value(lease)
        rows = [] if found is None else [(fleet, float(found))]
        return filled(GaugeMetricFamily, name, _FLEET, rows)

    def each(name: str, value: Callable[[LeaseReport], dict[str, int]]) -> Metric:
        amounts = {} if lease is None else value(lease)
        return filled(
            GaugeMetricFamily,
            name,
            ("fleet", "resource"),
            [((*fleet, what), _amount(what, n)) for what, n in amounts.items()],
        )

    yield one(telemetry.METRIC_LEASE_VALID, lambda it: it.valid)
    yield one(telemetry.METRIC_LEASE_TROUBLE, lambda it: bool(it.trouble))
    yield each(telemetry.METRIC_LEASE_FREE, lambda it: it.free)
    yield each(telemetry.METRIC_LEASE_RESERVED, lambda it: it.reserved)
    yield one(telemetry.METRIC_HOUR_SETTLED, lambda it: _heard(it, it.hour_usd))
    yield one(telemetry.METRIC_HOUR_HELD, lambda it: _heard(it, it.held_usd))
    yield one(telemetry.METRIC_HOUR_CAP, lambda it: it.cap_usd)
    yield one(telemetry.METRIC_HOUR_ALERTING, lambda it: _heard(it, it.alerting))
    yield filled(
        CounterMetricFamily,
        telemetry.METRIC_LEASE_RENEWALS,
        _FLEET,
        [] if lease is None else [(fleet, lease.renewals)],
    )
    refused = {} if lease is None else lease.refused
    yield filled(
        CounterMetricFamily,
        telemetry.METRIC_LEASE_REFUSED,
        ("fleet", "resource"),
        [((*fleet, what), times) for what, times in refused.items()],
    )


def of_costs(report: WorkerReport) -> Iterator[Metric]:
    """Yield what the calls of this process came to, by kind."""
    totals = report.lease.totals if report.lease else ()
    kinds = [((report.fleet, t.flow, t.role, t.tier, t.model), t) for t in totals]

    def one(name: str, value: Callable[[Total], Decimal | int]) -> Metric:
        rows = [(kind, float(value(total))) for kind, total in kinds]
        return filled(CounterMetricFamily, name, _KIND, rows)

    yield one(telemetry.METRIC_COST_RESERVED, lambda t: t.reserved_usd)
    yield one(telemetry.METRIC_COST_SETTLED, lambda t: t.settled_usd)
    yield one(telemetry.METRIC_COST_TOP, lambda t: t.top_usd)
    yield one(telemetry.METRIC_COST_DENIED, lambda t: t.denied)
    yield filled(
        CounterMetricFamily,
        telemetry.METRIC_COST_CALLS,
        (*_KIND, "outcome"),
        [
            ((*kind, outcome), count)
            for kind, total in kinds
            for outcome, count in _outcomes(total).items()
        ],
    )
    yield filled(
        CounterMetricFamily,
        telemetry.METRIC_COST_TOKENS,
        (*_KIND, "kind"),
        [
            ((*kind, way), tokens)
            for kind, total in kinds
            for way, tokens in (
                ("input", total.usage.input_tokens),
                ("output", total.usage.output_tokens),
            )
        ],
    )


def _outcomes(total: Total) -> dict[str, int]:
    return {
        "billed": total.calls - total.unknown - total.unbilled,
        "unknown": total.unknown,
        "unbilled": total.unbilled,
    }


def _heard(lease: LeaseReport, value: Decimal | float) -> Decimal | float | None:
    """Return a value of the ledger's; nothing before its first answer."""
    return value if lease.renewals else None


def _amount(resource: str, amount: int) -> float:
    return amount / NANO if resource == USD else float(amount)
