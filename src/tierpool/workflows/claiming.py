"""A run's side of the fleet's claims: asks, waits in sight, gives back.

The claims workflow signals when it is this run's turn. Asking again after a
while changes nothing there; it mends what got lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Protocol

from temporalio import workflow
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    is_cancelled_exception,
)

from tierpool.contracts import AgentRequest, AgentResult, FailureDetail
from tierpool.contracts.claims import (
    CLAIM_ASK_SIGNAL,
    CLAIM_RELEASE_SIGNAL,
    ClaimAsk,
    ClaimGrant,
    ClaimRelease,
    claims_id,
    role_of,
)
from tierpool.contracts.ledger import requests_of, tokens_of
from tierpool.fleet import FleetSnapshot, RoleSnapshot
from tierpool.workflows.drawing import tell
from tierpool.workflows.render import escape_markdown, shorten
from tierpool.workflows.stubs import open_claims_activity

__all__ = ["Claim", "RunClaims", "cancels", "needs_of", "used_of"]

_USUAL_PRIORITY = 3
_ASK_AGAIN = timedelta(seconds=30)
_AT_MOST = timedelta(minutes=10)
_TRY_AGAIN = timedelta(seconds=5)
"""While there are no claims to ask. The time doubles, as do all of these."""
ENDED = "the claims workflow was ended: run tierpool ledger recover"


class _Surroundings(Protocol):
    """What claims need of the run that they belong to."""

    item_id: str
    paused: bool

    @property
    def snapshot(self) -> FleetSnapshot: ...

    async def resumed(self) -> None: ...

    def waits_for(self, what: str) -> AbstractContextManager[None]: ...


@dataclass(frozen=True, slots=True)
class Claim:
    """Permission for one attempt."""

    number: int
    name: str
    """`role/ITEM-ID`, with `#2` and so on for parallel calls."""


@dataclass
class RunClaims:
    """What one run holds and asks for."""

    run: _Surroundings
    holds: list[str] = field(default_factory=list)
    """WIP limits that the item holds."""
    wanted: str = ""
    """WIP limit that the next claim of a role has to bring along."""
    _number: int = 0
    _open: list[int] = field(default_factory=list)
    """Asks that were not given back."""
    _granted: list[int] = field(default_factory=list)
    _names: list[str] = field(default_factory=list)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def claim(self, role: str, needs: dict[str, int]) -> Claim:
        """Wait for an instance of a role, and for the hold that is wanted with it.

        While the run is paused, nothing is held and nothing is asked for.
        """
        hold, self.wanted = self.wanted, ""
        if hold in self.holds:
            hold = ""
        name = self._name(role)
        try:
            while True:
                await self.run.resumed()
                ask = self._ask(name, needs, hold)
                await self._answer(ask, _waits_for(self.run.snapshot, role, hold))
                if ask.number in self._granted and not self.run.paused:
                    break
                await self._give_back(self._release(ask.number, hold))
        except BaseException:
            self._names.remove(name)
            raise
        if hold:
            self.holds.append(hold)
        return Claim(ask.number, name)

    async def hold(self, limit: str) -> None:
        """Wait until one more item may count against a WIP limit."""
        ask = self._ask("", {}, limit)
        await self._answer(ask, _waits_for(self.run.snapshot, "", limit))
        self._open.remove(ask.number)
        self.holds.append(limit)

    async def release(self, claim: Claim, used: dict[str, int]) -> None:
        """Give a claim back, and say what it used of what is counted over time."""
        if not workflow.in_workflow():  # an evicted run is closed
            return
        self._names.remove(claim.name)
        await self._give_back(self._release(claim.number, used=used))

    async def leave(self, limits: list[str]) -> None:
        """Give holds back."""
        self.holds = [limit for limit in self.holds if limit not in limits]
        if limits:
            await self._give_back(self._release(0, *limits))

    def granted(self, grant: ClaimGrant) -> None:
        """Take the signal that it is this run's turn."""
        if grant.number in self._open and grant.number not in self._granted:
            self._granted.append(grant.number)

    async def _answer(self, ask: ClaimAsk, waits: str) -> None:
        """Ask until it is granted; a pause ends the wait, too, but not for holds.

        What is broken off is given back.
        """
        before = cancels()
        try:
            with self.run.waits_for(escape_markdown(waits)):
                await self._asked(ask, waits)
            _raise_what_came_since(before)
        except (ActivityError, asyncio.CancelledError) as error:
            if workflow.in_workflow() and is_cancelled_exception(error):
                hold = ask.hold.partition("/")[0]
                await self._give_back(self._release(ask.number, hold))
            raise

    async def _asked(self, ask: ClaimAsk, waits: str) -> None:
        again, fails = _ASK_AGAIN, 0

        def is_over() -> bool:
            return ask.number in self._granted or bool(ask.id and self.run.paused)

        while not is_over():
            if not await tell(self._entity, CLAIM_ASK_SIGNAL, ask):
                fails += 1
                await self._opened(fails)
                continue
            try:
                await workflow.wait_condition(
                    is_over, timeout=again, timeout_summary=shorten(waits, 180)
                )
            except TimeoutError:
                again, fails = min(2 * again, _AT_MOST), 0

    async def _opened(self, fails: int) -> None:
        """See to it that there are claims to ask; wait while there are none."""
        why = ENDED
        try:
            opened = await open_claims_activity(self.run.snapshot.fleet)
            if not opened.ended and fails == 1:
                return
            if not opened.ended:
                why = "the claims workflow does not take the ask"
        except (ActivityError, ApplicationError) as error:
            # a local activity's own failure comes without an ActivityError around it
            if is_cancelled_exception(error):
                raise
            why = f"the claims workflow cannot be started: {error.cause or error}"
        wait = min(_TRY_AGAIN * 2 ** min(fails - 1, 10), _AT_MOST)
        with self.run.waits_for(escape_markdown(why)):
            await workflow.sleep(wait, summary=shorten(why, 180))

    async def _give_back(self, release: ClaimRelease) -> None:
        """Tell the claims what is free; if nobody is there, again and again."""
        try:
            if not await tell(self._entity, CLAIM_RELEASE_SIGNAL, release):
                self._go_on(self._give_back_later(release))
        finally:
            for known in (self._open, self._granted):
                if release.number in known:
                    known.remove(release.number)

    async def _give_back_later(self, release: ClaimRelease) -> None:
        wait = _ASK_AGAIN
        while True:
            await workflow.sleep(wait, summary="gives a claim back")
            if await tell(self._entity, CLAIM_RELEASE_SIGNAL, release):
                return
            wait = min(2 * wait, _AT_MOST)

    def _go_on(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something beside; its task is kept from being forgotten."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @property
    def _entity(self) -> str:
        return claims_id(self.run.snapshot.fleet)

    def _ask(self, name: str, needs: dict[str, int], hold: str) -> ClaimAsk:
        info = workflow.info()
        self._number += 1
        ask = ClaimAsk(
            workflow=info.workflow_id,
            run=info.run_id,
            first=info.first_execution_run_id,
            number=self._number,
            id=name,
            needs=needs,
            hold=self._hold_id(hold) if hold else "",
            holds=tuple(map(self._hold_id, self.holds)),
            calls=tuple(self._open),
            priority=info.priority.priority_key or _USUAL_PRIORITY,
        )
        self._open.append(ask.number)
        return ask

    def _release(
        self, number: int, *limits: str, used: dict[str, int] | None = None
    ) -> ClaimRelease:
        info = workflow.info()
        return ClaimRelease(
            run=info.run_id,
            first=info.first_execution_run_id,
            number=number,
            holds=tuple(self._hold_id(limit) for limit in limits if limit),
            used=used or {},
        )

    def _hold_id(self, limit: str) -> str:
        return f"{limit}/{self.run.item_id}"

    def _name(self, role: str) -> str:
        """Name a call; parallel calls of one role are numbered."""
        first = name = f"{role}/{self.run.item_id}"
        number = 1
        while name in self._names:
            number += 1
            name = f"{first}#{number}"
        self._names.append(name)
        return name


def cancels() -> tuple[int, bool]:
    """Count what asks this task, or the whole workflow, to stop."""
    task = asyncio.current_task()
    return (
        task.cancelling() if task else 0,
        workflow.cancellation_reason() is not None,
    )


def _raise_what_came_since(before: tuple[int, bool]) -> None:
    """Raise a cancel that a grant, coming with it, has hidden from the task."""
    if cancels() != before:
        raise asyncio.CancelledError


def needs_of(spec: RoleSnapshot | None, request: AgentRequest) -> dict[str, int]:
    """Return what an attempt needs of its role's limits; empty: it has none.

    Of the tokens half of the possible output is expected; what was really used
    is told afterwards.
    """
    needs: dict[str, int] = {}
    if spec is None:  # the classifier's attempts are of no role
        return needs
    if spec.max_instances is not None:
        needs[role_of(request.role)] = 1
    rate = spec.rate_limit
    if rate is None:
        return needs
    if rate.requests_per_minute is not None or rate.burst is not None:
        needs[requests_of(request.role)] = 1
    if rate.tokens_per_minute is not None and request.route.model:
        expected = request.input_bytes // 4 + request.max_output_tokens // 2
        needs[tokens_of(request.role)] = max(1, expected)
    return needs


def used_of(
    needs: dict[str, int], role: str, last: AgentResult | FailureDetail | None
) -> dict[str, int]:
    """Return what an attempt has used, where that is known."""
    used: dict[str, int] = {}
    if last is None:
        return used
    failed = last if isinstance(last, FailureDetail) else None
    if failed is not None and not failed.admitted:
        used[requests_of(role)] = 0
    if last.usage is not None:
        used[tokens_of(role)] = last.usage.input_tokens + last.usage.output_tokens
    elif failed is not None and failed.free:
        used[tokens_of(role)] = 0
    return {resource: amount for resource, amount in used.items() if resource in needs}


def _waits_for(snapshot: FleetSnapshot, role: str, hold: str) -> str:
    """Say what is waited for: `waits for an instance of implementer (max_instances 3)`."""
    parts: list[str] = []
    spec = snapshot.roles.get(role)
    if spec is not None:
        told: Callable[[str, int | None], list[str]] = lambda what, limit: (  # noqa: E731
            [] if limit is None else [f"{what} {limit}"]
        )
        rate = spec.rate_limit
        limits = told("max_instances", spec.max_instances)
        if rate is not None:
            limits += told("requests_per_minute", rate.requests_per_minute)
            limits += told("tokens_per_minute", rate.tokens_per_minute)
            limits += told("burst", rate.burst)
        parts.append(f"an instance of {role} ({', '.join(limits)})")
    if hold:
        parts.append(f"a slot of {hold} ({snapshot.backpressure[hold]})")
    return "waits for " + " and ".join(parts)
