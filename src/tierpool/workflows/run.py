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

from temporalio import workflow

from tierpool.contracts import (
    FLEET_ATTRIBUTE,
    FLEET_HEADER,
    Attempt,
    ItemCosts,
    PartChunk,
    PartRef,
    PartRequest,
    Usage,
)
from tierpool.errors import TierpoolError
from tierpool.fleet import FleetSnapshot
from tierpool.workflows.human import Decisions
from tierpool.workflows.render import details_table
from tierpool.workflows.stubs import fleet_activity

__all__ = ["RunState", "attach", "run_state"]

_ATTRIBUTE = "_tierpool_run"
_CHUNK = 350_000
"""Characters of one answer: at most 1.4 MB, below the server's limit of 2 MiB."""


@dataclass
class RunState:
    """Fleet, texts and attempts of one run."""

    packed: str = ""
    """Packed FleetSnapshot; empty until the first call."""
    item_id: str = ""
    state: str = ""
    """State of the flow, for the record of attempts; empty outside flows."""
    attempts: list[Attempt] = field(default_factory=list)
    parts: dict[str, str] = field(default_factory=dict)
    """Texts that activities may ask for, by hash."""
    uses: Counter[str] = field(default_factory=Counter)
    """Calls that still need a text; parallel calls may share one."""
    decisions: Decisions = field(default_factory=Decisions)
    paused: bool = False
    """While true no attempt starts; one under way goes on."""
    on_attempt: Callable[[str, str], None] | None = None
    """Told the role and the tier before each attempt."""
    _opening: asyncio.Lock = field(default_factory=asyncio.Lock)
    _waits: list[str] = field(default_factory=list)
    _shown: str = ""

    @property
    def snapshot(self) -> FleetSnapshot:
        """What this run knows of the fleet."""
        return FleetSnapshot.unpack(self.packed)

    async def open(self) -> FleetSnapshot:
        """Take the snapshot on the run's first call; later calls get the same."""
        async with self._opening:  # parallel first calls take one snapshot
            if not self.packed:
                handed_over = workflow.info().headers.get(FLEET_HEADER)
                self.packed = (
                    workflow.payload_converter().from_payload(handed_over, str)
                    if handed_over
                    else await fleet_activity()
                )
                # the outbound interceptor hands it on at continue-as-new
                setattr(workflow.instance(), FLEET_ATTRIBUTE, self.packed)
        return self.snapshot

    async def resumed(self) -> None:
        """Wait while the run is paused."""
        if self.paused:
            with self.waits_for("paused: send the update `resume` to go on"):
                await workflow.wait_condition(lambda: not self.paused)

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

    def record(self, attempt: Attempt) -> None:
        """Add an attempt to the item's account and to its current details."""
        self.attempts.append(attempt)
        self.show()

    def show(self) -> None:
        """Write the current details anew, but never over some that the user wrote."""
        if workflow.get_current_details() == self._shown:
            self._shown = details_table(self.state, self.attempts, self._waits)
            workflow.set_current_details(self._shown)

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

    def costs(self) -> ItemCosts:
        """Sum up the attempts; what is not known is counted, never taken as zero."""
        known = [a.cost_usd for a in self.attempts if a.cost_usd is not None]
        return ItemCosts(
            item_id=self.item_id,
            cost_usd=sum(known, Decimal(0)),
            unknown_cost_attempts=len(self.attempts) - len(known),
            usage=sum((a.usage for a in self.attempts if a.usage), Usage()),
            attempts=tuple(self.attempts),
        )


def run_state() -> RunState:
    """Return the run's state; made, with its handlers, at the first call."""
    instance = workflow.instance()
    found = getattr(instance, _ATTRIBUTE, None)
    if isinstance(found, RunState):
        return found
    state = RunState(item_id=workflow.info().workflow_id)
    attach(instance, state)
    _add_query("tierpool_part", state.part)
    _add_query("costs", state.costs)
    if workflow.get_update_handler("decide") is None:
        workflow.set_update_handler(
            "decide", state.decisions.take, validator=state.decisions.check
        )
    return state


def attach(instance: object, state: RunState) -> None:
    """Give a workflow instance its state; its class brings the handlers itself."""
    setattr(instance, _ATTRIBUTE, state)


def _add_query(name: str, handler: Callable[..., object]) -> None:
    """Add a query unless the user's workflow has one of that name."""
    if workflow.get_query_handler(name) is None:
        workflow.set_query_handler(name, handler)
