"""Attempts of agents against a real HTTP provider: estimates, usages, huge replies."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from temporalio.api.common.v1 import Payload
from temporalio.client import Client
from temporalio.common import RawValue
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.converter import PayloadCodec
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory
from temporalio.testing import ActivityEnvironment
from tests.leases import lease_of

from tierpool.activities.agents import AgentActivities
from tierpool.activities.conversations import ConversationStore, Said
from tierpool.activities.parts import PartStore
from tierpool.activities.providers import close_providers
from tierpool.activities.providers.clients import AgentClient
from tierpool.blueprint import PoolSpec
from tierpool.budget.estimate import input_tokens
from tierpool.codec import ZlibCodec
from tierpool.contracts import (
    AgentRequest,
    AgentResult,
    ConversationRef,
    FailureDetail,
    Message,
    NextStep,
    Outcome,
    PartRef,
    Route,
    Usage,
    hash_of,
)
from tierpool.pools.gate import Gate
from tierpool.pools.instances import Pool
from tierpool.testing import Reply, ScriptedProvider

LIMIT = 2 * 1024 * 1024
"""Bytes of one payload that Temporal takes."""
CONTROLS = "".join(chr(n) for n in range(32))
"""Each takes six bytes in JSON."""


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ScriptedProvider]:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-0123456789abcdef")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-test-0123456789abcdef")
    async with ScriptedProvider() as provider:
        yield provider
        await close_providers()


class Doubling(PayloadCodec):
    """Stands for an encryption that writes hexadecimal: twice as much as before."""

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        return [
            Payload(
                metadata={"encoding": b"hex"}, data=p.SerializeToString().hex().encode()
            )
            for p in payloads
        ]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        return [Payload.FromString(bytes.fromhex(p.data.decode())) for p in payloads]


class Worker:
    """A pool's process without a server: its activities and its caches."""

    def __init__(self, provider: ScriptedProvider, folder: Path) -> None:
        self.provider = provider
        self.codec: PayloadCodec | None = ZlibCodec()
        self.parts = PartStore()
        self.pool = Pool("nano", PoolSpec(), self.agent)
        gate = Gate(self.pool, {}, lease_of())
        self.activities = AgentActivities(
            folder, folder, self.parts, ConversationStore(), gate.admit
        )

    async def agent(self, warm: bool) -> AgentClient:
        return AgentClient()

    def request(self, wire: str = "openai", **changes: Any) -> AgentRequest:
        values: dict[str, Any] = {
            "role": "writer",
            "item_id": "T-1",
            "route": Route(tier="nano", model=f"{wire}:small"),
            "messages": (Message(role="user", text="Say hello."),),
            "max_output_tokens": 100,
            "base_url": self.provider.base_url + ("/v1" if wire == "openai" else ""),
            "api_key_env": f"{wire.upper()}_API_KEY",
            "timeout": timedelta(seconds=30),
        }
        return AgentRequest(**(values | changes))

    async def attempt(self, request: AgentRequest) -> AgentResult:
        """Make an attempt; its client never needs to connect."""
        converter = dataclasses.replace(
            pydantic_data_converter, payload_codec=self.codec
        )
        client = await Client.connect(
            "127.0.0.1:1", lazy=True, data_converter=converter
        )
        environment = ActivityEnvironment(client=client)
        environment.payload_converter = converter.payload_converter
        payload = converter.payload_converter.to_payload(request)
        return await environment.run(self.activities.attempt, [RawValue(payload)])

    async def fail(
        self, request: AgentRequest
    ) -> tuple[FailureDetail, ApplicationError]:
        with pytest.raises(ApplicationError) as caught:
            await self.attempt(request)
        detail = caught.value.details[0]
        assert isinstance(detail, FailureDetail)
        return detail, caught.value


def refer(said: list[Said]) -> ConversationRef:
    return ConversationRef(name="w", length=len(said), hash=hash_of(said))


@pytest.fixture
async def worker(server: ScriptedProvider, tmp_path: Path) -> AsyncIterator[Worker]:
    its = Worker(server, tmp_path)
    yield its
    await its.pool.close()


WIRES = pytest.mark.parametrize("wire", ["openai", "anthropic"])


@WIRES
async def test_more_bytes_than_reserved_are_not_sent(worker: Worker, wire: str) -> None:
    """An estimate that is too low costs nothing and names the bytes; with them it passes."""
    text = "ö" * 5_000
    messages = (Message(role="user", text=text),)
    worker.provider.script(Reply("hello"))

    detail, error = await worker.fail(
        worker.request(wire, messages=messages, input_bytes=9_999)
    )
    enough = worker.request(wire, messages=messages, input_bytes=detail.input_bytes)
    result = await worker.attempt(enough)

    assert (Outcome.UNBILLED, NextStep.RESERVE) == (detail.outcome, detail.next)
    assert "EstimateTooLow" == error.type
    assert ApplicationErrorCategory.BENIGN == error.category
    assert 10_000 < detail.input_bytes < 10_500
    assert f"{detail.input_bytes:,} bytes would be sent, reserved for 9,999" in str(
        error
    )
    assert "ö" not in str(error)
    assert {"text": "hello"} == result.reply
    assert 1 == worker.provider.accounting.calls


async def test_estimate_covers_earlier_messages(worker: Worker) -> None:
    """What counts is the whole conversation, not only what is new."""
    worker.provider.script(Reply("fine"), Reply("more"))
    first = worker.request(conversation=ConversationRef(name="w"))
    await worker.attempt(first)
    said: list[Said] = [("user", "Say hello."), ("assistant", "fine")]
    second = worker.request(
        conversation=refer(said), messages=(Message(role="user", text="x" * 1_000),)
    )

    low, _ = await worker.fail(second.model_copy(update={"input_bytes": 1_000}))
    alone = worker.request(messages=second.messages, input_bytes=1_000)
    less, _ = await worker.fail(alone)
    await worker.attempt(second.model_copy(update={"input_bytes": low.input_bytes}))

    assert low.input_bytes >= less.input_bytes + len("Say hello.fine")
    *earlier, new = worker.provider.requests[-1].messages
    assert (said, ("user", "x" * 1_000)) == (earlier, new)


@pytest.mark.parametrize("schema", [None, '{"type":"object"}'])
async def test_next_turn_finds_the_reply_where_the_workflow_does(
    worker: Worker, schema: str | None
) -> None:
    """A role's reply goes on in the conversation as `reply_text` writes it."""
    text = "Größer" if schema is None else '{ "b":1,"a":"Größer" }'
    worker.provider.script(Reply(text), Reply("{}"))
    output = PartRef.of(schema) if schema else None
    if schema:
        worker.parts.put(schema)
    first = worker.request(conversation=ConversationRef(name="w"), output=output)
    await worker.attempt(first)
    reply = "Größer" if schema is None else '{"b": 1, "a": "Größer"}'
    said: list[Said] = [("user", "Say hello."), ("assistant", reply)]

    await worker.attempt(worker.request(conversation=refer(said)))

    sent = worker.provider.requests[-1].messages
    assert (*said, ("user", "Say hello.")) == sent


async def test_repair_leaves_no_trace_in_the_conversation(worker: Worker) -> None:
    """A second attempt refers to what the first one sent; the next turn knows no repair."""
    schema = '{"required":["a"]}'
    worker.parts.put(schema)
    worker.provider.script(Reply("{}"), Reply('{"a": 1}'), Reply('{"a": 2}'))
    talk = worker.request(
        output=PartRef.of(schema), conversation=ConversationRef(name="w")
    )
    said: list[Said] = [("user", "Say hello.")]
    repair: list[Said] = [("assistant", "{}"), ("user", "Not valid.")]

    invalid = await worker.attempt(talk)
    await worker.attempt(
        talk.model_copy(
            update={
                "conversation": refer(said),
                "messages": tuple(Message(role=r, text=t) for r, t in repair),
                "attempt": 2,
            }
        )
    )
    said.append(("assistant", '{"a": 1}'))
    await worker.attempt(talk.model_copy(update={"conversation": refer(said)}))

    assert invalid.reply is None
    first, second, third = [r.messages for r in worker.provider.requests]
    assert (*first, *repair) == second
    assert (*said, ("user", "Say hello.")) == third


@pytest.mark.parametrize(
    ("usage", "reserved"),
    [
        (Usage(input_tokens=10, output_tokens=101), 2_000),
        (Usage(input_tokens=10, output_tokens=101), 0),
        (Usage(input_tokens=input_tokens(2_000, 1) + 1, output_tokens=1), 2_000),
    ],
)
async def test_usage_above_the_request_is_told_and_kept(
    worker: Worker, usage: Usage, reserved: int
) -> None:
    """More output than asked, or more input than reserved: a warning, and the true usage."""
    worker.provider.script(Reply("hello", usage=usage))

    with capture_logs() as logs:
        result = await worker.attempt(worker.request(input_bytes=reserved))

    assert usage == result.usage
    (warning,) = [e for e in logs if e["event"] == "usage.above_request"]
    seen = (warning["input_tokens"], warning["output_tokens"])
    assert (usage.input_tokens, usage.output_tokens) == seen
    assert ("warning", 100) == (warning["log_level"], warning["max_output_tokens"])


async def test_usage_within_the_request_is_no_warning(worker: Worker) -> None:
    """Exactly what was reserved for is in order."""
    usage = Usage(input_tokens=input_tokens(2_000, 1), output_tokens=100)
    worker.provider.script(Reply("hello", usage=usage))

    with capture_logs() as logs:
        await worker.attempt(worker.request(input_bytes=2_000))

    assert ["attempt.answered"] == [entry["event"] for entry in logs]


@WIRES
async def test_reply_of_10_mb_is_a_clear_failure(worker: Worker, wire: str) -> None:
    """It is cut off on its way: the connection is closed, and the next call works."""
    usage = Usage(input_tokens=10, output_tokens=2_500_000)
    huge = Reply("x" * 10_000_000, usage=usage, chunks=200)
    worker.provider.script(huge, Reply("hello"))

    detail, _ = await worker.fail(worker.request(wire))
    await worker.provider.until(lambda books: len(books.aborted) == 1)
    result = await worker.attempt(worker.request(wire))

    assert (Outcome.AMBIGUOUS, NextStep.FAIL) == (detail.outcome, detail.next)
    assert "longer than 4194304 characters" in detail.message
    assert len(detail.model_dump_json()) < 1_000
    assert {"text": "hello"} == result.reply


@WIRES
async def test_reply_above_the_limit_is_billed(worker: Worker, wire: str) -> None:
    """One that is read whole but does not fit through Temporal keeps its usage."""
    usage = Usage(input_tokens=10, output_tokens=100)
    worker.provider.script(Reply("ö" * 1_000_000, usage=usage))

    detail, _ = await worker.fail(worker.request(wire))

    assert (Outcome.BILLED, NextStep.FAIL, usage) == (
        detail.outcome,
        detail.next,
        detail.usage,
    )
    assert "has 2,000,000 bytes; the limit is 1,500,000" in detail.message


@pytest.mark.parametrize("codec", [None, ZlibCodec(compress=False), Doubling()])
@pytest.mark.parametrize(
    "text",
    [CONTROLS * 31_000, '"\\' * 480_000, "ö" * 700_000, "x" * 999_999, "x" * 950_000],
)
async def test_result_always_fits_through_temporal(
    worker: Worker, codec: PayloadCodec | None, text: str
) -> None:
    """Whatever JSON's escapes and a codec make of a reply: it fits, or is billed and final."""
    worker.codec = codec
    usage = Usage(input_tokens=10, output_tokens=100)
    worker.provider.script(Reply(text, usage=usage))

    try:
        result = await worker.attempt(worker.request())
    except ApplicationError as error:
        detail = error.details[0]
        assert (Outcome.BILLED, NextStep.FAIL) == (detail.outcome, detail.next)
        assert usage == detail.usage
        assert "the limit is 1,900,000" in detail.message
        size = await encoded(codec, AgentResult(reply={"text": text}, usage=usage))
        assert size > 1_899_000
    else:
        assert {"text": text} == result.reply
        assert await encoded(codec, result) < LIMIT


async def test_compressed_result_may_be_larger(worker: Worker) -> None:
    """What counts is what is sent: 5.9 MB of JSON that a codec makes small."""
    text = "".join(random.Random(1).choices(CONTROLS, k=992_000))
    worker.provider.script(Reply(text, usage=Usage(output_tokens=100)))

    result = await worker.attempt(worker.request())

    assert {"text": text} == result.reply
    assert LIMIT < await encoded(None, result)
    assert await encoded(worker.codec, result) < LIMIT


async def encoded(codec: PayloadCodec | None, result: AgentResult) -> int:
    """Return the bytes of a result as Temporal gets it."""
    converter = dataclasses.replace(pydantic_data_converter, payload_codec=codec)
    return sum(payload.ByteSize() for payload in await converter.encode([result]))
