"""Lets one autoscaler of a fleet lead at a time, and keeps what it decided.

An entity, one for each fleet: its ID is the lock. Who leads says so again and
again; who is silent for too long has lost the lead to whoever asks next.
"""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow

from tierpool.contracts.scaling import (
    LEAD_UPDATE,
    SCALING_QUERY,
    LeadAnswer,
    LeadRequest,
    PoolDecision,
    ScalingState,
)
from tierpool.workflows.render import escape_markdown

__all__ = ["ScalingWorkflow"]

_CHANGES = 50
_LONGEST = timedelta(minutes=5)


@workflow.defn(sandboxed=False)
class ScalingWorkflow:
    """The lead over a fleet's pools, as an entity."""

    @workflow.init
    def __init__(self, state: ScalingState) -> None:
        """Go on from what the run before had."""
        self._state = state

    @workflow.run
    async def run(self, state: ScalingState) -> None:
        """Answer autoscalers, run after run."""
        self._show()
        await workflow.wait_condition(
            lambda: workflow.info().is_continue_as_new_suggested()
        )
        await workflow.wait_condition(workflow.all_handlers_finished)
        workflow.continue_as_new(self._state)

    @workflow.update(name=LEAD_UPDATE, description="lead, or ask whether one may")
    def lead(self, request: LeadRequest) -> LeadAnswer:
        """Let one of them lead, and note what it has decided."""
        known, now = self._state, workflow.now()
        held = known.until is not None and now < known.until
        if held and known.leader and known.leader != request.who:
            return LeadAnswer(leader=known.where, until=known.until)
        if request.resigns:
            free = {"leader": "", "where": "", "until": None, "trouble": ""}
            self._state = known.model_copy(update=free)
        else:
            until = now + min(_LONGEST, timedelta(seconds=request.seconds))
            # what it decided before it led was decided without knowing all
            taken = request.decisions if known.leader == request.who else ()
            self._take(request, taken)
            self._state = self._state.model_copy(update={"until": until})
        self._show()
        return LeadAnswer(
            leads=not request.resigns,
            leader=self._state.where,
            until=self._state.until,
            decisions=self._state.decisions,
        )

    @workflow.query(name=SCALING_QUERY, description="who leads, and what was decided")
    def state(self) -> ScalingState:
        """Return everything."""
        return self._state

    def _take(self, request: LeadRequest, taken: tuple[PoolDecision, ...]) -> None:
        known = self._state
        latest = {one.pool: one for one in known.decisions}
        changes = [
            one
            for one in taken
            if one.pool not in latest or latest[one.pool].instances != one.instances
        ]
        latest |= {one.pool: one for one in taken}
        self._state = ScalingState(
            fleet=known.fleet,
            leader=request.who,
            where=request.where,
            act=request.act,
            trouble=request.trouble,
            decisions=tuple(latest.values()),
            changes=(*known.changes, *changes)[-_CHANGES:],
        )

    def _show(self) -> None:
        """Write who leads, and what was decided, where people look."""
        known = self._state
        leads = f"{escape_markdown(known.where)} leads ({known.act})"
        lines = [leads if known.leader else "nobody leads", ""]
        if known.trouble:
            lines += [f"**not done**: {escape_markdown(known.trouble)}", ""]
        if known.decisions:
            lines += ["| pool | desired | workers | bound by |", "|---|---|---|---|"]
        lines += [
            f"| {escape_markdown(one.pool)} | {one.instances} | {one.workers} "
            f"| {one.constraint} |"
            for one in known.decisions
        ]
        lines += [
            f"\n{one.at:%Y-%m-%d %H:%M:%S} UTC {escape_markdown(one.pool)} "
            f"{one.before} → {one.instances}: {escape_markdown(one.reason)}"
            for one in reversed(known.changes[-10:])
        ]
        workflow.set_current_details("\n".join(lines))
