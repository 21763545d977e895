"""`load_fleet` and `check_fleet`: from a path to a checked fleet.

The order is: read, validate each part, check across parts, find prices, build
the snapshot. Every part of it reports as much as it can.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from tierpool.blueprint import Price
from tierpool.config.caps import check_caps
from tierpool.config.checks import check_parts
from tierpool.config.parts import read_parts
from tierpool.config.prices import PriceFinder, find_prices
from tierpool.config.report import Report
from tierpool.config.roles import read_texts
from tierpool.config.snapshot import build_snapshot
from tierpool.config.source import read_yaml
from tierpool.errors import ConfigError, PayloadTooLarge, Problem
from tierpool.fleet import FleetSnapshot, LoadedFleet

__all__ = ["PriceFinder", "check_fleet", "load_fleet"]


def load_fleet(
    path: str | Path,
    *,
    find_price: PriceFinder | None = None,
    environ: Mapping[str, str] | None = None,
) -> LoadedFleet:
    """Load an agents.yaml that has no errors.

    Args:
        path: The file; prompts and schemas are relative to its folder.
        find_price: Finds the price of a model without `price:`; default: the
            bundled prices.
        environ: Variables in which credentials are looked for; default: the
            process's own.

    Raises:
        ConfigError: with every problem of the file.
    """
    loaded, problems = check_fleet(path, find_price=find_price, environ=environ)
    if loaded is None:
        raise ConfigError(problems)
    return loaded


def check_fleet(
    path: str | Path,
    *,
    find_price: PriceFinder | None = None,
    environ: Mapping[str, str] | None = None,
) -> tuple[LoadedFleet | None, tuple[Problem, ...]]:
    """Check an agents.yaml and return it with all errors and warnings.

    The fleet is None if there is an error. Arguments are those of
    `load_fleet`. Problems are in the order of the file.
    """
    report = Report(str(path))
    snapshot, fleet = None, None
    report.root = read_yaml(Path(path), report)
    if report.root is not None:
        parts = read_parts(report)
        texts = read_texts(parts, Path(path).parent, report)
        check_parts(parts, texts, os.environ if environ is None else environ, report)
        prices = find_prices(parts, find_price or _bundled_price, report)
        fleet = parts.fleet
        check_caps(parts, texts, prices, report)
        if fleet is not None and not report.failed:
            snapshot = build_snapshot(fleet, prices, texts)
            _check_weight(snapshot, report)
    problems = report.problems()
    if snapshot is None or fleet is None or report.failed:
        return None, problems
    return LoadedFleet(fleet, snapshot, Path(path), problems), problems


def _bundled_price(model: str) -> Price:
    from tierpool.budget.pricing import find_price  # late: it loads the price list

    return find_price(model)


def _check_weight(snapshot: FleetSnapshot, report: Report) -> None:
    """Pack what items of each flow must know, as their start will."""
    for name in snapshot.flows:
        try:
            snapshot.for_flow(name).pack()
        except PayloadTooLarge as error:
            report.error(("flows", name), str(error), at="key")
