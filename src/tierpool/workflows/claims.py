"""Grants claims on role instances, role rates and WIP limits of a whole fleet.

An entity: one for each fleet, started by the first run that needs it, for
good. Runs ask and give back by signals, and are signalled when it is their
turn; nobody polls. Who may have what is decided by `ClaimBook`.
"""

from __future__ import annotations

import asyncio
import math
import re
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError, FailureError

from tierpool.budget.claims import ClaimBook
from tierpool.contracts.claims import (
    CLAIM_ASK_SIGNAL,
    CLAIM_GRANT_SIGNAL,
    CLAIM_LIMITS_SIGNAL,
    CLAIM_RELEASE_SIGNAL,
    CLAIMS_QUERY,
    ClaimAsk,
    ClaimGrant,
    ClaimLimits,
    ClaimRelease,
    ClaimsState,
    HoldersRequest,
    WaitingClaim,
)
from tierpool.workflows.render import escape_markdown
from tierpool.workflows.stubs import holders_activity

__all__ = ["ClaimsWorkflow"]

_LOOK = 5.0
"""Seconds between two looks for holders that have ended."""
_HEARD = 10.0
"""Seconds after which somebody is asked about again."""
_BATCH = 50
_UNDER_WAY = 500
"""Grants at a time; the server allows 2,000 signals."""
_SHOWN_AGAIN = 1.0
_TABLE_ROWS = 30
_RUN = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@workflow.defn(sandboxed=False)
class ClaimsWorkflow:
    """The claims of a fleet, as an entity."""

    @workflow.init
    def __init__(self, state: ClaimsState) -> None:
        """Go on from what the run before had, or from what was recovered."""
        self._book = ClaimBook(state)
        self._dirty = True
        self._tasks: set[asyncio.Task[None]] = set()
        """Grants under way."""
        self._alarm: asyncio.Task[None] | None = None
        self._alarm_at = math.inf
        self._look_at = 0.0
        self._looking: asyncio.Task[None] | None = None
        self._shown_at = 0.0

    @workflow.run
    async def run(self, state: ClaimsState) -> None:
        """Grant, look after holders, and go on in the next run; for good."""
        while not workflow.info().is_continue_as_new_suggested():
            self._dirty = False
            self._work()
            await workflow.wait_condition(lambda: self._dirty)
        # a grant that is under way would be lost
        await workflow.wait_condition(lambda: not self._tasks)
        workflow.continue_as_new(self._book.state())

    @workflow.signal(
        name=CLAIM_ASK_SIGNAL, description="ask for a claim or a hold; of a run"
    )
    def ask(self, ask: ClaimAsk) -> None:
        """Put an ask into the line."""
        if not (ask.workflow and _RUN.fullmatch(ask.run)):
            # a signal to no run at all would fail the workflow task for ever
            workflow.logger.warning("claim.no_holder", extra={"claim": ask.id})
            return
        granted = self._book.ask(ask, workflow.time())
        if granted is not None:
            self._tell(granted)
        self._dirty = True

    @workflow.signal(
        name=CLAIM_RELEASE_SIGNAL, description="give a claim or a hold back; of a run"
    )
    def release(self, release: ClaimRelease) -> None:
        """Take back what a run needs no more."""
        self._book.release(release, workflow.time())
        self._dirty = True

    @workflow.signal(
        name=CLAIM_LIMITS_SIGNAL, description="other limits; the highest generation"
    )
    def limits(self, limits: ClaimLimits) -> None:
        """Follow other limits."""
        self._book.change(limits)
        self._dirty = True

    @workflow.query(name=CLAIMS_QUERY, description="who holds what, and who waits")
    def claims(self) -> ClaimsState:
        """Return all of it; the next run could go on from this."""
        resources = self._book.resources(workflow.time())
        return self._book.state().model_copy(update={"resources": resources})

    def _work(self) -> None:
        """Do what can be done now, and see to being woken when there is more."""
        now = workflow.time()
        self._book.bury(now)
        for granted in self._book.grant(now, _UNDER_WAY - len(self._tasks)):
            self._tell(granted)
        if self._book.idle:
            self._look_at = math.inf
        elif self._look_at == math.inf:
            self._look_at = now + _LOOK
        if self._look_at <= now and (not self._looking or self._looking.done()):
            self._look_at = now + _LOOK
            self._looking = asyncio.create_task(self._look())
        if now >= self._shown_at + _SHOWN_AGAIN or self._book.idle:
            self._shown_at = now
            self._show()
        self._wake_at(min(self._book.due(), self._look_at))

    def _tell(self, granted: WaitingClaim) -> None:
        """Signal a run that it has its claim; its end does not hold up the others."""
        task = asyncio.create_task(self._granted(granted))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _granted(self, granted: WaitingClaim) -> None:
        ask = granted.ask
        holder = workflow.get_external_workflow_handle(ask.workflow, run_id=ask.run)
        try:
            await holder.signal(CLAIM_GRANT_SIGNAL, ClaimGrant(number=ask.number))
        except FailureError:  # that run has ended: the next one gets it
            self._book.drop(granted, workflow.time())
        self._dirty = True

    async def _look(self) -> None:
        """Ask the server about those that nothing was heard of for a while."""
        asked = self._book.unheard(workflow.time(), _HEARD, _BATCH)
        if not asked:
            return
        try:
            gone = await holders_activity(HoldersRequest(holders=tuple(asked)))
        except ActivityError:
            return  # what is not known is alive
        self._book.examined(asked, gone.runs, gone.firsts, workflow.time())
        self._dirty = True

    def _wake_at(self, when: float) -> None:
        """Wake up at a time; a timer that goes off too early is left alone."""
        now = workflow.time()
        if self._alarm is not None and now < self._alarm_at <= when:
            return
        if self._alarm is not None and self._alarm_at > now:
            self._alarm.cancel()
        self._alarm, self._alarm_at = None, when
        if when < math.inf:
            self._alarm = asyncio.create_task(self._ring(max(when - now, 0.01)))

    async def _ring(self, seconds: float) -> None:
        await workflow.sleep(timedelta(seconds=seconds))
        self._dirty = True

    def _show(self) -> None:
        """Write the use of each resource where people look."""
        book, lines = self._book, []
        if workflow.time() < book.closed_until:
            lines.append(f"**closed**: {escape_markdown(book.closed_why)}\n")
        lines += ["| resource | used | limit | waiting |", "|---|---:|---:|---:|"]
        found = book.resources(workflow.time())
        for name, use in list(found.items())[:_TABLE_ROWS]:
            cap = "none" if use.cap is None else use.cap
            row = f"{escape_markdown(name)} | {use.used} | {cap} | {use.waiting}"
            lines.append(f"| {row} |")
        workflow.set_current_details("\n".join(lines))
