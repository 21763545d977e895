"""Payloads of one agent call: its route, its attempts, their outcomes."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import Literal

from tierpool.blueprint import Reply
from tierpool.contracts.conversations import ConversationRef
from tierpool.contracts.wire import PartRef, Seconds, Usage, Usd, Wire

__all__ = [
    "AgentRequest",
    "AgentResult",
    "FailureDetail",
    "Message",
    "NextStep",
    "Outcome",
    "Route",
    "RouteAnswer",
    "RouteRequest",
]


class Route(Wire):
    """Where a call goes and why; recorded in history, obeyed by the workflow."""

    tier: str
    """Name of the tier; empty for tools without one."""
    model: str = ""
    """`provider:model`; empty for tools."""
    queue: str = ""
    """Task queue that the attempt is put on; empty in an attempt's input, which
    is on it."""
    reason: str = ""
    """A sentence for people: `fixed by role`, `rules: complexity 0.62`."""
    fallback: int = 0
    """0 for the tier's own model, n for its n-th fallback."""
    max_output_tokens: int = 0
    """Output that the budget pays for, where that is less than the tier's; else 0."""
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
    """Model and pool; what the worker obeys."""
    conversation: ConversationRef | None = None
    """Earlier messages of the conversation, which `messages` go on from."""
    messages: tuple[Message, ...] = ()
    """What the role reads, after its prompt. For tools one message of JSON. In a
    conversation, those of a later attempt are repairs, which do not stay in it."""
    prompt: PartRef | None = None
    """System prompt."""
    output: PartRef | None = None
    """JSON Schema of the reply; None for plain text."""
    max_output_tokens: int = 0
    """Upper bound of the reply; 0 for tools."""
    input_bytes: int = 0
    """What the reservation covers: the worker sends no more than this."""
    reserved_usd: Usd | None = None
    """Worst case of this attempt, taken from the workflow's budget; None for tools."""
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
    RESERVE = "reserve"
    """Reserve for the bytes that were counted, then try again."""
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
    admitted: bool = True
    """False if the worker could not start the attempt: that is no try at all."""
    limit: str = ""
    """What was not to be had of the fleet's limits: `usd`, `calls`, `requests:…`,
    `tokens:…`, or `lease` if the worker had none."""
    never: bool = False
    """The attempt is larger than the whole limit: waiting does not help."""
    about_input: bool = False
    """The input is too long for this model: that says nothing of other calls."""
    usage: Usage | None = None
    """Where the failed attempt was billed."""
    input_bytes: int = 0
    """Where the estimate was too low: the bytes that would have been sent."""

    @property
    def free(self) -> bool:
        """Whether nothing is owed."""
        return self.outcome is Outcome.UNBILLED
