"""`tierpool costs`: what the fleet cost, and where it went."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict
from datetime import timedelta
from decimal import Decimal
from typing import Any

from rich.console import Group

from tierpool.budget.resources import called
from tierpool.cli.common import (
    DONE,
    connected,
    console,
    load,
    many,
    plain,
    print_json,
    table,
)
from tierpool.cli.numbers import read_time
from tierpool.pools.costs import BY, CostRow, CostsReport
from tierpool.pools.spending import costs_of_fleet

_MOST = timedelta(days=7)
_SHOWN = 50
_COLUMNS = (
    ">calls", ">tokens in", ">out", ">reserved", ">settled", ">unknown", ">unbilled",
    ">denied",
)  # fmt: skip
_LEGEND = (
    "USD. unknown: charged the reservation, because nobody knows the usage. unbilled: "
    "turned away by the provider. denied: sent back by a limit"
)


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the sub-parser."""
    this = commands.add_parser(
        "costs", parents=[common],
        help="show what the fleet cost, by flow, role, tier, model, item or hour",
        description="Reads the hourly totals of the ledger; items from what they leave "
        "behind when they end, and from those that run. An item's costs are all that "
        "it ever cost, also before that time.",
    )  # fmt: skip
    this.add_argument(
        "--since", type=_since, default=timedelta(hours=24), metavar="TIME",
        help="30m, 24h (default) or 7d (the most); counted in full hours, UTC",
    )  # fmt: skip
    this.add_argument(
        "--by", choices=BY, default="role", help="what a row is (default: role)"
    )
    this.set_defaults(command=command)


async def command(args: argparse.Namespace) -> int:
    """Print what is known."""
    fleet = load(args)
    client = await connected(fleet)
    report = await costs_of_fleet(client, fleet, args.since, args.by)
    if args.json:
        denials = [denial.whole() for denial in report.denials]
        print_json(asdict(report) | {"denials": denials})
    else:
        console.print(_render(report))
    return DONE


def _since(text: str) -> timedelta:
    since = read_time(text)
    if since is None:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no time; write a number of minutes, hours or days, such as "
            "30m, 24h or 7d"
        )
    if not timedelta() < since <= _MOST:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not within 7 days: the ledger keeps 168 hours"
        )
    return since


def _render(report: CostsReport) -> Group:
    rows = [[row.key or "(none)", *_numbers(row)] for row in report.rows[:_SHOWN]]
    rows.append(["total", *_numbers(report.total)])
    since = f"since {report.begin:%Y-%m-%d %H:%M} UTC"
    if report.by == "item":
        since = f"ended {since}, or running"
    parts: list[Any] = [
        table((report.by, *_COLUMNS), rows, f"fleet {report.fleet}, {since}"),
        _LEGEND,
        "",
    ]
    if len(report.rows) > _SHOWN:
        more = len(report.rows) - _SHOWN
        parts.append(f"{more} rows more: see --json")
    parts += [plain(line) for line in _summary(report)]
    parts += [f"[yellow]{plain(note)}[/]" for note in report.notes]
    return Group(*parts)


def _summary(report: CostsReport) -> Iterator[str]:
    if report.tiers:
        shares = (
            f"{one.tier} {one.calls:.0%} of calls, {one.usd:.0%} of dollars"
            for one in report.tiers
        )
        yield f"tier mix: {'; '.join(shares)}"
        yield (
            f"at the top tier the same tokens would cost ${_usd(report.total.top_usd)}: "
            f"an upper bound of what routing saved is ${_usd(report.saved_at_most_usd)}"
        )
    items = f"items: {report.closed_items} ended, {report.running_items} running"
    unasked = report.unasked_items
    yield items + (f"; {unasked} could not be asked for their costs" if unasked else "")
    for denial in report.denials:
        who = " · ".join(filter(None, [denial.role, denial.tier]))
        told = f"{who}, {many(denial.times, 'time')}; last: {denial.why}"
        yield f"denied by budgets: {told}"
    for resource, times in report.refused.items():
        what = "a valid lease" if resource == "lease" else called(resource)
        yield (
            f"sent back for want of {what}: {many(times, 'time')} since the workers' "
            "start"
        )


def _numbers(row: CostRow) -> list[object]:
    return [
        row.calls,
        f"{row.input_tokens:,}",
        f"{row.output_tokens:,}",
        _usd(row.reserved_usd),
        _usd(row.settled_usd),
        row.unknown,
        row.unbilled,
        row.denied,
    ]


def _usd(amount: Decimal) -> str:
    """Write an amount with six digits; smaller ones are in --json."""
    return f"{amount:.6f}"
