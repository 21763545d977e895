"""How the time from a cancel to the aborted connection is measured.

All times are Unix times of this machine's clock: the driver's and the server's
say when a cancel was asked for, the provider's when a call started and ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import aiohttp
from _cancel_load import OWN_QUEUE, PARALLEL, OwnItem, OwnWorkflow
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.service import RPCError

from tierpool import start_flow

__all__ = ["CASES", "Bench", "Case", "Seen", "measure"]

Item: TypeAlias = WorkflowHandle[Any, Any]

_UNDER_WAY_WITHIN_S = 60
_GAP_S = 0.1
"""Between two cancels, so that they meet heartbeats at every phase."""
_ABORTED_WITHIN_S = 12
_WATCHED_S = 3
"""How long calls are still looked for after the last abort."""
_IDLE_WITHIN_S = 45

_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Case:
    """One way to stop an item."""

    name: str
    start: Callable[[Client, str], Awaitable[Item]]
    stop: Callable[[Item], Awaitable[float]]
    """Stops the item; returns when that was asked for."""
    calls: int = 1
    """Calls of an item that are under way at a time."""


@dataclass
class Bench:
    """Everything that runs while cases are measured."""

    client: Client
    provider: str
    """Base URL of the scripted provider."""
    http: aiohttp.ClientSession

    async def calls(self) -> list[dict[str, Any]]:
        """Ask the provider for its log."""
        async with self.http.get(f"{self.provider}/_calls") as answer:
            found: list[dict[str, Any]] = await answer.json()
            return found


@dataclass
class Seen:
    """What was seen of one case."""

    aborts_s: list[float]
    """From the cancel to the aborted connection; of a call that was not aborted
    the time for which that was waited for."""
    not_aborted: int = 0
    started_after: int = 0
    """Calls that the provider saw start after the cancel of their item."""

    def quantile(self, share: float) -> float:
        """Return the time within which this share of the calls was aborted."""
        ordered = sorted(self.aborts_s)
        return ordered[math.ceil(share * len(ordered)) - 1]


async def measure(bench: Bench, case: Case, items: int) -> Seen:
    """Start items, stop each while its calls are under way, and watch the provider."""
    names = [f"ITEM-{os.getpid()}-{next(_numbers):05}" for _ in range(items)]
    handles = [await case.start(bench.client, name) for name in names]
    try:
        await _until_under_way(bench, names, case.calls)
        stopped = await _stop_all(case, handles)
        mine = await _until_aborted(bench, stopped)
        waited = time.time()
        await asyncio.sleep(_WATCHED_S)
        late = [c for c in await bench.calls() if _is_late(c, stopped)]
    finally:
        await _clear(bench, handles)
    seen = Seen([], started_after=len(late))
    for call in mine:
        ended = call["ended"] if call["aborted"] else None
        seen.not_aborted += ended is None
        seen.aborts_s.append((ended or waited) - stopped[call["label"]])
    return seen


async def _until_under_way(bench: Bench, names: list[str], calls: int) -> None:
    """Wait until the provider answers all calls of all items."""
    async with asyncio.timeout(_UNDER_WAY_WITHIN_S):
        while True:
            log = await bench.calls()
            busy = [c for c in log if c["label"] in names and c["ended"] is None]
            if len(busy) >= len(names) * calls:
                return
            await asyncio.sleep(0.1)


async def _stop_all(case: Case, handles: list[Item]) -> Mapping[str, float]:
    """Stop the items one after the other; return when, by item."""

    async def stop(number: int, handle: Item) -> float:
        await asyncio.sleep(number * _GAP_S)
        return await case.stop(handle)

    stops = (stop(number, handle) for number, handle in enumerate(handles))
    when = await asyncio.gather(*stops)
    return {handle.id: at for handle, at in zip(handles, when, strict=True)}


async def _until_aborted(
    bench: Bench, stopped: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Wait until the calls that were under way have ended; return them."""
    end = time.time() + _ABORTED_WITHIN_S
    while True:
        log = await bench.calls()
        mine = [c for c in log if c["label"] in stopped and not _is_late(c, stopped)]
        if all(call["ended"] for call in mine) or time.time() > end:
            return mine
        await asyncio.sleep(0.1)


def _is_late(call: Mapping[str, Any], stopped: Mapping[str, float]) -> bool:
    at = stopped.get(call["label"])
    return at is not None and call["started"] > at


async def _clear(bench: Bench, handles: list[Item]) -> None:
    """End what is left of the items, and wait until the provider is idle."""
    ends = (handle.terminate("the case is over") for handle in handles)
    for failed in await asyncio.gather(*ends, return_exceptions=True):
        # most items have come to their own end
        if failed is not None and not isinstance(failed, RPCError):
            raise failed
    async with asyncio.timeout(_IDLE_WITHIN_S):
        while True:
            if all(call["ended"] for call in await bench.calls()):
                return
            await asyncio.sleep(0.1)


async def _start_chain(client: Client, name: str) -> Item:
    return await start_flow(client, "chain", name, id=name)


async def _start_timed(client: Client, name: str) -> Item:
    return await start_flow(client, "timed", name, id=name)


async def _start_own(client: Client, name: str) -> Item:
    return await client.start_workflow(
        OwnWorkflow.run, OwnItem(text=name), id=name, task_queue=OWN_QUEUE
    )


async def _cancel(item: Item) -> float:
    begun = time.time()
    await item.cancel()
    return begun


async def _terminate(item: Item) -> float:
    begun = time.time()
    await item.terminate("benchmark")
    return begun


async def _cancel_item(item: Item) -> float:
    begun = time.time()
    await item.execute_update("cancel_item", "benchmark")
    return begun


async def _pause(item: Item) -> float:
    begun = time.time()
    await item.execute_update("pause")
    return begun


async def _state_timeout(item: Item) -> float:
    """Wait for the end of the state's time; return when the server saw it."""
    with contextlib.suppress(WorkflowFailureError):
        await item.result()
    async for event in item.fetch_history_events():
        if event.event_type == EventType.EVENT_TYPE_TIMER_FIRED:
            return event.event_time.ToNanoseconds() / 1e9
    raise RuntimeError(f"item {item.id} ended before its state's time was over")


CASES = (
    Case("cancel", _start_chain, _cancel),
    Case("terminate", _start_chain, _terminate),
    Case("cancel_item", _start_chain, _cancel_item),
    Case("state_timeout", _start_timed, _state_timeout),
    Case("own_cancel", _start_own, _cancel, PARALLEL),
    Case("own_terminate", _start_own, _terminate, PARALLEL),
    Case("pause", _start_chain, _pause),
)
