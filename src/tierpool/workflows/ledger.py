"""The fleet's ledger as an entity: one workflow that leases what is limited.

Started by workers, for good. It answers renewals from its state, at once; only
alerts are told of by an activity, beside.
"""

from __future__ import annotations

import asyncio
from decimal import Decimal

from temporalio import workflow
from temporalio.exceptions import ActivityError

from tierpool.budget.ledger import Ledger
from tierpool.budget.resources import called, dollars, told
from tierpool.contracts.ledger import (
    LEDGER_QUERY,
    RENEW_UPDATE,
    USD,
    Alert,
    LedgerState,
    Renewal,
    RenewalAnswer,
)
from tierpool.workflows.render import escape_markdown, money
from tierpool.workflows.stubs import alert_activity

__all__ = ["LedgerWorkflow"]

_SHOWN_ALERTS = 5
_UNTOLD = 20
"""Alerts that wait to be told of; older ones are left out."""


@workflow.defn(sandboxed=False)
class LedgerWorkflow:
    """The ledger of one fleet."""

    @workflow.init
    def __init__(self, state: LedgerState) -> None:
        """Go on from what the run before had."""
        self._ledger = Ledger(state)
        self._alerting = state.alerting
        self._alerts = list(state.alerts)
        self._untold = list(state.untold)

    @workflow.run
    async def run(self, state: LedgerState) -> None:
        """Answer renewals, run after run."""
        self._show()
        telling = asyncio.create_task(self._tell())
        await workflow.wait_condition(
            lambda: workflow.info().is_continue_as_new_suggested()
        )
        await workflow.wait_condition(workflow.all_handlers_finished)
        telling.cancel()
        workflow.continue_as_new(self.state())

    @workflow.update(name=RENEW_UPDATE, description="what a worker used and could use")
    def renew(self, request: Renewal) -> RenewalAnswer:
        """Take a worker's numbers and lease it what it can have."""
        answer = self._ledger.renew(request, workflow.now().timestamp())
        self._watch(answer.hour_usd)
        self._show()
        return answer.model_copy(update={"alerting": self._alerting})

    @workflow.query(name=LEDGER_QUERY, description="all leases, and what was used")
    def state(self, hours: bool = True) -> LedgerState:
        """Return everything; the totals of the hours, which may be long, if asked."""
        known = self._ledger.state()
        return known.model_copy(
            update={
                "hours": known.hours if hours else (),
                "alerting": self._alerting,
                "alerts": tuple(self._alerts),
                "untold": tuple(self._untold),
            }
        )

    def _watch(self, hour_usd: Decimal) -> None:
        """Raise an alert once for each crossing of the threshold."""
        threshold = self._ledger.effective.alert_usd
        above = threshold is not None and hour_usd >= threshold
        if above and not self._alerting and threshold is not None:
            cap = self._ledger.effective.caps.get(USD)
            alert = Alert(
                id=str(workflow.uuid4()),
                fleet=self._ledger.fleet,
                at=workflow.now(),
                hour_usd=hour_usd,
                threshold_usd=threshold,
                cap_usd=dollars(cap[0].amount) if cap else None,
            )
            self._alerts = [*self._alerts, alert][-_SHOWN_ALERTS:]
            self._untold = [*self._untold, alert][-_UNTOLD:]
        self._alerting = above

    async def _tell(self) -> None:
        """Tell of alerts, one after the other; nothing waits for that."""
        while True:
            await workflow.wait_condition(lambda: bool(self._untold))
            alert = self._untold[0]
            try:
                await alert_activity(alert)
            except ActivityError:
                workflow.logger.warning("alert.untold", extra={"alert": alert.id})
            if alert in self._untold:
                self._untold.remove(alert)

    def _show(self) -> None:
        """Write the ledger where people look."""
        ledger, now = self._ledger, workflow.now().timestamp()
        lines = [
            f"{money(dollars(ledger.used(USD, now)))} settled in the rolling hour, "
            f"{len(ledger.alive(now))} workers hold leases",
            "",
        ]
        if ledger.closed_until > now:
            lines += [f"**closed**: {escape_markdown(ledger.closed_why)}", ""]
        if ledger.effective.caps:
            lines += ["| limited | used | leased | at most |", "|---|---|---|---|"]
        for name, caps in ledger.effective.caps.items():
            numbers = (ledger.used(name, now), ledger.held(name), caps[0].amount)
            shown = [told(name, number) for number in numbers]
            lines.append(f"| {escape_markdown(called(name))} | {' | '.join(shown)} |")
        lines += [
            f"\nalert at {alert.at:%Y-%m-%d %H:%M} UTC: {money(alert.hour_usd)} in an "
            f"hour, threshold {money(alert.threshold_usd)}"
            for alert in reversed(self._alerts)
        ]
        workflow.set_current_details("\n".join(lines))
