"""What a governed call may cost at most, what it did cost, and who may make one."""

from __future__ import annotations

import asyncio
import re
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from anthropic.types import Usage as AnthropicUsage
from hypothesis import given
from hypothesis import strategies as st
from openai.types.completion_usage import CompletionUsage
from openai.types.responses import ResponseUsage
from structlog.testing import capture_logs
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment
from tests.leases import lease_of

from tierpool import Usage, governed
from tierpool.activities.governed import GovernedCall, governing, quote_of
from tierpool.activities.usages import usage_from
from tierpool.blueprint import Price
from tierpool.budget.estimate import (
    MESSAGE_BYTES,
    MESSAGE_TOKENS,
    REQUEST_BYTES,
    Quote,
)
from tierpool.errors import UsageError
from tierpool.fleet import FleetSnapshot, ModelSnapshot, TierSnapshot


def price(input_usd: int, output_usd: int) -> Price:
    return Price(
        input_usd_per_mtok=Decimal(input_usd), output_usd_per_mtok=Decimal(output_usd)
    )


def tier(*models: tuple[str, Price]) -> TierSnapshot:
    return TierSnapshot(
        models=tuple(ModelSnapshot(model=m, queue="q", price=p) for m, p in models),
        max_output_tokens=100,
    )


FLEET = FleetSnapshot(
    fleet="acme",
    tiers={
        "nano": tier(("openai:own", price(1, 2))),
        "premium": tier(("openai:large", price(9, 9)), ("openai:own", price(3, 4))),
    },
    roles={},
)
QUOTE = Quote(1000, 1, 100, price(1, 2))
"""Worst case: 1,016 tokens in and 100 out, 0.001216 USD."""


COUNTS = (
    "input_tokens",
    "output_tokens",
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "cache_read_tokens",
    "cache_read_input_tokens",
)


def as_openai_chat(**more: Any) -> CompletionUsage:
    counts = {"prompt_tokens": 39, "completion_tokens": 7, "total_tokens": 46}
    return CompletionUsage.model_validate(counts | more)


CHAT = as_openai_chat(
    prompt_tokens_details={"cached_tokens": 38},
    completion_tokens_details={"reasoning_tokens": 5},
)
RESPONSES = ResponseUsage.model_validate(
    {
        "input_tokens": 39,
        "input_tokens_details": {"cached_tokens": 38, "cache_write_tokens": 0},
        "output_tokens": 7,
        "output_tokens_details": {"reasoning_tokens": 5},
        "total_tokens": 46,
    }
)
ANTHROPIC = AnthropicUsage.model_validate(
    {
        "input_tokens": 1,
        "cache_read_input_tokens": 38,
        "cache_creation_input_tokens": None,
        "output_tokens": 7,
        "output_tokens_details": {"thinking_tokens": 5},
    }
)
PYDANTIC_AI = SimpleNamespace(  # the real one is tried with the frameworks' example
    input_tokens=39,
    cache_read_tokens=38,
    cache_write_tokens=0,
    output_tokens=7,
    output_reasoning_tokens=5,
    unmeasured_requests=0,
)
OURS = Usage(
    input_tokens=39, cached_input_tokens=38, output_tokens=7, reasoning_tokens=5
)


@pytest.mark.parametrize(
    "reported",
    [OURS, CHAT, RESPONSES, ANTHROPIC, PYDANTIC_AI, CHAT.model_dump()],
    ids=["ours", "chat", "responses", "anthropic", "pydantic-ai", "mapping"],
)
def test_every_dialect_of_usage_means_the_same(reported: object) -> None:
    """One call, as each library reports it, is one Usage."""
    assert OURS == usage_from(reported)


def test_total_tells_reasoning_that_the_output_leaves_out() -> None:
    """Where the total is above input and output, the difference was paid for too."""
    found = usage_from(as_openai_chat(completion_tokens=2, total_tokens=46))

    assert found is not None
    assert found.output_tokens == 7


@pytest.mark.parametrize(
    "nonsense",
    [
        None,
        object(),
        "39 tokens",
        Usage(),
        CompletionUsage(prompt_tokens=0, completion_tokens=0, total_tokens=0),
        {"prompt_tokens": -1, "completion_tokens": 5, "total_tokens": 4},
        {"input_tokens": 5, "output_tokens": float("nan")},
        {"input_tokens": True, "output_tokens": 5},
        {"input_tokens": 5},
        {"input_tokens": 5, "output_tokens": 5, "cache_read_tokens": 6},
        SimpleNamespace(**(vars(PYDANTIC_AI) | {"unmeasured_requests": 1})),
    ],
    ids=lambda value: re.sub(" at 0x[0-9a-f]+", "", str(value)),
)
def test_nonsense_is_unknown_and_never_nothing(nonsense: object) -> None:
    """A usage that cannot be understood leaves the cost open, and says so once."""
    call = GovernedCall(QUOTE)

    with capture_logs() as logs:
        call.settle(nonsense)

    settlement = call.settlement("1-1-1")
    assert settlement.cost_usd is None
    assert settlement.usage is None
    assert type(nonsense).__name__ in settlement.note
    assert ["usage.unknown"] == [entry["event"] for entry in logs]


@given(
    st.dictionaries(
        st.sampled_from(COUNTS),
        st.one_of(st.integers(), st.floats(), st.none(), st.text()),
    )
)
def test_no_usage_is_read_as_nothing(reported: dict[str, object]) -> None:
    """Whatever a mapping holds, it is a usage above zero or none at all."""
    found = usage_from(reported)

    assert found is None or found.input_tokens + found.output_tokens > 0


def test_cost_is_settled_at_the_price_of_the_reservation() -> None:
    """39 tokens in at 1 and 7 out at 2 USD per million."""
    call = GovernedCall(QUOTE)

    call.settle(CHAT)

    assert Decimal("0.000053") == call.settlement("1-1-1").cost_usd


def test_usages_of_one_block_add_up() -> None:
    """A second settle never makes the first one disappear."""
    call = GovernedCall(QUOTE)

    call.settle(CHAT)
    call.settle(CHAT)

    settlement = call.settlement("1-1-1")
    assert Decimal("0.000106") == settlement.cost_usd
    assert OURS + OURS == settlement.usage


def test_one_unknown_usage_makes_the_sum_unknown() -> None:
    """What is known is no upper bound once a part is not."""
    call = GovernedCall(QUOTE)

    call.settle(CHAT)
    call.settle(None)
    call.settle(CHAT)

    assert call.settlement("1-1-1").cost_usd is None


def test_block_without_settle_has_an_unknown_cost() -> None:
    """Silence is not a price."""
    settlement = GovernedCall(QUOTE).settlement("1-1-1")

    assert settlement.cost_usd is None
    assert "without settle" in settlement.note


def test_release_owes_nothing_unless_something_was_used() -> None:
    """`release` is for calls that were never made; a usage goes before it."""
    released, used = GovernedCall(QUOTE), GovernedCall(QUOTE)

    released.release()
    used.settle(CHAT)
    used.release()

    assert Decimal(0) == released.settlement("1-1-1").cost_usd
    assert Decimal("0.000053") == used.settlement("1-1-1").cost_usd


def test_usage_above_the_reservation_is_charged_and_told() -> None:
    """A provider that made more than was asked for is paid, and a warning names both sums."""
    call = GovernedCall(QUOTE)

    call.settle(Usage(input_tokens=10, output_tokens=1000))
    with capture_logs() as logs:
        settlement = call.settlement("1-1-1")

    assert Decimal("0.00201") == settlement.cost_usd
    (warning,) = logs
    assert warning["event"] == "cost.above_reservation"
    told = [Decimal(warning[name]) for name in ("cost_usd", "reserved_usd")]
    assert [Decimal("0.00201"), Decimal("0.001216")] == told


def test_dearest_price_of_the_fleet_counts() -> None:
    """A model of several tiers is reserved at the price that is highest for this call."""
    quote = quote_of(FLEET, "openai:own", 100, "x")

    assert price(3, 4) == quote.price


def test_model_outside_the_fleet_has_the_bundled_price() -> None:
    """A known model needs no tier."""
    quote = quote_of(FLEET, "openai:gpt-5-nano", 100, "x")

    assert Decimal("0.4") == quote.price.output_usd_per_mtok


@pytest.mark.parametrize(
    ("given_input", "size", "messages"),
    [
        ("häß", 5, 1),
        ("\ud800", 3, 1),
        (b"\x00\x01", 2, 1),
        (["häß", b"12"], 7, 2),
        ([], 0, 1),
        (1234, 1234, 1),
        ({"text": "ä", "n": [1, 2]}, len(b'{"text":"\xc3\xa4","n":[1,2]}'), 3),
        ([{"role": "user"}, Usage(input_tokens=1)], 15 + 18, 2),
    ],
    ids=repr,
)
def test_input_is_counted_in_bytes_of_utf8(
    given_input: object, size: int, messages: int
) -> None:
    """Texts count as they are, all else as compact JSON, and each message its overhead."""
    quote = quote_of(FLEET, "openai:large", 1, given_input)

    sent = size + REQUEST_BYTES + MESSAGE_BYTES * messages
    assert sent == quote.input_bytes
    tokens = sent + MESSAGE_TOKENS * messages + 1
    assert Decimal(9 * tokens).scaleb(-6) == quote.usd


@pytest.mark.parametrize(
    ("model", "limit", "given_input", "words"),
    [
        ("openai:own", 0, "x", "from 1"),
        ("openai:own", -1, "x", "from 1"),
        ("openai:own", True, "x", "whole number"),
        ("openai:own", float("nan"), "x", "whole number"),
        ("openai:own", "many", "x", "'many'"),
        ("openai:own", 1, -1, "from 0"),
        ("openai:own", 1, object(), "type object"),
        ("openai:own", 1, [{"a": object()}], "type dict"),
        ("own", 1, "x", "provider:model"),
        ("openai:", 1, "x", "provider:model"),
        ("openai:never-heard-of", 1, "x", "no price is known"),
        ("acme:large", 1, "x", "no price is known"),
    ],
)
def test_senseless_arguments_are_named(
    model: str, limit: Any, given_input: object, words: str
) -> None:
    """An argument that cannot mean anything is refused, with what would be right."""
    with pytest.raises(UsageError, match=words):
        quote_of(FLEET, model, limit, given_input)


def call_it() -> None:
    governed(model="openai:own", max_output_tokens=1, input="x")


async def under(fleet: FleetSnapshot, **info: Any) -> None:
    environment = ActivityEnvironment()
    environment.info = environment.info.__class__(**(vars(environment.info) | info))

    async def run() -> None:
        with governing(fleet, lease_of()):
            call_it()

    await environment.run(run)


def test_outside_of_an_activity_it_says_where_it_works() -> None:
    """Nothing is reserved, and nothing seems to be."""
    with pytest.raises(UsageError, match="inside an activity"):
        call_it()


async def test_thread_of_a_sync_activity_is_told_why_not() -> None:
    """A `def` activity runs in a thread, from which the workflow cannot be asked."""
    with (
        governing(FLEET, lease_of()),
        pytest.raises(ApplicationError, match="async def") as refused,
    ):
        await asyncio.to_thread(call_it)

    assert refused.value.non_retryable


async def test_event_loop_of_ones_own_is_told_why_not() -> None:
    """Neither does a second event loop help a sync activity."""

    async def inside() -> None:
        call_it()

    with (
        governing(FLEET, lease_of()),
        pytest.raises(ApplicationError, match="async def"),
    ):
        await asyncio.to_thread(lambda: asyncio.run(inside()))


@pytest.mark.parametrize(
    ("info", "words"),
    [
        ({"workflow_id": None}, "needs a workflow"),
        ({"is_local": True}, "local activity"),
    ],
)
async def test_activity_without_a_workflow_that_answers_is_refused(
    info: dict[str, Any], words: str
) -> None:
    """Nobody could keep the reservation, so no retry helps."""
    with pytest.raises(ApplicationError, match=words) as refused:
        await under(FLEET, **info)

    assert refused.value.non_retryable


async def test_scope_ends_with_the_activity() -> None:
    """What comes after an activity in the same task is outside again."""
    with governing(FLEET, lease_of()):
        pass

    with pytest.raises(UsageError):
        call_it()
