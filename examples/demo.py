"""The demo: real items through a three-role flow, on this machine alone.

Starts the embedded Temporal server, the fleet's workers and (by default) a
small real model, starts every item of `support/items`, waits for them, prints
what happened, and leaves nothing running. `PROVIDER=openai` or
`PROVIDER=anthropic` uses that provider's models with the key of your
environment.
"""

import argparse
import asyncio
import os
import re
import sys
import time
from collections import Counter, defaultdict
from decimal import Decimal
from pathlib import Path

from rich.console import Console

from tierpool import TierpoolError, WorkItem, load_fleet
from tierpool.cli.common import table
from tierpool.cli.dev import DevFleet, dev_servers
from tierpool.cli.items import read_items
from tierpool.cli.run import Ended, follow, result_table, start_all
from tierpool.fleet import LoadedFleet
from tierpool.logs import configure_logs
from tierpool.worker import Served, exit_now, run_workers, stop_on_signals

HERE = Path(__file__).parent / "support"
FLOW = "ticket"
console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)


MODELS = {
    "openai": ["openai:gpt-5-nano", "openai:gpt-5-mini", "openai:gpt-5"],
    "anthropic": [
        "anthropic:claude-haiku-4-5",
        "anthropic:claude-sonnet-4-6",
        "anthropic:claude-opus-4-6",
    ],
}


def fleet_file(provider: str) -> Path:
    """Return the example's fleet file, or a copy of it with a provider's models.

    The copy leaves out the example's prices (the provider's own hold), the
    temperature (some models refuse it) and the small model's output limit.
    """
    local = HERE / "agents.yaml"
    if provider == "local":
        return local
    if provider not in MODELS:
        known = ", ".join(["local", *MODELS])
        raise TierpoolError(f"PROVIDER={provider} is not known; known: {known}")
    text = local.read_text()
    for model in MODELS[provider]:
        text = text.replace("local:smollm2\n", f"{model}\n", 1)
    text = re.sub(r"    price:\n(      .*\n)+", "", text)
    text = text.replace("    temperature: 0\n", "")
    text = text.replace("max_output_tokens: 32", "max_output_tokens: 2000")
    copy = HERE / f"agents.{provider}.yaml"
    copy.write_text(text)
    return copy


def fresh(items: list[WorkItem]) -> list[WorkItem]:
    """Give the items IDs of this run: finished ones stay in the state folder."""
    stamp = time.strftime("%H%M%S")
    return [item.model_copy(update={"id": f"{item.id}-{stamp}"}) for item in items]


async def move(fleet: LoadedFleet, dev: DevFleet, ready: asyncio.Event) -> list[Ended]:
    await ready.wait()  # nothing is started that nobody would work on
    items = fresh(read_items([str(HERE / "items")], [], None))
    console.print(f"moving {len(items)} items through the flow {FLOW!r} …")
    handles = await start_all(dev.client, FLOW, items)
    return await follow(dev.client, fleet, FLOW, handles, show=True)


async def demo(fleet: LoadedFleet) -> list[Ended]:
    started, stop = time.monotonic(), asyncio.Event()
    state = fleet.path.parent / ".tierpool"
    with stop_on_signals(stop, fleet.fleet.tiers["nano"].timeout):
        async with dev_servers(fleet, state) as dev:
            console.print(f"Temporal  {dev.server.address}")
            console.print(f"Web UI    {dev.server.ui_address}")
            ready = asyncio.Event()
            workers = asyncio.create_task(
                run_workers(
                    dev.client,
                    Served.everything(fleet),
                    stop,
                    on_ready=lambda _: ready.set(),
                )
            )
            moving = asyncio.create_task(move(fleet, dev, ready))
            await asyncio.wait([workers, moving], return_when="FIRST_COMPLETED")
            stop.set()  # after the last item, or after Ctrl-C
            moving.cancel()  # does nothing to what is done
            await asyncio.wait([workers, moving])
            workers.result()
            if moving.cancelled():
                raise KeyboardInterrupt
            ended = moving.result()
            report(fleet, ended, time.monotonic() - started)
    return ended


def report(fleet: LoadedFleet, ended: list[Ended], seconds: float) -> None:
    attempts = [a for one in ended if one.costs for a in one.costs.attempts]
    console.print()
    console.print(result_table(ended))
    mix: dict[str, list[Decimal | int]] = defaultdict(lambda: [0, 0, 0, Decimal(0)])
    for attempt in attempts:
        row = mix[attempt.tier]
        row[0] += 1
        row[1] += attempt.usage.input_tokens if attempt.usage else 0
        row[2] += attempt.usage.output_tokens if attempt.usage else 0
        row[3] += attempt.cost_usd or Decimal(0)
    rows = [
        [
            tier,
            calls,
            f"{calls / len(attempts):.0%}",
            tokens_in,
            tokens_out,
            f"{usd:.6f}",
        ]
        for tier in fleet.fleet.tiers
        if tier in mix
        for calls, tokens_in, tokens_out, usd in [mix[tier]]
    ]
    console.print()
    columns = ["tier", ">attempts", ">share", ">tokens in", ">tokens out", ">USD"]
    console.print(table(columns, rows, "tier mix, at the prices of the fleet file"))
    total = sum((one.result.cost_usd for one in ended), Decimal(0))
    states = Counter(one.result.state for one in ended)
    shown = ", ".join(f"{count} {state}" for state, count in states.items())
    console.print(
        f"\n{len(ended)} items ({shown}), {len(attempts)} attempts, ${total:.6f}, {seconds:.0f} s"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the tierpool demo.")
    parser.add_argument("--provider", default=os.environ.get("PROVIDER", "local"))
    args = parser.parse_args()
    configure_logs(level=40)
    try:
        fleet = load_fleet(fleet_file(args.provider))
        ended = asyncio.run(demo(fleet))
    except TierpoolError as error:
        console.print(f"error: {error}", style="red")
        return 1
    except KeyboardInterrupt:
        console.print("stopped; nothing is left running")
        return 130
    shown = os.path.relpath(fleet.path)
    program = os.path.relpath(Path(sys.executable).with_name("tierpool"))
    console.print("look at the items in the Web UI again with:")
    console.print(f"  {program} dev --file {shown}")
    return 0 if ended else 1


if __name__ == "__main__":
    exit_now(main())
