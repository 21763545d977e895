"""`tierpool run`: starts work items and follows them to their end."""

from __future__ import annotations

import argparse
import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from rich.live import Live
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowQueryFailedError
from temporalio.service import RPCError

from tierpool.blueprint import read_budget
from tierpool.cli.common import (
    DONE,
    FAILED,
    connected,
    console,
    counted,
    errors,
    how_to_start,
    load,
    print_json,
    table,
)
from tierpool.cli.items import read_items
from tierpool.client import ItemHandle, flow_result, start_flow
from tierpool.contracts import FlowResult, ItemCosts, WorkItem
from tierpool.errors import TierpoolError, UnknownName
from tierpool.fleet import LoadedFleet
from tierpool.flow import CANCELLED
from tierpool.flow import FAILED as FAILED_STATE
from tierpool.pools.observe import observe
from tierpool.telemetry import ATTRIBUTE_STATE

__all__ = ["Ended", "add", "command", "follow", "result_table", "start_all"]

_STARTS_AT_ONCE = 16
_REFRESH_SECONDS = 0.5


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the sub-parser."""
    this = commands.add_parser(
        "run", parents=[common], help="start work items on a flow and follow them"
    )
    this.add_argument("flow", metavar="FLOW", help="name of a flow in the fleet file")
    this.add_argument(
        "--item", action="append", default=[], metavar="FILE|DIR|-",
        help="where items come from; may be repeated",
    )  # fmt: skip
    this.add_argument(
        "--text", action="append", default=[], metavar="S", help="an item's text"
    )
    this.add_argument("--id", metavar="ID", help="identity of the item")
    this.add_argument(
        "--id-conflict", choices=["fail", "use"], default="fail",
        help="if an ID is known already: fail, or follow that item",
    )  # fmt: skip
    this.add_argument(
        "--budget-usd", type=_budget, metavar="USD",
        help="what each item may cost, instead of max_cost_per_workflow_usd",
    )  # fmt: skip
    this.add_argument(
        "--priority", type=int, choices=range(1, 6), metavar="1..5",
        help="1 is served first, 5 last; else what each item says, or 3",
    )  # fmt: skip
    this.add_argument("--no-wait", action="store_true", help="start and return")
    this.add_argument("--explain", action="store_true", help="print each call's Route")
    this.set_defaults(command=command)


def _budget(text: str) -> Decimal:
    try:
        return read_budget(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None


@dataclass(frozen=True, slots=True)
class Ended:
    """An item that is in a terminal state."""

    result: FlowResult
    costs: ItemCosts | None
    seconds: float
    """From the start of the item to its end."""


async def command(args: argparse.Namespace) -> int:
    """Start the items, show their way, report how they ended."""
    fleet = load(args)
    if args.flow not in fleet.fleet.flows:
        raise UnknownName("flow", args.flow, fleet.fleet.flows)
    items = read_items(args.item, args.text, args.id)
    if args.priority is not None:
        items = [i.model_copy(update={"priority": args.priority}) for i in items]
    client = await connected(fleet)
    handles = await start_all(
        client, args.flow, items, args.id_conflict, args.budget_usd
    )
    if args.no_wait:
        _say_started(args, handles)
        return DONE
    await _warn_of_idle_queues(client, fleet, args)
    try:
        ended = await follow(client, fleet, args.flow, handles, show=not args.json)
    except asyncio.CancelledError:
        errors.print(
            f"{len(handles)} items go on without this command; follow them again with "
            "the same command and --id-conflict use"
        )
        raise
    _report(args, ended)
    bad = [e for e in ended if e.result.state in (FAILED_STATE, CANCELLED)]
    return FAILED if bad else DONE


async def _warn_of_idle_queues(
    client: Client, fleet: LoadedFleet, args: argparse.Namespace
) -> None:
    """Say which queues nobody polls: an item would wait there without a word."""
    status = await observe(client, fleet)
    for pool in status.pools:
        if not pool.workers and not pool.silent:
            errors.print(f"[yellow]{how_to_start(args, pool)}[/]", soft_wrap=True)


async def start_all(
    client: Client,
    flow: str,
    items: Sequence[WorkItem],
    id_conflict: Any = "fail",
    budget_usd: Decimal | None = None,
) -> list[ItemHandle]:
    """Start every item; one that cannot start does not stop the others.

    Raises:
        TierpoolError: that names what could not be started, after all others were.
    """
    gate = asyncio.Semaphore(_STARTS_AT_ONCE)

    async def start(item: WorkItem) -> ItemHandle | TierpoolError:
        async with gate:
            try:
                return await start_flow(
                    client, flow, item, id_conflict=id_conflict, budget_usd=budget_usd
                )
            except TierpoolError as error:
                return error

    made = await asyncio.gather(*(start(item) for item in items))
    errors = [m for m in made if isinstance(m, TierpoolError)]
    if len(errors) == 1 and len(items) == 1:
        raise errors[0]
    if errors:
        lines = "\n".join(f"  {error}" for error in errors)
        raise TierpoolError(
            f"{len(items) - len(errors)} of {len(items)} items were started; not started:\n{lines}"
        )
    return [m for m in made if not isinstance(m, TierpoolError)]


async def follow(
    client: Client,
    fleet: LoadedFleet,
    flow: str,
    handles: Sequence[ItemHandle],
    *,
    show: bool,
) -> list[Ended]:
    """Wait for all items; on a terminal show how many are in which state."""
    waiting = asyncio.gather(*(_end(handle) for handle in handles))
    if not show or not console.is_terminal:
        return list(await waiting)
    states = fleet.fleet.flows[flow].state_names()
    with Live(console=console, transient=True, auto_refresh=False) as live:
        while not waiting.done():
            counts = await _states(client, flow, handles)
            live.update(_progress(states, counts, len(handles)), refresh=True)
            await asyncio.wait([waiting], timeout=_REFRESH_SECONDS)
    return list(waiting.result())


async def _states(
    client: Client, flow: str, handles: Sequence[ItemHandle]
) -> Counter[str]:
    """Count our items by state, from the server's search attributes."""
    ours, counts = {handle.id for handle in handles}, Counter[str]()
    async for run in client.list_workflows(f"TierpoolFlow = '{flow}'", limit=5000):
        if run.id in ours:
            state = run.search_attributes.get(ATTRIBUTE_STATE, ["?"])[0]
            counts[str(state)] += 1
    return counts


def _progress(states: Sequence[str], counts: Counter[str], total: int) -> Any:
    known = [*states, *(s for s in counts if s not in states)]
    width = 30
    rows = [
        [state, counts[state], "█" * round(width * counts[state] / total)]
        for state in known
        if counts[state] or state in states
    ]
    return table(["state", ">items", ""], rows)


async def _end(handle: ItemHandle) -> Ended:
    result = await flow_result(handle)
    known = await handle.describe()
    closed = known.close_time or known.start_time
    costs = None
    if known.status is not WorkflowExecutionStatus.TERMINATED:
        try:
            costs = await handle.query("costs", result_type=ItemCosts)
        except (RPCError, WorkflowQueryFailedError):
            costs = None  # no flows worker answers any more: the result has the sums
    return Ended(result, costs, (closed - known.start_time).total_seconds())


def _say_started(args: argparse.Namespace, handles: Sequence[ItemHandle]) -> None:
    if args.json:
        print_json({"started": [handle.id for handle in handles]})
    else:
        for handle in handles:
            console.print(f"started {handle.id}")


def result_table(ended: Sequence[Ended]) -> Any:
    """Make the table of how each item ended."""
    rows = []
    for one in ended:
        r = one.result
        unknown = (
            f" ({r.unknown_cost_attempts} at the reservation)"
            if r.unknown_cost_attempts
            else ""
        )
        tokens = f"{r.usage.input_tokens} / {r.usage.output_tokens}"
        rows.append(
            [r.item_id, r.state, r.attempts, tokens, f"{r.cost_usd:.6f}{unknown}",
             f"{one.seconds:.1f}", r.reason]
        )  # fmt: skip
    return table(
        [
            "item",
            "state",
            ">attempts",
            ">tokens in / out",
            ">USD",
            ">seconds",
            "reason",
        ],
        rows,
    )


def _report(args: argparse.Namespace, ended: Sequence[Ended]) -> None:
    if args.json:
        print_json(
            [
                {"result": one.result, "costs": one.costs, "seconds": one.seconds}
                for one in ended
            ]
        )
        return
    console.print(result_table(ended))
    if args.explain:
        console.print()
        console.print(_routes(ended))
    console.print(counted(Counter(one.result.state for one in ended)))
    for one in ended[:1] if len(ended) == 1 else []:
        console.print_json(data=one.result.reply)


def _routes(ended: Sequence[Ended]) -> Any:
    rows = [
        [
            one.result.item_id,
            a.state,
            a.role,
            a.tier,
            a.model,
            a.reason,
            a.outcome.value,
            a.note,
        ]
        for one in ended
        for a in (one.costs.attempts if one.costs else ())
    ]
    return table(
        ["item", "state", "role", "tier", "model", "reason", "outcome", "note"], rows
    )
