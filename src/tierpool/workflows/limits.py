"""Keeps the limits that were applied to a running fleet.

An entity: one for each fleet, started by `tierpool apply`, for good. Workers
read its memo, so that nothing but the server has to be there for them.
"""

from __future__ import annotations

from pydantic import ValidationError
from temporalio import workflow

from tierpool.blueprint import PoolSpec
from tierpool.contracts.limits import (
    APPLY_UPDATE,
    LIMITS_MEMO,
    SCALE_UPDATE,
    AppliedLimits,
    LimitsRequest,
    ScaleRequest,
    limits_of,
)
from tierpool.errors import UsageError
from tierpool.workflows.render import escape_markdown

__all__ = ["LimitsWorkflow"]


@workflow.defn(sandboxed=False)
class LimitsWorkflow:
    """What was applied last, as an entity."""

    @workflow.init
    def __init__(self, applied: AppliedLimits) -> None:
        """Go on from what the run before had."""
        self._applied = applied

    @workflow.run
    async def run(self, applied: AppliedLimits) -> None:
        """Wait for updates, run after run."""
        self._show()
        await workflow.wait_condition(
            lambda: workflow.info().is_continue_as_new_suggested()
        )
        await workflow.wait_condition(workflow.all_handlers_finished)
        workflow.continue_as_new(self._applied, memo=self._memo())

    @workflow.update(name=APPLY_UPDATE, description="replace the limits")
    def apply(self, request: LimitsRequest) -> AppliedLimits:
        """Take limits in place of those before, all of them at once."""
        known = self._applied
        if limits_of(request) != limits_of(known):
            number = {"generation": known.generation + 1}
            shared, claims = request.shared, request.claims
            self._applied = AppliedLimits(
                id=str(workflow.uuid4()),
                at=workflow.now(),
                by=request.by,
                pools=request.pools,
                generation=known.generation + 1,
                shared=shared.model_copy(update=number) if shared else None,
                claims=claims.model_copy(update=number) if claims else None,
                scaled=known.scaled,
                scaled_until=known.scaled_until,
            )
            workflow.upsert_memo(self._memo())
            self._show()
        return self._applied

    @apply.validator
    def _check(self, request: LimitsRequest) -> None:
        """Refuse what no worker could follow, and what comes too late."""
        if request.until is not None and workflow.now() > request.until:
            raise UsageError("nobody was there to take this in time")
        for name, pool in request.pools.items():
            try:
                PoolSpec(**pool.model_dump())
            except ValidationError as error:
                wrong = "; ".join(one["msg"] for one in error.errors())
                raise UsageError(f"pool {name}: {wrong}") from error

    @workflow.update(name=SCALE_UPDATE, description="instances for a while")
    def scale(self, request: ScaleRequest) -> AppliedLimits:
        """Let workers follow an autoscaler for a while."""
        scaled = {"scaled": request.pools, "scaled_until": request.until}
        self._applied = self._applied.model_copy(update=scaled)
        workflow.upsert_memo(self._memo())
        self._show()
        return self._applied

    @workflow.query(description="what was applied last")
    def limits(self) -> AppliedLimits:
        """Return what was applied last."""
        return self._applied

    def _memo(self) -> dict[str, str]:
        return {LIMITS_MEMO: self._applied.model_dump_json()}

    def _show(self) -> None:
        """Write the limits where people look."""
        known = self._applied
        lines = [f"generation {known.generation}, by {escape_markdown(known.by)}", ""]
        if known.pools:
            lines += ["| pool | min | max |", "|---|---|---|"]
        else:
            lines.append("nothing is applied: the files of the workers count")
        lines += [
            f"| {escape_markdown(name)} | {pool.min_instances} | {pool.max_instances} |"
            for name, pool in known.pools.items()
        ]
        scaled = known.scaled_now(workflow.now())
        lines += [
            f"\n{escape_markdown(name)}: {count} of each worker, says the autoscaler"
            for name, count in scaled.items()
        ]
        workflow.set_current_details("\n".join(lines))
