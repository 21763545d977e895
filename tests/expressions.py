"""What the dashboards and alert rules ask Prometheus for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import promql_parser as promql
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
DASHBOARDS = sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json"))
RULES = ROOT / "deploy" / "prometheus" / "rules.yml"

ADDED = frozenset({"instance", "job"})
"""Labels that Prometheus adds to whatever it scrapes."""


class Asked(NamedTuple):
    """A metric that somebody uses, and the labels that it needs."""

    where: str
    metric: str
    labels: frozenset[str]


def read_yaml(path: Path) -> Any:
    return YAML(typ="safe", pure=True).load(path)


def expressions() -> Iterator[tuple[str, str]]:
    """Yield every expression with the place that it stands in."""
    for path in DASHBOARDS:
        board = json.loads(path.read_text())
        for panel in board["panels"]:
            for target in panel["targets"]:
                expression = target["expr"].replace("$__rate_interval", "5m")
                yield f"{path.stem}: {panel['title']}", expression
    for group in read_yaml(RULES)["groups"]:
        for rule in group["rules"]:
            yield f"{group['name']}: {rule['alert']}", rule["expr"]


def asked(where: str, expression: str) -> list[Asked]:
    """Return the metrics of an expression; raises ValueError if it is none."""
    return list(_walk(where, promql.parse(expression), frozenset()))


def _walk(where: str, node: Any, labels: frozenset[str]) -> Iterator[Asked]:
    """Collect what the parts of an expression need below these groupings."""
    if isinstance(node, promql.VectorSelector):
        matched = {matcher.name for matcher in node.matchers.matchers}
        yield Asked(where, node.name, (labels | matched) - ADDED)
        return
    if isinstance(node, promql.MatrixSelector):
        yield from _walk(where, node.vector_selector, labels)
        return
    if isinstance(node, promql.AggregateExpr):
        # an aggregation hides what is outside of it
        own = frozenset(node.modifier.labels) if node.modifier else frozenset()
        yield from _walk(where, node.expr, own)
        return
    if isinstance(node, promql.BinaryExpr):
        parts = [node.lhs, node.rhs]
    elif isinstance(node, promql.Call):
        parts = list(node.args)
        if node.func.name == "histogram_quantile":
            labels = labels | {"le"}
    elif isinstance(node, (promql.ParenExpr, promql.UnaryExpr)):
        parts = [node.expr]
    elif isinstance(node, (promql.NumberLiteral, promql.StringLiteral)):
        parts = []
    else:
        raise TypeError(f"{where}: {type(node).__name__} is not known here")
    for part in parts:
        yield from _walk(where, part, labels)
