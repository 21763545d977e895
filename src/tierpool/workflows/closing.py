"""What a run leaves behind at its end, for people who ask later what it cost."""

from __future__ import annotations

from temporalio import workflow

from tierpool.budget.closing import closing_costs
from tierpool.contracts.costs import COSTS_MEMO
from tierpool.workflows.run import RunState

__all__ = ["leave_costs"]


def leave_costs(run: RunState) -> None:
    """Write into the memo what a run cost, as its last command.

    Runs whose snapshot does not ask for it began before there was such a memo;
    so their histories replay, without a marker in every new one.
    """
    if not run.packed or not run.snapshot.leaves_costs:
        return
    costs = run.costs()
    if not costs.made and not costs.denials:
        return
    top = list(run.snapshot.tiers.values())[-1].models[0].price
    closing = closing_costs(
        costs, fleet=run.snapshot.fleet, flow=workflow.info().workflow_type, top=top
    )
    workflow.upsert_memo({COSTS_MEMO: closing})
