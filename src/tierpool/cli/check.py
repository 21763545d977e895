"""`tierpool check`: everything that is wrong with the fleet file, at once."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tierpool.cli.common import DONE, USAGE, console, print_json, print_problems, table
from tierpool.config import check_fleet
from tierpool.fleet import LoadedFleet


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the sub-parser."""
    this = commands.add_parser(
        "check", parents=[common], help="check the fleet file and say what it declares"
    )
    this.add_argument("path", nargs="?", metavar="FILE", help="same as --file")
    this.add_argument("--strict", action="store_true", help="warnings count as errors")
    this.set_defaults(command=command)


def command(args: argparse.Namespace) -> int:
    """Print the problems of the file, or what it declares."""
    loaded, problems = check_fleet(Path(args.path or args.file))
    wrong = [p for p in problems if p.severity == "error" or args.strict]
    if args.json:
        print_json([p.as_dict() for p in problems])
    else:
        print_problems(problems)
        if loaded is not None:
            _describe(loaded)
        if wrong:
            count = "1 problem" if len(wrong) == 1 else f"{len(wrong)} problems"
            console.print(f"{count} to solve")
    return USAGE if wrong else DONE


def _describe(loaded: LoadedFleet) -> None:
    fleet = loaded.fleet
    tiers = [
        [name, tier.model, tier.pool.max_instances, *_prices(loaded, name)]
        for name, tier in fleet.tiers.items()
    ]
    console.print(
        table(["tier", "model", ">slots", ">$ in", ">$ out", "price from"], tiers)
    )
    console.print()
    roles = [
        [
            name,
            role.type,
            _tiers(role.tier.fixed, role.tier.min, role.tier.max),
            role.description,
        ]
        for name, role in fleet.agents.items()
    ]
    console.print(table(["role", "type", "tier", "what for"], roles))
    for name, flow in fleet.flows.items():
        console.print()
        steps = [
            [source, target, step.agent or "", step.verify or "", step.when or ""]
            for _, source, target, step in flow.edges()
        ]
        console.print(
            table(["from", "to", "agent", "verify", "when"], steps, f"flow {name}")
        )


def _prices(loaded: LoadedFleet, tier: str) -> list[str]:
    price = loaded.snapshot.tiers[tier].models[0].price
    source = f"{price.source} {price.as_of}".strip()
    return [f"{price.input_usd_per_mtok:f}", f"{price.output_usd_per_mtok:f}", source]


def _tiers(fixed: str | None, low: str | None, high: str | None) -> str:
    if fixed:
        return fixed
    return f"{low or ''}…{high or ''}" if low or high else "auto"
