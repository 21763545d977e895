"""What a call will take of the limited resources, and what calls took so far.

Money is reserved for the worst case; tokens are estimated, because a rate is
not a bill: from the bytes, by what calls of the same model came to, corrected
at the end of the call.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from decimal import Decimal

from tierpool.blueprint import Price
from tierpool.budget.estimate import input_tokens, worst_case_usd
from tierpool.budget.resources import nano
from tierpool.contracts import Usage
from tierpool.contracts.ledger import CALLS, USD, requests_of, tokens_of
from tierpool.fleet import LoadedFleet

__all__ = ["Ask", "Habits"]

_REMEMBERED = 64
_SHARE = 0.95
_BYTES_PER_TOKEN = 3.0
"""Before anything was measured; English text has about 4."""
_LEARN = 0.1
_USUAL_BYTES = 2000
_RATE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Ask:
    """A call that wants to begin."""

    flow: str
    """Type of its workflow."""
    role: str
    tier: str = ""
    queue: str = ""
    """Task queue of its model; empty for tools."""
    model: str = ""
    usd: Decimal = Decimal(0)
    """Its worst case, as its workflow has reserved it."""
    input_bytes: int = 0
    messages: int = 1
    output_tokens: int = 0
    """The most that it may answer."""


@dataclass
class Habits:
    """What the calls of one task queue take, as far as it is known."""

    queue: str
    price: Price | None
    output_tokens: int
    """The most that the tier allows."""
    bytes_per_token: float = _BYTES_PER_TOKEN
    output_share: float = 0.5
    """Of the tokens that a call may answer, how many it does answer."""
    _usd: deque[int] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    _tokens: deque[int] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    _known: dict[str, int] | None = None
    _starts: deque[float] = field(default_factory=lambda: deque(maxlen=256))

    @staticmethod
    def of(fleet: LoadedFleet) -> dict[str, Habits]:
        """Begin with what a fleet file says, for each model's task queue."""
        return {
            model.queue: Habits(model.queue, model.price, tier.max_output_tokens)
            for tier in fleet.snapshot.tiers.values()
            for model in tier.models
        }

    def needs(self, ask: Ask) -> dict[str, int]:
        """Say what a call takes."""
        usd = nano(ask.usd)
        if self.price is not None:  # the file may be newer than what the item knows
            sent = input_tokens(ask.input_bytes, ask.messages)
            worst = worst_case_usd(sent, ask.output_tokens, self.price)
            usd = max(usd, nano(worst))
        tokens = ask.input_bytes / self.bytes_per_token
        tokens += ask.output_tokens * self.output_share
        return self._all(usd, max(1, round(tokens)))

    def began(self, needs: dict[str, int], now: float) -> None:
        """Learn from a call that begins."""
        self._learn(needs)
        self._starts.append(now)

    def sent_back(self, needs: dict[str, int]) -> None:
        """Learn from a call that could not begin, if nothing else is known."""
        if not self._usd:
            self._learn(needs)

    def ended(self, ask: Ask, usage: Usage) -> None:
        """Learn from what a call used."""
        if ask.input_bytes and usage.input_tokens:
            measured = ask.input_bytes / usage.input_tokens
            self.bytes_per_token += _LEARN * (measured - self.bytes_per_token)
        if ask.output_tokens:
            share = min(1.0, usage.output_tokens / ask.output_tokens)
            self.output_share += _LEARN * (share - self.output_share)

    def usual(self) -> dict[str, int]:
        """Return what 95 of 100 calls take at most; without any, a guess."""
        if self._known is None:  # asked for with every slot
            self._known = self._usual()
        return self._known

    def _usual(self) -> dict[str, int]:
        if not self._usd:
            sent = input_tokens(_USUAL_BYTES, 2)
            price = self.price
            usd = worst_case_usd(sent, self.output_tokens, price) if price else 0
            return self._all(nano(Decimal(usd)), 1)
        return self._all(_most(self._usd), _most(self._tokens))

    def _learn(self, needs: dict[str, int]) -> None:
        self._usd.append(needs[USD])
        self._tokens.append(needs[tokens_of(self.queue)])
        self._known = None

    def starts_per_second(self, now: float) -> float:
        """Return how many calls began lately."""
        recent = sum(1 for at in self._starts if now - at <= _RATE_SECONDS)
        return recent / _RATE_SECONDS

    def _all(self, usd: int, tokens: int) -> dict[str, int]:
        return {
            USD: usd,
            CALLS: 1,
            requests_of(self.queue): 1,
            tokens_of(self.queue): tokens,
        }


def _most(values: deque[int]) -> int:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * _SHARE))]
