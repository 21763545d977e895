"""Payloads that cross the wire between workflows, activities and clients.

Compatible for good: only optional fields are added, unknown ones are ignored,
and fields at their default are left out, which keeps histories small. No
secret may ever stand in one of these.
"""

from __future__ import annotations

import hashlib
from datetime import timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from tierpool.blueprint import Reply

__all__ = [
    "FLEET_ATTRIBUTE",
    "FLEET_HEADER",
    "AgentRequest",
    "AgentResult",
    "Attempt",
    "FailureDetail",
    "FlowResult",
    "FlowStart",
    "HumanDecision",
    "ItemCosts",
    "ItemStatus",
    "Message",
    "NextStep",
    "Outcome",
    "PartChunk",
    "PartRef",
    "PartRequest",
    "Route",
    "RouteAnswer",
    "RouteRequest",
    "ToolRequest",
    "Usage",
    "WorkItem",
]

FLEET_ATTRIBUTE = "_tierpool_fleet"
"""Where a user's workflow instance keeps its packed FleetSnapshot."""
FLEET_HEADER = "tierpool-fleet"
"""Header that hands the snapshot to the next run at continue-as-new."""

Seconds = Annotated[
    timedelta, PlainSerializer(timedelta.total_seconds, return_type=float)
]
Usd = Annotated[Decimal, PlainSerializer(str, return_type=str)]


class Wire(BaseModel):
    """Base of every payload: immutable, tolerant of fields it does not know."""

    model_config = ConfigDict(
        frozen=True, extra="ignore", use_attribute_docstrings=True
    )

    @model_serializer(mode="wrap")
    def _leave_out_defaults(
        self, handler: SerializerFunctionWrapHandler
    ) -> dict[str, Any]:
        fields = type(self).model_fields
        return {
            name: value
            for name, value in handler(self).items()
            if getattr(self, name)
            != fields[name].get_default(call_default_factory=True)
        }


class WorkItem(Wire):
    """What a flow moves; its ID is its identity everywhere."""

    id: Annotated[str, Field(min_length=1, max_length=200)]
    """Workflow ID of the item, unique in the Temporal namespace."""
    title: Annotated[str, Field(max_length=200)] = ""
    """One line; the summary in the Web UI."""
    text: str = ""
    """What the roles read."""
    data: dict[str, JsonValue] = {}
    """Anything else, as a JSON object."""


class Usage(Wire):
    """Tokens of one attempt, in one meaning for every provider."""

    input_tokens: Annotated[int, Field(ge=0)] = 0
    """All input, cached tokens included."""
    cached_input_tokens: Annotated[int, Field(ge=0)] = 0
    """Input read from the provider's cache; part of `input_tokens`."""
    cache_write_tokens: Annotated[int, Field(ge=0)] = 0
    """Input written to the provider's cache; part of `input_tokens`."""
    output_tokens: Annotated[int, Field(ge=0)] = 0
    """All output, reasoning included."""
    reasoning_tokens: Annotated[int, Field(ge=0)] = 0
    """Reasoning; part of `output_tokens`."""

    def __add__(self, other: Usage) -> Usage:
        """Add field by field."""
        return Usage(
            **{
                name: getattr(self, name) + getattr(other, name)
                for name in Usage.model_fields
            }
        )


class Route(Wire):
    """Where a call goes and why; recorded in history, obeyed by the workflow."""

    tier: str
    """Name of the tier; empty for tools without one."""
    model: str = ""
    """`provider:model`; empty for tools."""
    queue: str
    """Task queue that the attempt is put on."""
    reason: str
    """A sentence for people: `fixed by role`, `rules: complexity 0.62`."""
    fallback: int = 0
    """0 for the tier's own model, n for its n-th fallback."""
    classifier: str = ""
    """Name and version of what estimated the complexity; empty if nothing did."""
    complexity: float | None = None
    """0 to 1, if something estimated it."""
    scores: dict[str, float] = {}
    """Features and their values, for explanation."""


class RouteRequest(Wire):
    """Input of the route activity (local: it is not written to history)."""

    role: str
    """Role that is called."""
    fleet: str
    """Packed FleetSnapshot of the run."""
    text: str = ""
    """What the role will read."""
    wanted: str | None = None
    """Tier that the caller asks for; goes before the role's policy only within it."""
    above: str | None = None
    """Escalation: a tier above this one, or none."""
    why: str = ""
    """Reason of the escalation, for the Route's reason."""
    classified: Literal["NANO", "STANDARD", "PREMIUM"] | None = None
    """What the LLM classifier answered."""
    classifier_failed: str = ""
    """Why the LLM classifier has no answer; then the rules decide alone."""


class RouteAnswer(Wire):
    """Output of the route activity."""

    route: Route | None = None
    """None if there is no tier above, or the LLM classifier has to be asked."""
    refused: str = ""
    """Why the policy refuses what was asked for: a tier outside the role's range."""
    ask: Route | None = None
    """Where the LLM classifier runs, if it has to be asked (`needs_classifier`)."""
    ask_prompt: str = ""
    """System prompt of the LLM classifier."""
    ask_schema: str = ""
    """JSON Schema of its reply; the label stands under the key `tier`."""
    ask_text: str = ""
    """What it reads: the text to be judged, quoted as data and shortened."""


class PartRef(Wire):
    """A text by its hash: the worker has it in its cache or asks the item."""

    hash: str
    """SHA-256 of the UTF-8 text, hexadecimal."""
    bytes: int
    """Length of the UTF-8 text."""

    @staticmethod
    def of(text: str) -> PartRef:
        """Refer to a text."""
        raw = text.encode()
        return PartRef(hash=hashlib.sha256(raw).hexdigest(), bytes=len(raw))


class PartRequest(Wire):
    """Asks an item for a piece of one of its texts."""

    hash: str
    offset: int = 0
    """In characters."""


class PartChunk(Wire):
    """A piece of a text; `more` tells whether to ask again."""

    text: str
    more: bool = False


class Message(Wire):
    """One message of a conversation, inline or by reference."""

    role: Literal["user", "assistant"]
    text: str | None = None
    part: PartRef | None = None


class AgentRequest(Wire):
    """Input of one attempt: one activity, one payment."""

    role: str
    """Role that runs; also the activity's type."""
    item_id: str
    """Work item, or ID of the user's own workflow."""
    route: Route
    """Where it runs; the worker checks that it serves this model."""
    messages: tuple[Message, ...] = ()
    """What the role reads, after its prompt. For tools one message of JSON."""
    prompt: PartRef | None = None
    """System prompt."""
    output: PartRef | None = None
    """JSON Schema of the reply; None for plain text."""
    max_output_tokens: int = 0
    """Upper bound of the reply; 0 for tools."""
    temperature: float | None = None
    base_url: str | None = None
    api_key_env: str | None = None
    """Name of the variable that holds the key; never the key."""
    timeout: Seconds = timedelta(minutes=5)
    """Time that the provider or the tool has."""
    attempt: int = 1
    """Counts the attempts of this call, from 1."""
    run: tuple[str, ...] = ()
    """command: program and arguments."""
    pass_env: tuple[str, ...] = ()
    call: str = ""
    """python: `module:function`."""


class ToolRequest(Wire):
    """What a command or python role gets: on stdin as JSON, or as its argument."""

    item: WorkItem | None = None
    """The work item that is moved; None in a call outside a flow."""
    last_reply: dict[str, JsonValue] = {}
    """Reply of the role before it in the flow; empty if there is none."""
    input: JsonValue = None
    """What `call_agent` was given besides, if anything."""
    role: str = ""
    """Name of the role that runs."""


class AgentResult(Wire):
    """Output of one attempt that the provider or tool answered."""

    reply: Reply | None = None
    """The validated reply; `{"text": …}` where no schema was asked for."""
    problem: str = ""
    """Why the answer is not a valid reply: not JSON, cut off, breaks its schema."""
    text: str = ""
    """The answer as it came, if it is not a valid reply; shortened."""
    usage: Usage | None = None
    """None if the provider reported none."""
    finish_reason: str = ""
    """Why the model stopped: stop, length, content_filter, …"""
    model: str = ""
    """What the provider says answered."""


class Outcome(StrEnum):
    """What an attempt cost."""

    UNBILLED = "unbilled"
    """Refused before work: nothing is owed."""
    BILLED = "billed"
    """The usage is known and owed."""
    AMBIGUOUS = "ambiguous"
    """Work may have been done: the worst case is owed until known better."""


class NextStep(StrEnum):
    """What a failed attempt asks for."""

    RETRY = "retry"
    """Wait (as long as the provider says), then try again."""
    REPAIR = "repair"
    """Send the reply back with what is wrong with it."""
    ESCALATE = "escalate"
    """Try the next tier."""
    FAILOVER = "failover"
    """Try another model of the same tier."""
    FAIL = "fail"
    """Trying again cannot help."""


class FailureDetail(Wire):
    """First detail of the ApplicationError of a failed attempt."""

    outcome: Outcome
    next: NextStep
    message: str
    """What happened, without secrets, prompts and replies."""
    provider: str = ""
    status: int = 0
    """HTTP status, if there was one."""
    retry_after: Seconds | None = None
    """The provider's hint."""
    usage: Usage | None = None
    """Where the failed attempt was billed."""


class Attempt(Wire):
    """One attempt as the item records it."""

    state: str = ""
    role: str
    tier: str = ""
    model: str = ""
    reason: str = ""
    """The Route's reason."""
    outcome: Outcome = Outcome.BILLED
    usage: Usage | None = None
    cost_usd: Usd | None = None
    """None while unknown; never zero for want of knowledge."""
    note: str = ""
    """Why it failed, if it did."""


class FlowStart(Wire):
    """Input of a flow: the item and everything that will be true for it."""

    flow: str
    """Name of the flow; also the workflow type."""
    item: WorkItem
    fleet: str
    """Packed FleetSnapshot, this flow included."""
    carried: FlowCarry | None = None
    """What an earlier run of the same item hands over (continue-as-new)."""


class FlowCarry(Wire):
    """State of an item between two runs of its workflow."""

    state: str
    last_reply: Reply = {}
    taken: dict[str, int] = {}
    attempts: tuple[Attempt, ...] = ()
    path: tuple[str, ...] = ()
    """States in the order of visits."""
    paused: bool = False


class FlowResult(Wire):
    """How a work item ended."""

    item_id: str
    state: str
    """The terminal state."""
    reason: str = ""
    """Why, for `failed` and `cancelled`."""
    reply: Reply = {}
    """The last reply."""
    calls: int = 0
    """Attempts made."""
    usage: Usage = Usage()
    cost_usd: Usd = Decimal(0)
    """Sum of the known costs."""
    unknown_cost_calls: int = 0
    """Attempts whose cost is not known (nobody reported usage)."""
    path: tuple[str, ...] = ()
    """States in the order of visits."""


class ItemStatus(Wire):
    """Answer of the `status` query."""

    item_id: str
    flow: str
    state: str
    reason: str = ""
    """Why the item ended there, or what it waits for."""
    role: str = ""
    """Role at work."""
    tier: str = ""
    paused: bool = False
    terminal: bool = False
    waiting_for: str = ""
    """Name of the human role whose decision is awaited."""
    calls: int = 0
    cost_usd: Usd = Decimal(0)


class ItemCosts(Wire):
    """Answer of the `costs` query."""

    item_id: str
    cost_usd: Usd = Decimal(0)
    unknown_cost_calls: int = 0
    usage: Usage = Usage()
    attempts: tuple[Attempt, ...] = ()


class HumanDecision(Wire):
    """Argument of the `decide` update: a human role's reply."""

    reply: Reply
    role: str | None = None
    """Human role that decides; may be left out while only one waits."""
    by: str = ""
    """Who decided; kept in history."""


FlowStart.model_rebuild()
