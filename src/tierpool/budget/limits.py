"""The fleet-wide limits of a fleet file, as caps on resources."""

from __future__ import annotations

import math
import os
from datetime import timedelta

from tierpool.blueprint import RateLimit
from tierpool.budget.resources import nano
from tierpool.contracts.ledger import (
    CALLS,
    USD,
    Cap,
    FleetLimits,
    requests_of,
    tokens_of,
)
from tierpool.fleet import LoadedFleet

__all__ = ["HOUR_VARIABLE", "fleet_limits", "rate_caps"]

_MINUTE = 60.0
HOUR_VARIABLE = "TIERPOOL_LEDGER_HOUR_SECONDS"
"""Environment variable for tests and benchmarks: how long an hour is."""
_PACE_SECONDS = 6.0
_PACE_SHARE = 8
"""An eighth of a minute's amount in a tenth of it: enough to catch up, too little
to use the whole minute at once."""
_TOOL_TIMEOUT = timedelta(minutes=10)
_AFTER_THE_CALL = 15.0
"""Seconds that an attempt may take beyond the provider's time."""


def fleet_limits(fleet: LoadedFleet) -> FleetLimits:
    """Return what the ledger has to keep."""
    rules, tiers = fleet.fleet.guardrails, fleet.fleet.tiers
    caps: dict[str, tuple[Cap, ...]] = {}
    if rules.max_cost_per_hour_usd is not None:
        cap = nano(rules.max_cost_per_hour_usd)
        hour = float(os.environ.get(HOUR_VARIABLE) or 3600)
        caps[USD] = (Cap(amount=cap, seconds=hour, bucket=hour / 60),)
    if fleet.fleet.max_concurrent is not None:
        caps[CALLS] = (Cap(amount=fleet.fleet.max_concurrent),)
    for name, queues in fleet.queues.items():
        rates = [tiers[name].rate_limit, *(f.rate_limit for f in tiers[name].fallback)]
        for queue, rate in zip(queues, rates, strict=True):
            caps |= rate_caps(queue, rate)
    timeouts = [tier.timeout for tier in tiers.values()]
    timeouts += [r.timeout or _TOOL_TIMEOUT for r in fleet.fleet.agents.values()
                 if (r.timeout and r.type != "human") or r.run or r.call]  # fmt: skip
    return FleetLimits(
        caps=caps,
        alert_usd=rules.alert_threshold_usd,
        grace=max(timeouts).total_seconds() + _AFTER_THE_CALL,
    )


def rate_caps(what: str, rate: RateLimit | None) -> dict[str, tuple[Cap, ...]]:
    """Return the caps of a rate limit.

    Args:
        what: A task queue, or a role.
        rate: None: without limit.
    """
    if rate is None:
        return {}
    requests = _per_minute(rate.requests_per_minute)
    if rate.burst is not None:
        requests += (Cap(amount=rate.burst, seconds=1.0, bucket=0.1),)
    caps = {
        requests_of(what): requests,
        tokens_of(what): _per_minute(rate.tokens_per_minute),
    }
    return {name: some for name, some in caps.items() if some}


def _per_minute(amount: int | None) -> tuple[Cap, ...]:
    """Bound any minute; and any tenth of it, so that it is not used at once."""
    if amount is None:
        return ()
    pace = Cap(
        amount=math.ceil(amount / _PACE_SHARE),
        seconds=_PACE_SECONDS,
        bucket=0.5,
        paces=True,
    )
    return (Cap(amount=amount, seconds=_MINUTE, bucket=0.5), pace)
