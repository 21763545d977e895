"""What the provider saw and what it would charge: the truth of a test.

Budgets, caps and cancellation are tested against these numbers, so they are
counted on the provider's side and share no arithmetic with the package.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal

from pydantic import JsonValue

from tierpool.blueprint import Price
from tierpool.contracts import Usage
from tierpool.testing.steps import Wire

__all__ = ["Abort", "Accounting", "CallRecord", "SeenRequest", "charge"]


@dataclass(frozen=True)
class SeenRequest:
    """One request as the provider read it; no key is kept."""

    number: int
    """Counts from 1, in order of arrival."""
    wire: Wire
    model: str
    system: str | None
    messages: tuple[tuple[str, str], ...]
    """(role, text), without the system prompt."""
    schema: Mapping[str, JsonValue] | None
    schema_name: str | None
    strict: bool | None
    """OpenAI's flag; None on the other wire."""
    max_tokens: int | None
    limit_name: str | None
    """The field that carried `max_tokens`."""
    temperature: float | None
    stream: bool
    headers: Mapping[str, str]
    """In lower case, without the ones that carry secrets."""
    key_sha256: str
    """Hash of the key that was sent; empty if there was none."""
    body: Mapping[str, JsonValue]
    """Everything else, as it came."""

    @property
    def text(self) -> str:
        """Return all messages as one text, for predicates."""
        return "\n".join(text for _, text in self.messages)


@dataclass(frozen=True)
class Abort:
    """A connection that the client closed before its answer was complete."""

    number: int
    """Of the request."""
    at: datetime
    after: timedelta
    """Since the request arrived."""
    chunks: int
    """Pieces of the reply that had been sent."""


@dataclass
class CallRecord:
    """When one call was on the provider's side, and what it cost."""

    number: int
    model: str
    label: str
    """What the provider's `label` found in the messages; empty without one."""
    started: datetime
    """When the request had arrived."""
    ended: datetime | None = None
    """When the answer was out, or the client had closed the connection."""
    aborted: bool = False
    """Whether the client closed it before the answer was complete."""
    usd: Decimal | None = None
    """What is charged; None for a call that is not charged, or has no price."""

    def as_dict(self) -> dict[str, JsonValue]:
        """Return everything as JSON data: Unix time in seconds, money as text."""
        return {
            "number": self.number,
            "model": self.model,
            "label": self.label,
            "started": self.started.timestamp(),
            "ended": None if self.ended is None else self.ended.timestamp(),
            "aborted": self.aborted,
            "usd": None if self.usd is None else str(self.usd),
        }


@dataclass
class Accounting:
    """Sums over everything that was answered."""

    calls: int = 0
    """Requests that arrived, refused ones included."""
    in_flight: int = 0
    peak_in_flight: int = 0
    connections: int = 0
    """TCP connections that carried at least one request."""
    billed_calls: int = 0
    usage: Usage = field(default_factory=Usage)
    """What is charged for, parts of broken replies included."""
    usd: Decimal = Decimal(0)
    unpriced_calls: int = 0
    """Billed calls of models for which no price was given."""
    aborted: list[Abort] = field(default_factory=list)
    by_model: dict[str, int] = field(default_factory=dict)

    def started(self, model: str) -> None:
        """Count a request in."""
        self.calls += 1
        self.by_model[model] = self.by_model.get(model, 0) + 1
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)

    def bill(self, usage: Usage, price: Price | None) -> Decimal | None:
        """Charge for a reply, or for the part that was made; return how much."""
        self.billed_calls += 1
        self.usage += usage
        if price is None:
            self.unpriced_calls += 1
            return None
        usd = charge(usage, price)
        self.usd += usd
        return usd

    def as_dict(self) -> dict[str, JsonValue]:
        """Return everything as JSON data; money as text."""
        return {
            "calls": self.calls,
            "in_flight": self.in_flight,
            "peak_in_flight": self.peak_in_flight,
            "connections": self.connections,
            "billed_calls": self.billed_calls,
            "usd": str(self.usd),
            "unpriced_calls": self.unpriced_calls,
            "input_tokens": self.usage.input_tokens,
            "cached_input_tokens": self.usage.cached_input_tokens,
            "cache_write_tokens": self.usage.cache_write_tokens,
            "output_tokens": self.usage.output_tokens,
            "reasoning_tokens": self.usage.reasoning_tokens,
            "aborted": [
                {
                    "number": abort.number,
                    "at": abort.at.isoformat(),
                    "after_s": abort.after.total_seconds(),
                    "chunks": abort.chunks,
                }
                for abort in self.aborted
            ],
            "by_model": dict(self.by_model),
        }


def charge(usage: Usage, price: Price) -> Decimal:
    """Return USD for one reply; the whole call moves to the long-context prices."""
    rates = next(
        (
            long
            for long in sorted(
                price.long_context, key=lambda one: -one.above_input_tokens
            )
            if usage.input_tokens > long.above_input_tokens
        ),
        price,
    )
    base = rates.input_usd_per_mtok
    read, write = rates.cached_input_usd_per_mtok, rates.cache_write_usd_per_mtok
    fresh = usage.input_tokens - usage.cached_input_tokens - usage.cache_write_tokens
    micro_usd = (
        fresh * base
        + usage.cached_input_tokens * (base if read is None else read)
        + usage.cache_write_tokens * (base if write is None else write)
        + usage.output_tokens * rates.output_usd_per_mtok
    )
    return micro_usd / Decimal(1_000_000)
