"""Names of search attributes, metrics and log events, in one place."""

from __future__ import annotations

__all__ = [
    "ATTRIBUTE_COST_USD",
    "ATTRIBUTE_FLOW",
    "ATTRIBUTE_ROLE",
    "ATTRIBUTE_STATE",
    "ATTRIBUTE_TIER",
    "METRICS",
    "METRIC_COST_CALLS",
    "METRIC_COST_DENIED",
    "METRIC_COST_RESERVED",
    "METRIC_COST_SETTLED",
    "METRIC_COST_TOKENS",
    "METRIC_COST_TOP",
    "METRIC_HOUR_ALERTING",
    "METRIC_HOUR_CAP",
    "METRIC_HOUR_HELD",
    "METRIC_HOUR_SETTLED",
    "METRIC_LEASE_FREE",
    "METRIC_LEASE_REFUSED",
    "METRIC_LEASE_RENEWALS",
    "METRIC_LEASE_RESERVED",
    "METRIC_LEASE_TROUBLE",
    "METRIC_LEASE_VALID",
    "METRIC_POOL_ARRIVALS",
    "METRIC_POOL_BACKLOG",
    "METRIC_POOL_BACKLOG_AGE",
    "METRIC_POOL_BOUND",
    "METRIC_POOL_BUILT",
    "METRIC_POOL_CALLS",
    "METRIC_POOL_CALL_SECONDS",
    "METRIC_POOL_INSTANCES",
    "METRIC_POOL_LIMIT",
    "METRIC_POOL_TROUBLE",
    "METRIC_POOL_UTILISATION",
    "METRIC_PROCESSES",
    "METRIC_PROCESSES_ENDED",
    "METRIC_WORKER_CALLS",
    "METRIC_WORKER_INFO",
    "METRIC_WORKER_SILENT",
    "METRIC_WORKER_STATE",
    "SEARCH_ATTRIBUTES",
]

ATTRIBUTE_FLOW = "TierpoolFlow"
ATTRIBUTE_STATE = "TierpoolState"
ATTRIBUTE_ROLE = "TierpoolRole"
ATTRIBUTE_TIER = "TierpoolTier"
ATTRIBUTE_COST_USD = "TierpoolCostUsd"

SEARCH_ATTRIBUTES = {
    ATTRIBUTE_FLOW: "Keyword",
    ATTRIBUTE_STATE: "Keyword",
    ATTRIBUTE_ROLE: "Keyword",
    ATTRIBUTE_TIER: "Keyword",
    ATTRIBUTE_COST_USD: "Double",
}
"""Search attributes of a work item and their types. SQL visibility allows 10
Keyword and 3 Double in all: take no more."""

METRIC_PROCESSES = "tierpool_processes"
METRIC_PROCESSES_ENDED = "tierpool_processes_ended_total"
METRIC_WORKER_INFO = "tierpool_worker_info"
METRIC_WORKER_STATE = "tierpool_worker_state"
METRIC_WORKER_CALLS = "tierpool_worker_calls_total"
METRIC_WORKER_SILENT = "tierpool_worker_server_silence_seconds"
METRIC_POOL_INSTANCES = "tierpool_pool_instances"
METRIC_POOL_LIMIT = "tierpool_pool_instances_limit"
METRIC_POOL_UTILISATION = "tierpool_pool_utilisation_ratio"
METRIC_POOL_CALLS = "tierpool_pool_calls_total"
METRIC_POOL_CALL_SECONDS = "tierpool_pool_call_seconds"
METRIC_POOL_BUILT = "tierpool_pool_instances_built_total"
METRIC_POOL_BOUND = "tierpool_pool_bound"
METRIC_POOL_TROUBLE = "tierpool_pool_trouble"
METRIC_POOL_BACKLOG = "tierpool_pool_backlog"
METRIC_POOL_BACKLOG_AGE = "tierpool_pool_backlog_age_seconds"
METRIC_POOL_ARRIVALS = "tierpool_pool_arrivals_per_second"
METRIC_LEASE_VALID = "tierpool_lease_valid"
METRIC_LEASE_TROUBLE = "tierpool_lease_trouble"
METRIC_LEASE_RENEWALS = "tierpool_lease_renewals_total"
METRIC_LEASE_FREE = "tierpool_lease_free"
METRIC_LEASE_RESERVED = "tierpool_lease_reserved"
METRIC_LEASE_REFUSED = "tierpool_lease_refused_total"
METRIC_HOUR_SETTLED = "tierpool_hour_settled_usd"
METRIC_HOUR_HELD = "tierpool_hour_held_usd"
METRIC_HOUR_CAP = "tierpool_hour_cap_usd"
METRIC_HOUR_ALERTING = "tierpool_hour_alerting"
METRIC_COST_CALLS = "tierpool_cost_calls_total"
METRIC_COST_DENIED = "tierpool_cost_denied_total"
METRIC_COST_RESERVED = "tierpool_cost_reserved_usd_total"
METRIC_COST_SETTLED = "tierpool_cost_settled_usd_total"
METRIC_COST_TOKENS = "tierpool_cost_tokens_total"
METRIC_COST_TOP = "tierpool_cost_top_tier_usd_total"

METRICS = {
    METRIC_PROCESSES: "Worker processes of this machine by state.",
    METRIC_PROCESSES_ENDED: "Worker processes that have ended since the supervisor's start.",
    METRIC_WORKER_INFO: "Always 1; the labels describe the worker process.",
    METRIC_WORKER_STATE: "1 for the state that the worker process is in.",
    METRIC_WORKER_SILENT: "Time since the Temporal server answered the process.",
    METRIC_WORKER_CALLS: "Calls that have ended since the start, of all pools.",
    METRIC_POOL_INSTANCES: "Instances by state; each is in one state.",
    METRIC_POOL_LIMIT: "Instances allowed by now; 0 is a paused pool.",
    METRIC_POOL_UTILISATION: "Share of the capacity that was used within the last 5 minutes.",
    METRIC_POOL_CALLS: "Calls that have ended since the start, with a reply or without.",
    METRIC_POOL_CALL_SECONDS: "Duration of the calls that have ended.",
    METRIC_POOL_BUILT: "Instances built since the start.",
    METRIC_POOL_BOUND: "1 for what keeps the pool from making more calls.",
    METRIC_POOL_TROUBLE: "1 while no instance can be built; then nothing is polled.",
    METRIC_POOL_BACKLOG: "Tasks that wait in the whole fleet, approximate; every worker tells the same, so take the maximum.",
    METRIC_POOL_BACKLOG_AGE: "Age of the oldest task that waits in the whole fleet.",
    METRIC_POOL_ARRIVALS: "Tasks that arrive in the whole fleet, mean over 30 s.",
    METRIC_LEASE_VALID: "1 while limited calls may begin; an idle worker lets its lease run out.",
    METRIC_LEASE_TROUBLE: "1 while no lease can be had: nothing that is limited begins.",
    METRIC_LEASE_RENEWALS: "Renewals that the ledger has answered since the start.",
    METRIC_LEASE_FREE: "What calls may still take under the lease; USD for the resource usd.",
    METRIC_LEASE_RESERVED: "What calls under way hold of it; USD for the resource usd.",
    METRIC_LEASE_REFUSED: "Times that a call was sent back for want of a resource.",
    METRIC_HOUR_SETTLED: "Settled by the whole fleet in the rolling hour, as heard last; take the maximum.",
    METRIC_HOUR_HELD: "The same, and what is leased to workers.",
    METRIC_HOUR_CAP: "max_cost_per_hour_usd, if it is set.",
    METRIC_HOUR_ALERTING: "1 while the cost of the hour is above alert_threshold_usd.",
    METRIC_COST_CALLS: "Attempts by outcome: billed, unknown (charged the reservation), unbilled.",
    METRIC_COST_DENIED: "Times that a call was sent back by a limit.",
    METRIC_COST_RESERVED: "Reserved for attempts that have ended.",
    METRIC_COST_SETTLED: "What these attempts cost.",
    METRIC_COST_TOKENS: "Tokens of attempts whose usage is known, by kind: input, output.",
    METRIC_COST_TOP: "What the same tokens would cost on the highest tier.",
}
"""Metrics of a worker process in Prometheus, and what each of them says."""
