"""Fills metric families for Prometheus."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from tierpool import telemetry

__all__ = ["Rows", "filled"]

Rows: TypeAlias = Iterable[tuple[Sequence[str], float]]
"""Values of a metric's labels, and its value with them."""
_Simple = TypeVar("_Simple", GaugeMetricFamily, CounterMetricFamily)


def filled(
    kind: type[_Simple], name: str, labels: Sequence[str], rows: Rows
) -> _Simple:
    """Make a family with its help text and these values."""
    family = kind(name, telemetry.METRICS[name], labels=labels)
    for values, value in rows:
        family.add_metric(values, value)
    return family
