"""What an agent call sends: its messages, their size, and the request itself.

Each text stands in history once; what is sent again goes by reference.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from tierpool.budget.estimate import Quote
from tierpool.contracts import (
    AgentRequest,
    ConversationRef,
    Message,
    PartRef,
    Route,
    Speaker,
)
from tierpool.fleet import FleetSnapshot, RoleSnapshot
from tierpool.workflows.account import quote_of
from tierpool.workflows.output import Output, schema_of
from tierpool.workflows.render import invalid_reply
from tierpool.workflows.run import RunState
from tierpool.workflows.threads import Thread, size_of

__all__ = ["INLINE_BYTES", "Draft"]

INLINE_BYTES = 32 * 1024
"""Messages up to this size stand in the activity's input; others go by hash."""

_REFER_BYTES = 256
"""From the second attempt on, texts above this size go by hash."""
_TOOL_TIMEOUT = timedelta(minutes=10)


@dataclass
class Draft:
    """The messages of one call, and its attempts' requests."""

    run: RunState
    snapshot: FleetSnapshot
    role: str
    output: Output
    messages: list[tuple[Speaker, str]]
    """What is new to the model."""
    thread: Thread | None = None
    """The conversation that `messages` are the end of."""
    kept: list[PartRef] = field(default_factory=list)
    """Texts that activities may ask for until the call ends."""
    repairs: list[tuple[Speaker, str]] = field(default_factory=list)
    """Invalid replies and what is wrong with them."""
    more_bytes: int = 0
    """By how much the estimate was too low when a worker counted."""
    _sent: bool = False

    def __post_init__(self) -> None:
        self.spec: RoleSnapshot = self.snapshot.role(self.role)
        for _, text in self.messages:
            size_of(text, f"the input of the role {self.role!r}")
        self.schema = self._schema()
        self.whole = self.thread.ref() if self.thread else None
        self.seen = self.thread.seen() if self.thread else None

    def repair(self, text: str, problem: str) -> None:
        """Send an invalid reply back with what is wrong with it."""
        self.repairs.append(("assistant", text or "(no text)"))
        self.repairs.append(("user", invalid_reply(problem)))

    def _schema(self) -> PartRef | None:
        if self.output is None:
            return self.spec.output
        schema = schema_of(self.output)
        return self._keep(schema) if schema else None

    def _keep(self, text: str) -> PartRef:
        ref = self.run.keep(text)
        self.kept.append(ref)
        return ref

    def quote(self, route: Route) -> Quote:
        """Say what an attempt on a route may use, and what that costs at most."""
        texts = [len(t.encode(errors="surrogatepass")) for _, t in self.repairs]
        if self.whole is not None:
            texts += [self.whole.bytes, *[0] * (self.whole.length - 1)]
        else:
            texts += [len(t.encode(errors="surrogatepass")) for _, t in self.messages]
        texts.append(self.spec.prompt.bytes if self.spec.prompt else 0)
        limit = self._limit(route)
        quote = quote_of(self.snapshot, route, texts, self.schema, limit)
        return replace(quote, input_bytes=quote.input_bytes + self.more_bytes)

    def _limit(self, route: Route) -> int:
        """Return the output tokens that the role may have on a tier."""
        limit = self.snapshot.tiers[route.tier].max_output_tokens
        return min(self.spec.max_output_tokens or limit, limit)

    def request(self, route: Route, attempt: int) -> AgentRequest:
        """Write the request of an attempt; its number counts from 1."""
        conversation, messages = self._wire_messages()
        self._sent = True
        shared: dict[str, Any] = {
            "role": self.role,
            "item_id": self.run.item_id,
            "route": route,
            "conversation": conversation,
            "messages": messages,
            "output": self.schema,
            "attempt": attempt,
        }
        if not route.model:
            return AgentRequest(
                **shared,
                timeout=self.spec.timeout or _TOOL_TIMEOUT,
                run=self.spec.run,
                pass_env=self.spec.pass_env,
                call=self.spec.call,
            )
        tier = self.snapshot.tiers[route.tier]
        model = tier.models[route.fallback]
        return AgentRequest(
            **shared,
            prompt=self.spec.prompt,
            max_output_tokens=self._limit(route),
            temperature=tier.temperature,
            base_url=model.base_url,
            api_key_env=model.api_key_env,
            timeout=self.spec.timeout or tier.timeout,
        )

    def _wire_messages(self) -> tuple[ConversationRef | None, tuple[Message, ...]]:
        """Send each text once; later attempts refer to it.

        In a conversation, what is not sent is covered by the reference.
        """
        first = not self._sent
        new = [*self.messages, *self.repairs]
        if self.whole is None:
            limit = INLINE_BYTES if first else _REFER_BYTES
            return None, tuple(self._wire(who, text, limit) for who, text in new)
        size = self.whole.bytes - (self.seen.bytes if self.seen else 0)
        if first and size <= INLINE_BYTES and self.run.room_for(size):
            return self.seen, tuple(Message(role=w, text=text) for w, text in new)
        return self.whole, tuple(
            self._wire(who, text, _REFER_BYTES) for who, text in self.repairs
        )

    def _wire(self, who: Speaker, text: str, limit: int) -> Message:
        size = len(text.encode(errors="surrogatepass"))
        if size <= limit and self.run.room_for(size):
            return Message(role=who, text=text)
        return Message(role=who, part=self._keep(text))
