"""Tells people that the cost of the hour has crossed the alert threshold."""

from __future__ import annotations

import httpx2
import structlog
from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from tierpool.activities.providers.http import http_client
from tierpool.budget.resources import nano, told
from tierpool.contracts.ledger import USD, Alert
from tierpool.fleet import LoadedFleet

__all__ = ["AlertActivities"]

_TIMEOUT_SECONDS = 10.0

_log = structlog.get_logger()


class AlertActivities:
    """Sends alerts where the file of this process says."""

    def __init__(self, fleet: LoadedFleet) -> None:
        """Take the fleet; the address may be a secret and stays in this process."""
        self._address = fleet.fleet.guardrails.alert_webhook

    @activity.defn(name="tierpool_alert")
    async def tell(self, alert: Alert) -> None:
        """Log an alert and post it to the webhook.

        Raises:
            ApplicationError: if the webhook does not take it; to be tried again.
        """
        first = activity.info().attempt == 1
        if first:
            _log.warning(
                "guardrail.alert",
                hour_usd=str(alert.hour_usd),
                threshold_usd=str(alert.threshold_usd),
                cap_usd=str(alert.cap_usd) if alert.cap_usd is not None else None,
                alert=alert.id,
            )
        if self._address is None:
            return
        try:
            async with http_client(self._address, httpx2.AsyncClient) as client:
                answer = await client.post(
                    self._address, json=_body(alert), timeout=_TIMEOUT_SECONDS
                )
        except httpx2.HTTPError as error:
            # neither the text nor the cause: both may name the address
            raise _untold(type(error).__name__) from None
        if answer.status_code >= 300:
            raise _untold(f"HTTP {answer.status_code}")


def _body(alert: Alert) -> dict[str, object]:
    """Write an alert as JSON; `text` is what chat programs show."""
    cap = (
        f" (cap {told(USD, nano(alert.cap_usd))})" if alert.cap_usd is not None else ""
    )
    text = (
        f"tierpool fleet {alert.fleet}: {told(USD, nano(alert.hour_usd))} in the last hour, which "
        f"reaches the alert threshold of {told(USD, nano(alert.threshold_usd))}{cap}"
    )
    return {
        "text": text,
        **alert.whole(),
        "at": alert.at.isoformat(),
        "hour_usd": str(alert.hour_usd),
        "threshold_usd": str(alert.threshold_usd),
        "cap_usd": str(alert.cap_usd) if alert.cap_usd is not None else None,
    }


def _untold(why: str) -> ApplicationError:
    return ApplicationError(
        f"the webhook did not take the alert: {why}",
        type="AlertUntold",
        category=ApplicationErrorCategory.BENIGN,  # it is tried again: no trace in logs
    )
