"""What one workflow run keeps for its agent calls.

Attached to the workflow instance, because modules that pass through the
sandbox are shared by all workflows of a process.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from temporalio import workflow
from temporalio.api.common.v1 import Payload

from tierpool.contracts import (
    CARRY_HEADER,
    FLEET_HEADER,
    Attempt,
    ConversationChunk,
    ConversationRequest,
    Denial,
    EarlierAttempts,
    ItemCosts,
    PartChunk,
    PartRef,
    PartRequest,
    RunCarry,
)
from tierpool.errors import TierpoolError
from tierpool.fleet import FleetSnapshot
from tierpool.workflows.budget import RunBudget
from tierpool.workflows.claiming import RunClaims
from tierpool.workflows.failover import Unavailable
from tierpool.workflows.human import Decisions
from tierpool.workflows.render import details_table, escape_markdown, money
from tierpool.workflows.stubs import fleet_activity, spent_activity
from tierpool.workflows.threads import Thread, chunk_of, take_up

__all__ = ["RunState", "attach", "run_of"]

_ATTRIBUTE = "_tierpool_run"
_CHUNK = 350_000
"""Characters of one answer: at most 1.4 MB, below the server's limit of 2 MiB."""

_INLINE_BYTES = 1_000_000
"""Texts in the commands of one workflow task; gRPC refuses 4 MiB and the server
then terminates the workflow."""

_TOLD = 500
"""Attempts that are handed to the next run one by one."""


@dataclass
class RunState:
    """Fleet, texts, conversations, attempts and money of one run."""

    packed: str = ""
    """Packed FleetSnapshot; empty until the first call."""
    hands_fleet_on: bool = False
    """Whether the next run gets the snapshot by header, not in its input."""
    item_id: str = ""
    own_budget: Decimal | None = None
    """What the item was started with, instead of the fleet's cap."""
    state: str = ""
    """State of the flow, for the record of attempts; empty outside flows."""
    attempts: list[Attempt] = field(default_factory=list)
    earlier: EarlierAttempts = field(default_factory=EarlierAttempts)
    denials: list[Denial] = field(default_factory=list)
    parts: dict[str, str] = field(default_factory=dict)
    """Texts that activities may ask for, by hash."""
    uses: Counter[str] = field(default_factory=Counter)
    """Calls that still need a text; parallel calls may share one."""
    threads: dict[str, Thread] = field(default_factory=dict)
    """Conversations by name."""
    unavailable: Unavailable = field(default_factory=Unavailable)
    """Models that calls of this run pass by for a while."""
    decisions: Decisions = field(default_factory=Decisions)
    paused: bool = False
    """While true no attempt starts."""
    under_way: list[asyncio.Task[Any]] = field(default_factory=list)
    """Attempts that a pause can break off."""
    broken_off: set[asyncio.Task[Any]] = field(default_factory=set)
    """Those that a pause has broken off; never iterated."""
    on_attempt: Callable[[str, str], None] | None = None
    """Told the role and the tier before each attempt."""
    _taken_up: bool = False
    _opening: asyncio.Lock = field(default_factory=asyncio.Lock)
    _locks: dict[str, asyncio.Lock] = field(default_factory=dict)
    _waits: list[str] = field(default_factory=list)
    _shown: str = ""
    _inlined: tuple[int, int] = (0, 0)
    _reservations: int = 0
    _asked_for: str = ""
    """Run for which it is known what was spent before a reset."""

    def __post_init__(self) -> None:
        self.budget = RunBudget(self)
        self.claims = RunClaims(self)

    @property
    def snapshot(self) -> FleetSnapshot:
        """What this run knows of the fleet."""
        return FleetSnapshot.unpack(self.packed)

    async def open(self) -> FleetSnapshot:
        """Take the snapshot on the run's first call; later calls get the same."""
        async with self._opening:  # parallel first calls take one snapshot
            if not self.packed:
                self.packed = await fleet_activity()
                self.hands_fleet_on = True
            self.budget.open(self.snapshot.guardrails, self.own_budget)
        return self.snapshot

    def take_up(self) -> None:
        """Read what the run before this one handed over in headers, once."""
        if self._taken_up:
            return
        self._taken_up = True
        headers, converter = workflow.info().headers, workflow.payload_converter()
        if FLEET_HEADER in headers:
            self.packed = converter.from_payload(headers[FLEET_HEADER], str)
            self.hands_fleet_on = True
        if CARRY_HEADER in headers:
            packed = converter.from_payload(headers[CARRY_HEADER], str)
            self._resume(RunCarry.unpack(packed))

    def hand_over(self) -> dict[str, Payload]:
        """Return headers for the next run of this workflow."""
        converter = workflow.payload_converter()
        headers = {}
        if self.hands_fleet_on:
            headers[FLEET_HEADER] = converter.to_payload(self.packed)
        if self.packed or self.threads:
            headers[CARRY_HEADER] = converter.to_payload(self._carry().pack())
        return headers

    def _resume(self, carried: RunCarry) -> None:
        """Take up what an earlier run handed over."""
        self.attempts = list(carried.attempts)
        self.earlier = carried.earlier
        self.denials = list(carried.denials)
        self.threads = {
            name: take_up(name, messages)
            for name, messages in carried.conversations.items()
        }
        self.paused = carried.paused
        if carried.budget is not None:
            self.budget.resume(carried.budget)

    def _carry(self) -> RunCarry:
        """Hand over to the next run; only the last attempts one by one."""
        told = self.attempts[-_TOLD:]
        return RunCarry(
            attempts=tuple(told),
            earlier=_sum_up(self.earlier, self.attempts[: -len(told) or None]),
            denials=tuple(self.denials[-_TOLD:]),
            budget=self.budget.account.carry() if self.budget.opened else None,
            conversations={n: tuple(t.messages) for n, t in self.threads.items()},
            paused=self.paused,
        )

    def thread(self, name: str) -> Thread:
        """Return a conversation, a new one if need be."""
        return self.threads.setdefault(name, Thread(name))

    def lock(self, name: str) -> asyncio.Lock:
        """Return the lock of a conversation: its calls go one after the other."""
        return self._locks.setdefault(name, asyncio.Lock())

    def room_for(self, size: int) -> bool:
        """Tell whether a text may stand in a command of this workflow task."""
        task = workflow.info().get_current_history_length()
        used = self._inlined[1] if self._inlined[0] == task else 0
        if used + size > _INLINE_BYTES:
            return False
        self._inlined = (task, used + size)
        return True

    async def resumed(self) -> None:
        """Wait while the run is paused."""
        if self.paused:
            with self.waits_for("paused: send the update `resume` to go on"):
                await workflow.wait_condition(lambda: not self.paused)

    def pause(self, *, abort: bool) -> None:
        """Let no attempt start; break off those under way if asked to."""
        self.paused = True
        if abort:
            for attempt in self.under_way:
                self.broken_off.add(attempt)
                attempt.cancel()

    async def caught_up(self) -> None:
        """In a run that a reset made: charge what was spent after the reset's point.

        The run before still knows it. Events up to that point are replayed
        without asking: no patch marker stands there. A copy of an answer that
        an earlier reset got does not count, because it names another run.
        """
        info = workflow.info()
        if info.run_id in (info.original_execution_run_id, self._asked_for):
            return
        self._reservations += 1
        if not workflow.patched(f"tierpool-reset-{self._reservations}"):
            return
        async with self._opening:
            if self._asked_for == info.run_id:
                return
            answer = await spent_activity(info.run_id)
            self._asked_for = answer.run
            lost = max(answer.usd - self.budget.account.held, answer.late_usd)
            self._lost(lost + answer.pending_usd)

    def spent(self) -> str:
        """Tell the run that follows a reset what this one has spent and reserved."""
        return str(self.budget.account.held)

    def _lost(self, usd: Decimal) -> None:
        """Charge what an ended run of this item has spent beyond this one."""
        if usd > 0:
            self.budget.account.settled += usd
            self.record(
                Attempt(role="(reset)", reason="spent before the reset", cost_usd=usd)
            )

    def keep(self, text: str) -> PartRef:
        """Keep a text for activities to ask for, until `forget`."""
        ref = PartRef.of(text)
        self.parts[ref.hash] = text
        self.uses[ref.hash] += 1
        return ref

    def forget(self, refs: Iterable[PartRef]) -> None:
        """Let go of texts that no activity can ask for any more."""
        for ref in refs:
            self.uses[ref.hash] -= 1
            if self.uses[ref.hash] <= 0:
                del self.uses[ref.hash]
                self.parts.pop(ref.hash, None)

    def text(self, ref: PartRef) -> str | None:
        """Return a text of this run or of its fleet."""
        own = self.parts.get(ref.hash)
        if own is None and self.packed:
            return self.snapshot.parts.get(ref.hash)
        return own

    def part(self, request: PartRequest) -> PartChunk:
        """Answer an activity that lacks a text.

        Raises:
            TierpoolError: if this run has no such text.
        """
        text = self.text(PartRef(hash=request.hash, bytes=0))
        if text is None:
            raise TierpoolError(f"this run has no text with the hash {request.hash}")
        end = request.offset + _CHUNK
        return PartChunk(text=text[request.offset : end], more=end < len(text))

    def conversation(
        self, request: ConversationRequest | None = None
    ) -> ConversationChunk:
        """Answer a query for a piece of a conversation."""
        return chunk_of(self.threads, request or ConversationRequest())

    def record(self, attempt: Attempt) -> None:
        """Add an attempt to the item's account and to its current details."""
        self.attempts.append(attempt)
        self.show()

    def show(self) -> None:
        """Write the current details anew, but never over some that the user wrote."""
        if workflow.get_current_details() == self._shown:
            account = self.budget.account
            self._shown = details_table(
                self.state,
                self.attempts,
                self._notes(),
                earlier=self.earlier.attempts,
                spent=f"{money(account.settled)}"
                + (f" of {money(account.cap)}" if account.cap is not None else ""),
            )
            workflow.set_current_details(self._shown)

    def _notes(self) -> list[str]:
        """Say what calls wait for, and what was denied."""
        denied = [
            f"denied by the budget: {escape_markdown(f'{d.role} · {d.tier}')} needs "
            f"{money(d.needs_usd)}, {escape_markdown(d.why)}"
            for d in self.denials[-3:]
        ]
        return [*self._waits, *denied]

    @contextmanager
    def waits_for(self, what: str) -> Iterator[None]:
        """Show in the current details what a call waits for; `what` is Markdown."""
        self._waits.append(what)
        self.show()
        try:
            yield
        finally:
            self._waits.remove(what)
            if workflow.in_workflow():  # not when an evicted run is closed
                self.show()

    def deny(self, denial: Denial) -> None:
        """Keep and show that the budget did not pay for a call."""
        self.denials.append(denial.model_copy(update={"state": self.state}))
        self.show()

    def costs(self) -> ItemCosts:
        """Sum up what the item is charged, and for what."""
        total = _sum_up(self.earlier, self.attempts)
        account = self.budget.account
        return ItemCosts(
            item_id=self.item_id,
            cost_usd=account.settled,
            reserved_usd=account.reserved,
            budget_usd=account.cap,
            parent=account.parent,
            unknown_cost_attempts=total.unknown_cost_attempts,
            usage=total.usage,
            made=total.attempts,
            earlier=self.earlier,
            attempts=tuple(self.attempts),
            denials=tuple(self.denials),
        )


def run_of(instance: object) -> RunState | None:
    """Return the state that is attached to a workflow instance, if there is one."""
    found = getattr(instance, _ATTRIBUTE, None)
    return found if isinstance(found, RunState) else None


def attach(instance: object, state: RunState) -> None:
    """Give a workflow instance its state."""
    setattr(instance, _ATTRIBUTE, state)


def _sum_up(before: EarlierAttempts, attempts: Iterable[Attempt]) -> EarlierAttempts:
    made = list(attempts)
    return EarlierAttempts(
        attempts=before.attempts + len(made),
        unknown_cost_attempts=before.unknown_cost_attempts
        + sum(a.at_reservation for a in made),
        usage=sum((a.usage for a in made if a.usage), before.usage),
        cost_usd=sum((a.cost_usd for a in made), before.cost_usd),
    )
