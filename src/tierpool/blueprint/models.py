"""Frozen configuration models: tiers, prices, pools, roles and guardrails.

Only shapes and checks that need no other part of the file live here; checks
across parts (a role's tier exists, a price is known) are in `config`. Keys are
those of agents.yaml.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    model_validator,
)

from tierpool.blueprint.values import (
    BaseUrl,
    Budget,
    Duration,
    EnvName,
    ModelRef,
    Money,
    Name,
)

__all__ = [
    "CLASSIFIER_ROLE",
    "MOST_INSTANCES",
    "MOST_WORKERS",
    "RESERVED_TIERS",
    "AgentType",
    "Blueprint",
    "ConfigModel",
    "Fallback",
    "Guardrails",
    "LongContextPrice",
    "PoolSpec",
    "Price",
    "RateLimit",
    "Reply",
    "Scaling",
    "Tier",
    "TierPolicy",
    "queue_name",
    "tier_index",
]

AgentType = Literal["llm", "command", "python", "human"]

Reply: TypeAlias = dict[str, JsonValue]
"""A role's reply; a reply in plain text is `{"text": …}`."""

MOST_INSTANCES = 10_000
"""Of one pool in one worker process."""
MOST_WORKERS = 1_000

RESERVED_TIERS = frozenset({"flows", "control", "tools"})
"""Queue names that are not tiers."""

CLASSIFIER_ROLE = "classifier"
"""Names the attempts of the LLM classifier; no role may be called so."""


class ConfigModel(BaseModel):
    """A part of agents.yaml: immutable, and unknown keys are errors."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True
    )


def _unique(values: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(values)) != len(values):
        raise ValueError("a name stands twice in the list")
    return values


class LongContextPrice(ConfigModel):
    """Prices of the whole call once its input passes a limit."""

    above_input_tokens: Annotated[int, Field(gt=0)]
    """The prices hold when the call has more input tokens than this."""
    input_usd_per_mtok: Money
    """USD per million input tokens."""
    cached_input_usd_per_mtok: Money | None = None
    """USD per million input tokens read from the provider's cache."""
    cache_write_usd_per_mtok: Money | None = None
    """USD per million input tokens written to the provider's cache."""
    output_usd_per_mtok: Money
    """USD per million output tokens, reasoning included."""


class Price(ConfigModel):
    """USD per million tokens of one model, with its source and date."""

    input_usd_per_mtok: Money
    """USD per million input tokens."""
    cached_input_usd_per_mtok: Money | None = None
    """USD per million input tokens read from the cache; default: the input price."""
    cache_write_usd_per_mtok: Money | None = None
    """USD per million input tokens written to the cache; default: the input price."""
    output_usd_per_mtok: Money
    """USD per million output tokens, reasoning included."""
    long_context: tuple[LongContextPrice, ...] = ()
    """Prices of the whole call above a number of input tokens, ascending."""
    source: Annotated[str, Field(max_length=200)] = "agents.yaml"
    """Where the numbers come from."""
    as_of: Annotated[str, Field(max_length=40)] = ""
    """The day on which they were true."""


class RateLimit(ConfigModel):
    """What a provider account, or a role, may use."""

    requests_per_minute: Annotated[int, Field(gt=0, le=10_000_000)] | None = None
    """Requests in any minute."""
    tokens_per_minute: Annotated[int, Field(gt=0, le=10_000_000_000)] | None = None
    """Input and output tokens in any minute."""
    burst: Annotated[int, Field(gt=0, le=10_000_000)] | None = None
    """Requests that may start at once."""


class Scaling(ConfigModel):
    """How an autoscaler sizes a pool over all its worker processes."""

    policy: Literal["predictive", "threshold", "utilisation", "fixed"] = "predictive"
    """What decides; `fixed` keeps `min_workers`."""
    min_workers: Annotated[int, Field(ge=1, le=MOST_WORKERS)] = 1
    """Worker processes that there are at least."""
    max_workers: Annotated[int, Field(ge=1, le=MOST_WORKERS)] = 4
    """Worker processes that there are at most."""
    wait_target_secs: Annotated[float, Field(gt=0, le=86_400)] = 5.0
    """95 of 100 calls should begin within so many seconds."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_workers > self.max_workers:
            raise ValueError(
                f"min_workers {self.min_workers} is above "
                f"max_workers {self.max_workers}"
            )
        return self


class PoolSpec(ConfigModel):
    """How many instances of a tier one worker process holds."""

    min_instances: Annotated[int, Field(ge=0, le=MOST_INSTANCES)] = 1
    """Instances kept ready."""
    max_instances: Annotated[int, Field(ge=0, le=MOST_INSTANCES)] = 8
    """Agent calls that one worker process runs at a time; 0 pauses the pool."""
    scale_up_threshold: Annotated[int, Field(ge=1, le=1_000_000)] = 4
    """Backlog above which a supervisor starts one more worker process."""
    scale_down_idle_secs: Annotated[int, Field(ge=1, le=86_400)] = 300
    """Seconds without work after which an instance above the minimum goes."""
    max_requests_per_agent: Annotated[int, Field(ge=1, le=1_000_000_000)] = 1000
    """Calls after which an instance is replaced."""
    scaling: Scaling = Scaling()
    """Of all worker processes together, by `tierpool autoscale`."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_instances > self.max_instances:
            raise ValueError(
                f"min_instances {self.min_instances} is above "
                f"max_instances {self.max_instances}"
            )
        return self


class _Model(ConfigModel):
    """What a tier's own model and each of its fallbacks have in common."""

    model: ModelRef
    """`provider:model`, such as `openai:gpt-5-nano`."""
    base_url: BaseUrl | None = None
    """Another address that speaks the provider's wire format."""
    api_key_env: EnvName | None = None
    """Name of the environment variable with the key; default: the provider's own."""
    price: Price | None = None
    """Overrides the bundled price; needed where that does not know the model."""
    free: bool = False
    """This model costs nothing; needed for a price of 0."""
    rate_limit: RateLimit | None = None
    """What the provider allows for this model."""


class Fallback(_Model):
    """Another model of the same tier, used while the first is unavailable."""


class Tier(_Model):
    """An ordered class of capability and cost; owns one task queue."""

    fallback: tuple[Fallback, ...] = ()
    """Models to fail over to, in order."""
    max_output_tokens: Annotated[int, Field(gt=0, le=1_000_000)] = 2048
    """Upper bound of a reply, reasoning included; a role may ask for less."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """Sampling temperature; default: the provider's."""
    timeout: Duration = timedelta(minutes=5)
    """How long one attempt may take."""
    failover_after: Duration = timedelta(minutes=10)
    """How long an attempt may wait in the queue while there is a fallback."""
    pool: PoolSpec = PoolSpec()
    """Size of the pool."""


class TierPolicy(ConfigModel):
    """Which tiers a role may use: a fixed one, or a range for the classifier."""

    fixed: Name | None = None
    """Always this tier; nothing is classified."""
    min: Name | None = None
    """No tier below this one."""
    max: Name | None = None
    """No tier above this one."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        if value == "auto":
            return {}
        return {"fixed": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.fixed and (self.min or self.max):
            raise ValueError("a fixed tier has neither min nor max")
        return self


class Blueprint(ConfigModel):
    """How a role is filled."""

    type: AgentType = "llm"
    """llm, command (a subprocess), python (an async callable) or human."""
    description: Annotated[str, Field(max_length=500)] = ""
    """What the role is for; shown by `check`."""
    prompt: str | None = None
    """Path of the prompt, relative to agents.yaml; text with a line break is the prompt itself."""
    tier: TierPolicy = TierPolicy()
    """`auto`, a tier's name, or `{min: …, max: …}`."""
    classifier: Literal["rules", "llm"] = "rules"
    """What estimates complexity: rules, or in doubt also a call on the cheapest tier."""
    max_instances: Annotated[int, Field(ge=0, le=100_000)] | None = None
    """Instances of this role in flight in the whole fleet; 0 pauses the role."""
    rate_limit: RateLimit | None = None
    """What this role may use of the provider, whole fleet."""
    output: dict[str, JsonValue] | str | None = None
    """Short form of a JSON Schema, or the path of a schema, or `module:Model`."""
    conversation: bool = False
    """Keep the messages per (item, role) over visits."""
    max_output_tokens: Annotated[int, Field(gt=0, le=1_000_000)] | None = None
    """Upper bound of this role's replies; default: the tier's."""
    timeout: Duration | None = None
    """How long one attempt may take; default: the tier's, or 10 minutes."""
    max_attempts: Annotated[int, Field(ge=1, le=20)] = 5
    """Attempts of one call in all, waits for the provider included."""
    run: tuple[Annotated[str, Field(min_length=1)], ...] | None = None
    """command: the program and its arguments; no shell."""
    pass_env: Annotated[tuple[EnvName, ...], AfterValidator(_unique)] = ()
    """command: variables that it gets besides PATH, HOME, LANG and the like."""
    call: Annotated[str, Field(pattern=r"^[\w.]+:[\w.]+$")] | None = None
    """python: `module:function`, an async callable."""

    @model_validator(mode="after")
    def _fits_type(self) -> Self:
        needed = {"llm": "prompt", "command": "run", "python": "call"}
        for kind, key in needed.items():
            given = getattr(self, key) is not None
            if kind == self.type and not given:
                raise ValueError(f"a role of type {kind} needs `{key}`")
            if kind != self.type and given:
                raise ValueError(f"`{key}` belongs to type {kind}, not {self.type}")
        if self.type == "human" and self.tier != TierPolicy():
            raise ValueError("a human role has no tier")
        if self.type != "llm" and (self.tier.min or self.tier.max):
            raise ValueError(f"a {self.type} role has a fixed tier or none")
        return self


class Guardrails(ConfigModel):
    """Limits of spending for the whole fleet."""

    max_cost_per_workflow_usd: Budget | None = None
    """What one work item may cost, children included."""
    max_cost_per_hour_usd: Budget | None = None
    """What the fleet may cost in any 60 minutes."""
    alert_threshold_usd: Budget | None = None
    """Hourly cost at which an alert is raised."""
    alert_webhook: BaseUrl | None = None
    """Address that gets the alert as JSON."""
    on_exhausted: Literal["wait", "downgrade", "fail"] = "wait"
    """What happens to a call for which no money is left."""
    wait_for_raise: Duration | None = None
    """How long an item waits for `raise_budget` before it fails."""

    @model_validator(mode="after")
    def _alert_below_cap(self) -> Self:
        alert, cap = self.alert_threshold_usd, self.max_cost_per_hour_usd
        if alert is not None and cap is not None and alert > cap:
            raise ValueError(
                f"alert_threshold_usd {alert} is above max_cost_per_hour_usd {cap}: "
                "it would never fire"
            )
        return self


def queue_name(fleet: str, tier: str, fallback: int = 0) -> str:
    """Name the task queue of a tier; `fallback` counts from 1, 0 is the tier's own."""
    return f"{fleet}-{tier}" + (f"--{fallback}" if fallback else "")


def tier_index(tiers: Mapping[str, Any], name: str) -> int:
    """Return the position of a tier, cheapest first."""
    return list(tiers).index(name)
