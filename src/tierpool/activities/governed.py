"""`governed`: any activity's model call, under its workflow's budget.

The worst case of the call and its cost are worked out here, in the activity;
`reservations` carries both to the workflow, whose state decides.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from decimal import Decimal
from uuid import uuid4

import structlog
from pydantic_core import PydanticSerializationError, to_json
from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from tierpool.activities.reservations import refused, reserve, settle
from tierpool.activities.usages import usage_from
from tierpool.blueprint import Price, split_model
from tierpool.budget.cost import cost_usd
from tierpool.budget.estimate import (
    Quote,
    input_bytes,
    input_tokens,
    worst_case_usd,
)
from tierpool.budget.pricing import find_price
from tierpool.contracts import GovernedRequest, GovernedSettlement, Usage
from tierpool.contracts.ledger import USD
from tierpool.errors import LeaseShort, TierpoolError, UsageError
from tierpool.fleet import FleetSnapshot
from tierpool.leases import Ask, Held, LeaseAgent

__all__ = ["GovernedCall", "governed", "governing", "quote_of"]

_log = structlog.get_logger()


@dataclass(slots=True)
class _Scope:
    """What `governed` knows inside one attempt of one activity."""

    fleet: FleetSnapshot
    lease: LeaseAgent
    loop: asyncio.AbstractEventLoop


_scope: ContextVar[_Scope | None] = ContextVar("tierpool_governed", default=None)


@contextmanager
def governing(fleet: FleetSnapshot, lease: LeaseAgent) -> Iterator[None]:
    """Let the activity that runs inside price its calls by this fleet.

    Args:
        fleet: Where the prices stand.
        lease: Of the process, for what is limited fleet-wide.
    """
    token = _scope.set(_Scope(fleet, lease, asyncio.get_running_loop()))
    try:
        yield
    finally:
        _scope.reset(token)


class GovernedCall:
    """A call whose worst case is reserved; settle it once it is over."""

    def __init__(self, quote: Quote) -> None:
        """Take the worst case."""
        self._quote = quote
        self._usages: list[Usage | None] = []
        self._unknown = "its block ended without settle()"
        self._released = False

    @property
    def max_output_tokens(self) -> int:
        """The limit to send with the call: the reservation rests on it."""
        return self._quote.output_tokens

    @property
    def reserved_usd(self) -> Decimal:
        """The worst case, in USD."""
        return self._quote.usd

    def settle(self, usage: object) -> None:
        """Say what the call used; the workflow hears of it when the block ends.

        What makes no sense leaves the cost unknown: the call stays charged at
        its reservation. Several usages add up.

        Args:
            usage: tierpool's `Usage`, or the usage object of the openai, the
                anthropic or the OpenAI Agents SDK, or of pydantic-ai; not the
                response that it stands in.
        """
        found = usage_from(usage)
        if found is None:
            kind = type(usage).__name__
            self._unknown = f"no usage can be read from the {kind} it was settled with"
            _log.warning("usage.unknown", reported=kind)
        self._usages.append(found)

    def release(self) -> None:
        """Say that nothing is owed: not sent, or refused before any work.

        A timeout, a cut connection and a reply not read to its end are not
        that. After `settle` it changes nothing.
        """
        self._released = True

    def settlement(self, id: str) -> GovernedSettlement:
        """Return what the workflow must hear of the call."""
        known = [usage for usage in self._usages if usage is not None]
        if len(known) < len(self._usages) or not (known or self._released):
            return GovernedSettlement(id=id, note=self._unknown)
        # each by itself: long-context prices depend on the single call
        price = self._quote.price
        cost = sum((cost_usd(usage, price) for usage in known), Decimal(0))
        if cost > self.reserved_usd:
            _log.warning(
                "cost.above_reservation",
                reservation=id,
                cost_usd=str(cost),
                reserved_usd=str(self.reserved_usd),
            )
        return GovernedSettlement(
            id=id, usage=sum(known, Usage()) if known else None, cost_usd=cost
        )


def governed(
    *, model: str, max_output_tokens: int, input: object
) -> AbstractAsyncContextManager[GovernedCall]:
    """Put a model call of this activity under its workflow's budget.

    ```python
    async with governed(model="openai:gpt-5-nano", max_output_tokens=500, input=text) as call:
        response = await client.responses.create(..., max_output_tokens=call.max_output_tokens)
        call.settle(response.usage)
    ```

    One block is one request: clients inside it must not retry by themselves. A
    block that ends without `settle` or `release` stays charged at its
    reservation.

    Args:
        model: `provider:model`. The fleet's price of it is used, the dearest if
            tiers differ, else the bundled one.
        max_output_tokens: From 1; reasoning included.
        input: All that is sent, tools and schemas included: text, bytes, a list
            of them, anything that becomes JSON, or a number of bytes.

    Raises:
        UsageError: outside of an activity of a worker with `TierpoolPlugin`.
        ApplicationError: not retryable, for what cannot be governed: a local or
            a standalone activity, arguments that make no sense, a model without
            a price. On entering, `BudgetDenied`.
    """
    scope = _own_scope()
    try:
        quote = quote_of(scope.fleet, model, max_output_tokens, input)
    except TierpoolError as error:
        raise refused(str(error)) from error
    return _governed(scope, model, quote)


def quote_of(
    fleet: FleetSnapshot, model: str, max_output_tokens: int, input: object
) -> Quote:
    """Work out the most that a call may cost.

    Raises:
        UsageError: for arguments that make no sense and a model without a price.
    """
    _check("max_output_tokens", max_output_tokens, least=1)
    size, messages = _size_of(input)
    size = input_bytes(size, 0, messages)
    price = _price_of(fleet, model, input_tokens(size, messages), max_output_tokens)
    return Quote(size, messages, max_output_tokens, price)


@asynccontextmanager
async def _governed(
    scope: _Scope, model: str, quote: Quote
) -> AsyncIterator[GovernedCall]:
    info = activity.info()
    # activity IDs come again: after a reset, and where the user gives them
    id = f"{info.activity_id}-{info.attempt}-{uuid4().hex[:16]}"
    await reserve(
        GovernedRequest(
            id=id,
            activity=info.activity_type,
            model=model,
            input_bytes=quote.input_bytes,
            max_output_tokens=quote.output_tokens,
            usd=quote.usd,
        )
    )
    call, cancelled = GovernedCall(quote), False
    try:
        held = await _leased(scope, model, quote)
    except (ApplicationError, asyncio.CancelledError) as error:
        call.release()
        stopped = isinstance(error, asyncio.CancelledError)
        await settle(call.settlement(id), cancelled=stopped)
        raise
    try:
        yield call
    except asyncio.CancelledError:
        cancelled = True
        raise
    finally:
        settlement = call.settlement(id)
        if settlement.usage is None and settlement.cost_usd is not None:
            held.release()
        else:
            held.settle(settlement.usage, settlement.cost_usd)
        await settle(settlement, cancelled=cancelled)


async def _leased(scope: _Scope, model: str, quote: Quote) -> Held:
    """Take what the call needs of the fleet's limits.

    Raises:
        ApplicationError: of type `LeaseShort`, if it cannot begin now; not
            retryable if waiting does not help, or the fleet does not want it.
    """
    queues = [
        (tier, known.queue)
        for tier, spec in scope.fleet.tiers.items()
        for known in spec.models
        if known.model == model
    ]
    tier, queue = queues[0] if queues else ("", "")
    info = activity.info()
    ask = Ask(
        flow=info.workflow_type or "",
        role=info.activity_type,
        tier=tier,
        queue=queue,
        model=model,
        usd=quote.usd,
        input_bytes=quote.input_bytes,
        messages=quote.messages,
        output_tokens=quote.output_tokens,
    )
    try:
        return await scope.lease.reserve(ask)
    except LeaseShort as error:
        fails = error.limit == USD and scope.fleet.guardrails.on_exhausted == "fail"
        raise ApplicationError(
            f"{info.activity_type}: {error}",
            type="LeaseShort",
            non_retryable=error.never or fails,
            next_retry_delay=error.retry_after,
            category=ApplicationErrorCategory.BENIGN,
        ) from error


def _own_scope() -> _Scope:
    scope = _scope.get()
    if scope is None:
        raise UsageError(
            "governed() works inside an activity of a worker whose client has "
            "TierpoolPlugin, and nowhere else"
        )
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        loop = None
    if loop is not scope.loop:
        raise refused("governed() needs an `async def` activity: this one is a thread")
    info = activity.info()
    if info.workflow_id is None:
        raise refused("governed() needs a workflow, whose budget it draws from")
    if info.is_local:
        raise refused(
            f"governed() cannot be used in the local activity {info.activity_type}: "
            "its workflow does not answer while it runs"
        )
    return scope


def _check(name: str, value: object, *, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UsageError(f"{name} is a whole number from {least}, not {value!r}")


def _size_of(input: object) -> tuple[int, int]:
    """Return the UTF-8 bytes of what is sent, and its messages."""
    if isinstance(input, int) and not isinstance(input, bool):
        _check("input", input, least=0)
        return input, 1
    if isinstance(input, Mapping):
        lists = [len(v) for v in input.values() if isinstance(v, list | tuple)]
        return _bytes_of(input), 1 + sum(lists)
    if isinstance(input, Sequence) and not isinstance(input, str | bytes | bytearray):
        return sum(_bytes_of(part) for part in input), max(1, len(input))
    return _bytes_of(input), 1


def _bytes_of(part: object) -> int:
    if isinstance(part, str):
        return len(part.encode(errors="surrogatepass"))
    if isinstance(part, bytes | bytearray):
        return len(part)
    try:
        return len(to_json(part))
    except (PydanticSerializationError, ValueError) as error:
        raise UsageError(
            f"input of type {type(part).__name__} does not become JSON; give text, "
            "bytes, a list of them, or the number of bytes that will be sent"
        ) from error


def _price_of(fleet: FleetSnapshot, model: str, sent: int, made: int) -> Price:
    if not all(split_model(model)):
        raise UsageError(f"a model is written as provider:model, not {model!r}")
    prices = [
        known.price
        for tier in fleet.tiers.values()
        for known in tier.models
        if known.model == model
    ]
    if prices:
        return max(prices, key=lambda price: worst_case_usd(sent, made, price))
    try:
        return find_price(model)
    except LookupError as error:
        raise UsageError(str(error)) from error
