"""WIP limits of a flow's states: held before an item enters, given back after.

A hold goes with the item from state to state as long as they hold the same
limit, and into the next run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tierpool.flow import Flow
from tierpool.workflows.run import RunState

__all__ = ["Holding"]


class Holding:
    """The WIP limits that one item holds and needs."""

    def __init__(self, run: RunState, flow: Flow, state: str) -> None:
        """Take up the hold of the state that the item is in already, if any."""
        self._claims, self._flow = run.claims, flow
        self._known = run.snapshot.backpressure
        limit = self._limit_of(state)
        if limit:
            self._claims.holds.append(limit)

    @contextmanager
    def expected(self, transition: str) -> Iterator[None]:
        """Let a role's first claim bring along what the transition's target holds.

        All at once or not at all: an item that waits for a slot keeps no role
        busy, and a role's work is not done in vain.
        """
        limit = self._limit_of(transition.partition("->")[2].strip())
        self._claims.wanted = "" if limit in self._claims.holds else limit
        try:
            yield
        finally:
            self._claims.wanted = ""

    async def before(self, state: str) -> None:
        """Wait for what a state holds, unless the item has it."""
        limit = self._limit_of(state)
        if limit and limit not in self._claims.holds:
            await self._claims.hold(limit)

    async def entered(self, state: str) -> None:
        """Give back what this state does not hold."""
        limit = self._limit_of(state)
        others = [held for held in self._claims.holds if held != limit]
        if others:
            await self._claims.leave(others)

    def _limit_of(self, state: str) -> str:
        """Return what a state holds; nobody stays in a terminal state."""
        spec = self._flow.states.get(state)
        limit = spec.holds if spec else None
        known = limit in self._known and bool(self._flow.leaving(state))
        return limit if limit and known else ""
