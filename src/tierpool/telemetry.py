"""Names of search attributes, metrics and spans, in one place.

What concerns a single model call follows OpenTelemetry's conventions for
generative AI; everything else is called `tierpool_…`.
"""

from __future__ import annotations

__all__ = [
    "ATTRIBUTE_COST_USD",
    "ATTRIBUTE_FLOW",
    "ATTRIBUTE_ROLE",
    "ATTRIBUTE_STATE",
    "ATTRIBUTE_TIER",
    "AUTOSCALER_METRICS",
    "ERROR_TYPE",
    "GENAI_AGENT_NAME",
    "GENAI_CACHE_CREATION_TOKENS",
    "GENAI_CACHE_READ_TOKENS",
    "GENAI_DURATION",
    "GENAI_FINISH_REASONS",
    "GENAI_INPUT_TOKENS",
    "GENAI_MAX_TOKENS",
    "GENAI_OPERATION",
    "GENAI_OUTPUT_TOKENS",
    "GENAI_OUTPUT_TYPE",
    "GENAI_PROVIDER",
    "GENAI_REASONING_TOKENS",
    "GENAI_REQUEST_MODEL",
    "GENAI_RESPONSE_MODEL",
    "GENAI_TEMPERATURE",
    "GENAI_TOKENS",
    "GENAI_TOKEN_TYPE",
    "HISTOGRAM_BUCKETS",
    "METERED",
    "METRICS",
    "METRIC_AUTOSCALER_LEADS",
    "METRIC_AUTOSCALER_TROUBLE",
    "METRIC_COST_CALLS",
    "METRIC_COST_DENIED",
    "METRIC_COST_RESERVED",
    "METRIC_COST_SETTLED",
    "METRIC_COST_TOKENS",
    "METRIC_COST_TOP",
    "METRIC_DENIED_CALLS",
    "METRIC_DESIRED",
    "METRIC_DESIRED_WORKERS",
    "METRIC_GENAI_DURATION",
    "METRIC_GENAI_TOKENS",
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
    "METRIC_POOL_WAIT_TARGET",
    "METRIC_PROCESSES",
    "METRIC_PROCESSES_ENDED",
    "METRIC_ROUTED_CALLS",
    "METRIC_WORKER_CALLS",
    "METRIC_WORKER_INFO",
    "METRIC_WORKER_SILENT",
    "METRIC_WORKER_STATE",
    "ROUTE_ASKED",
    "ROUTE_CLASSIFIED",
    "ROUTE_DOWNGRADED",
    "ROUTE_ESCALATED",
    "ROUTE_FAILOVER",
    "ROUTE_FIXED",
    "ROUTE_SAFE_DEFAULT",
    "SEARCH_ATTRIBUTES",
    "SERVER_ADDRESS",
    "SERVER_PORT",
    "SPAN_ATTEMPT",
    "SPAN_OUTCOME",
    "SPAN_TIER",
    "in_prometheus",
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
METRIC_POOL_WAIT_TARGET = "tierpool_pool_wait_target_seconds"
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
    METRIC_POOL_WAIT_TARGET: "Wait within which 95 of 100 calls should begin: wait_target_secs.",
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

METRIC_DESIRED = "tierpool_desired_instances"
METRIC_DESIRED_WORKERS = "tierpool_desired_workers"
METRIC_AUTOSCALER_LEADS = "tierpool_autoscaler_leads"
METRIC_AUTOSCALER_TROUBLE = "tierpool_autoscaler_trouble"

AUTOSCALER_METRICS = {
    METRIC_DESIRED: "Instances that the pool should have, by what decided on the number.",
    METRIC_DESIRED_WORKERS: "Worker processes that have so many.",
    METRIC_AUTOSCALER_LEADS: "1 for the autoscaler of the fleet that leads.",
    METRIC_AUTOSCALER_TROUBLE: "1 while it cannot see the fleet, or its target refuses.",
}
"""Metrics of `tierpool autoscale`; labels fleet, and of a pool also pool and constraint."""

# Source: OpenTelemetry semantic conventions for generative AI, as in the package
# opentelemetry-semantic-conventions 0.66b2 (schema 1.44.0), as of 2026-11-22.
# Their status is "development": names may still change, and then change here only.
GENAI_DURATION = "gen_ai.client.operation.duration"
GENAI_TOKENS = "gen_ai.client.token.usage"
GENAI_OPERATION = "gen_ai.operation.name"
GENAI_PROVIDER = "gen_ai.provider.name"
GENAI_AGENT_NAME = "gen_ai.agent.name"
GENAI_OUTPUT_TYPE = "gen_ai.output.type"
GENAI_REQUEST_MODEL = "gen_ai.request.model"
GENAI_MAX_TOKENS = "gen_ai.request.max_tokens"
GENAI_TEMPERATURE = "gen_ai.request.temperature"
GENAI_RESPONSE_MODEL = "gen_ai.response.model"
GENAI_FINISH_REASONS = "gen_ai.response.finish_reasons"
GENAI_INPUT_TOKENS = "gen_ai.usage.input_tokens"
GENAI_OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
GENAI_CACHE_READ_TOKENS = "gen_ai.usage.cache_read.input_tokens"
GENAI_CACHE_CREATION_TOKENS = "gen_ai.usage.cache_creation.input_tokens"
GENAI_REASONING_TOKENS = "gen_ai.usage.reasoning.output_tokens"
GENAI_TOKEN_TYPE = "gen_ai.token.type"
ERROR_TYPE = "error.type"
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"

SPAN_TIER = "tierpool.tier"
SPAN_ATTEMPT = "tierpool.attempt"
SPAN_OUTCOME = "tierpool.outcome"
"""Attributes of a model call that the conventions have no name for."""

ROUTE_FIXED = "fixed"
ROUTE_ASKED = "asked"
ROUTE_CLASSIFIED = "classified"
ROUTE_SAFE_DEFAULT = "safe_default"
ROUTE_ESCALATED = "escalated"
ROUTE_DOWNGRADED = "downgraded"
ROUTE_FAILOVER = "failover"
"""Values of the label `reason` of a routed call; a route's own reason is a text."""


def in_prometheus(name: str) -> str:
    """Return a convention's name as Prometheus takes it: the SDK's exporter refuses dots."""
    return name.replace(".", "_")


METRIC_GENAI_DURATION = f"{in_prometheus(GENAI_DURATION)}_seconds"
METRIC_GENAI_TOKENS = in_prometheus(GENAI_TOKENS)
METRIC_ROUTED_CALLS = "tierpool_routed_calls_total"
METRIC_DENIED_CALLS = "tierpool_denied_calls_total"

METERED = {
    METRIC_GENAI_DURATION: "Duration of model calls, the failed ones included.",
    METRIC_GENAI_TOKENS: "Tokens of model calls whose usage is known, by gen_ai_token_type.",
    METRIC_ROUTED_CALLS: "Decisions on a call's tier and model, by reason.",
    METRIC_DENIED_CALLS: "Calls that ended because a budget does not pay for them, by limit.",
}
"""Metrics that calls make with Temporal's own meter, where a call is routed or
its attempt is made. They go wherever the SDK's metrics go."""

HISTOGRAM_BUCKETS = {
    in_prometheus(GENAI_DURATION): tuple(0.01 * 2**n for n in range(14)),
    in_prometheus(GENAI_TOKENS): tuple(float(4**n) for n in range(14)),
}
"""Upper bounds that the conventions advise, by the name on the meter: 0.01 to
81.92 s, 1 to 67,108,864 tokens."""
