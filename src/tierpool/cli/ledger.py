"""`tierpool ledger recover`: starts the ledger and the claims after they were ended."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from tierpool.cli.common import (
    DONE,
    FAILED,
    connected,
    console,
    load,
    plain,
    print_json,
)
from tierpool.contracts.claims import ClaimsState
from tierpool.contracts.ledger import LedgerState
from tierpool.pools.recover import Plan, What, carry_out, plan_recovery

_NAMES: dict[What, str] = {"ledger": "ledger", "claims": "claims workflow"}


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the sub-parser."""
    ledger = commands.add_parser(
        "ledger", help="recover the ledger and the claims after they were ended"
    )
    actions = ledger.add_subparsers(dest="action", required=True, metavar="ACTION")
    this = actions.add_parser(
        "recover", parents=[common],
        help="start them again with what they knew",
        description="Starts the ledger and the claims of the fleet again after they "
        "were terminated, cancelled or failed, with all that they knew; for that a "
        "`tierpool worker --control` has to run. Where they cannot be asked, what is "
        "started grants nothing until all that it cannot know of is over.",
    )  # fmt: skip
    this.add_argument("--claims", action="store_true", help="recover the claims only")
    this.add_argument(
        "--closed", action="store_true",
        help="take nothing over, and grant nothing until that is safe; also where none "
        "ever ran, as after the loss of the server's database",
    )  # fmt: skip
    this.add_argument("--yes", "-y", action="store_true", help="do it without asking")
    this.set_defaults(command=command)


async def command(args: argparse.Namespace) -> int:
    """Say what would be done, and do it if that is wanted."""
    fleet = load(args)
    client = await connected(fleet)
    wanted: list[What] = ["claims"] if args.claims else ["ledger", "claims"]
    plans = [await plan_recovery(client, fleet, w, closed=args.closed) for w in wanted]
    todo = any(plan.state is not None for plan in plans)
    if not args.json:
        for plan in plans:
            console.print(plain(_planned(plan, fleet.name)), soft_wrap=True)
    if todo and not (args.yes or _agreed(args)):
        if not args.json:
            console.print("nothing was started; pass --yes to start it")
        else:
            _print(plans)
        return FAILED
    done = [await carry_out(client, fleet, plan) for plan in plans]
    if args.json:
        _print(done)
    else:
        for plan in done:
            if plan.state is not None:
                console.print(plain(_done(plan)), soft_wrap=True)
    return DONE


def _agreed(args: argparse.Namespace) -> bool:
    """Ask whoever sits there; nobody does if the output is read by a program."""
    if args.json or not (sys.stdin.isatty() and console.is_terminal):
        return False
    return console.input("start it? [y/N] ").strip().lower() in ("y", "yes")


def _planned(plan: Plan, fleet: str) -> str:
    """Say what was found, and what is to be done."""
    name = _NAMES[plan.what]
    at = f" at {plan.at:%Y-%m-%d %H:%M:%S} UTC" if plan.at else ""
    if plan.life == "running":
        return f"the {name} {plan.id} runs; there is nothing to recover"
    if plan.state is None:
        return (
            f"there is no {name} {plan.id}, or the server's retention has passed since "
            "its end: workers start one when they need it"
        )
    found = f"the {name} {plan.id} was {plan.how}{at}"
    if plan.life == "none":
        found = f"there is no {name} {plan.id}"
    if plan.seeded:
        return f"{found}: it goes on with all that it knew ({_known(plan)})"
    then = "it starts without what was known before"
    if plan.closed_until is not None:
        then = f"it starts closed until {plan.closed_until:%Y-%m-%d %H:%M:%S} UTC"
    if plan.holds:
        then += f", with the WIP limits that {plan.holds} items hold"
    told = f"{found} and cannot be asked: {plan.unknown}"
    if plan.unknown == "as asked for":
        return f"{found}: {then}, as asked for"
    return (
        f"{told}. {then[0].upper()}{then[1:]}. If you start `tierpool worker "
        f"--control` of the fleet {fleet} first, it may answer and nothing is closed"
    )


def _known(plan: Plan) -> str:
    """Count what is taken over."""
    if isinstance(plan.state, LedgerState):
        return f"{len(plan.state.lessees)} leases, {len(plan.state.hours)} hours"
    if isinstance(plan.state, ClaimsState):
        return f"{len(plan.state.held)} held, {len(plan.state.waiting)} waiting"
    return "nothing"


def _done(plan: Plan) -> str:
    name = _NAMES[plan.what]
    if plan.outrun:
        return f"the {name} {plan.id} runs by now: somebody else has started it"
    return f"started the {name} {plan.id}; workers take it up within seconds"


def _print(plans: Sequence[Plan]) -> None:
    print_json(
        [
            {
                "id": plan.id,
                "found": plan.life,
                "how": plan.how,
                "at": plan.at,
                "started": plan.started,
                "seeded": plan.seeded,
                "unknown": plan.unknown,
                "closed_until": plan.closed_until,
                "holds": plan.holds,
                "outrun": plan.outrun,
            }
            for plan in plans
        ]
    )
