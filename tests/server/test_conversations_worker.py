"""Conversations as the worker sees them: asked of a real workflow, piece by piece."""

import dataclasses
from typing import Any
from uuid import uuid4

import pytest
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from tierpool import TierpoolPlugin
from tierpool.codec import ZlibCodec
from tierpool.contracts import (
    AgentRequest,
    FailureDetail,
    NextStep,
    Outcome,
    Route,
    Usage,
)
from tierpool.testing import Reply
from tierpool.worker import Served

from .asked import Asked
from .conftest import Running, Start, client_of
from .conversation_workflows import Mute, Plan, Talk, speeches

ROLES = """
agents:
  writer: {prompt: "Write.\\n", tier: nano}
flows:
  essay:
    initial: incoming
    transitions:
      "incoming -> done": {agent: writer}
"""
NANO = Served(pools=("nano",))


async def talk(
    fleet: Running, workflow: Any = Talk, *, compress: bool = True, **plan: Any
) -> list[str | FailureDetail]:
    """Let a workflow make its turns with the writer.

    Its worker has no plugin, which would answer for conversations itself.
    """
    tier = fleet.fleet.fleet.tiers["nano"]
    request = AgentRequest(
        role="writer",
        item_id="T-1",
        route=Route(
            tier="nano", model="openai:small", queue=f"{fleet.fleet.name}-nano"
        ),
        max_output_tokens=100,
        base_url=tier.base_url,
        api_key_env="OPENAI_API_KEY",
    )
    converter = dataclasses.replace(
        fleet.client.data_converter, payload_codec=ZlibCodec(compress=compress)
    )
    client = client_of(fleet.client, interceptors=[], data_converter=converter)
    queue = f"own-{uuid4().hex[:8]}"
    async with Worker(
        client,
        task_queue=queue,
        workflows=[workflow],
        workflow_runner=UnsandboxedWorkflowRunner(),
    ):
        return await client.execute_workflow(
            workflow.run,
            Plan(request=request, **plan),
            id=f"talk-{uuid4().hex[:8]}",
            task_queue=queue,
        )


async def test_long_conversation_arrives_whole(running: Start) -> None:
    """2.6 MB that no worker has, a message of 0.9 MB among them, come in pieces, once."""
    asked = Asked()
    fleet = await running(ROLES, served=NANO, connect=asked.connect)
    fleet.provider.script(Reply("one"), Reply("two"))
    sizes = (*[100_000] * 7, 900_000, *[100_000] * 7, 1, 0)

    found = await talk(fleet, sizes=sizes, new=("First.", "Second."))

    before = tuple(speeches(sizes))
    assert sum(len(text.encode()) for _, text in before) > 2_400_000
    assert ["one", "two"] == found
    first, second = [request.messages for request in fleet.provider.requests]
    assert (*before, ("user", "First.")) == first
    assert (*first, ("assistant", "one"), ("user", "Second.")) == second
    assert 7 == len(asked.requests)  # 2.3 million characters, 350,000 at a time
    assert {len(sizes)} == {request.end for request in asked.requests}


@pytest.mark.parametrize("piece", [1, 7, 25, 26])
async def test_cut_messages_are_glued(running: Start, piece: int) -> None:
    """Wherever a conversation is cut, inside a message or between two, it is the same."""
    fleet = await running(ROLES, served=NANO)
    fleet.provider.script(Reply("fine"))
    sizes = (10, 15, 0, 26, 1)

    found = await talk(fleet, sizes=sizes, piece=piece)

    assert ["fine"] == found
    said = (*speeches(sizes), ("user", "Go on."))
    assert said == fleet.provider.requests[0].messages


async def test_turns_of_one_worker_ask_for_nothing(running: Start) -> None:
    """What a worker sent and was answered is there for the next turn."""
    asked = Asked()
    fleet = await running(ROLES, served=NANO, connect=asked.connect)
    turns = tuple(f"turn {n}" for n in range(5))
    fleet.provider.script(*(Reply(f"Größe {n}: €") for n in range(5)))

    found = await talk(fleet, new=turns)

    assert [f"Größe {n}: €" for n in range(5)] == found
    assert [] == asked.requests
    assert 9 == len(fleet.provider.requests[-1].messages)


@pytest.mark.parametrize(
    ("answers", "asks", "words"),
    [
        ("others", [(0, 2), (0, 2)], "does not start with the 2 messages of the hash"),
        ("in circles", [(0, 2)], "does not go on after message 0, character 0"),
        ("nonsense", [(0, 2)], "the answer is not ConversationChunk"),
    ],
)
async def test_wrong_answers_cost_nothing(
    running: Start, answers: str, asks: list[tuple[int, int]], words: str
) -> None:
    """A conversation that cannot be had fails the attempt unbilled, before the call."""
    asked = Asked()
    fleet = await running(ROLES, served=NANO, connect=asked.connect)

    (detail,) = await talk(fleet, sizes=(10, 10), answers=answers)

    assert isinstance(detail, FailureDetail)
    assert (Outcome.UNBILLED, NextStep.RETRY) == (detail.outcome, detail.next)
    assert words in detail.message
    assert asks == asked.starts
    assert 0 == fleet.provider.accounting.calls


async def test_workflow_without_conversations_costs_nothing(running: Start) -> None:
    """A workflow that does not know the query fails the attempt unbilled."""
    fleet = await running(ROLES, served=NANO)

    (detail,) = await talk(fleet, Mute)

    assert isinstance(detail, FailureDetail)
    assert (Outcome.UNBILLED, NextStep.RETRY) == (detail.outcome, detail.next)
    assert "did not answer for the conversation 'writer'" in detail.message
    assert 0 == fleet.provider.accounting.calls


async def test_unreadable_answer_costs_nothing(running: Start) -> None:
    """An answer that the worker's own codec refuses fails the attempt unbilled."""
    tight = dataclasses.replace(
        pydantic_data_converter, payload_codec=ZlibCodec(max_decoded_bytes=5_000)
    )
    fleet = await running(
        ROLES,
        served=NANO,
        connect=lambda base, loaded: client_of(
            base, TierpoolPlugin(loaded), data_converter=tight
        ),
    )

    (detail,) = await talk(fleet, sizes=(10_000,))

    assert isinstance(detail, FailureDetail)
    assert (Outcome.UNBILLED, NextStep.RETRY) == (detail.outcome, detail.next)
    assert "PayloadTooLarge while reading the answer" in detail.message
    assert 0 == fleet.provider.accounting.calls


async def test_reply_full_of_escapes_arrives(running: Start) -> None:
    """A reply that takes 5.9 MB as JSON passes compressed, and goes on in the next turn."""
    fleet = await running(ROLES, served=NANO)
    text = "".join(map(chr, range(1, 32))) * 32_000
    fleet.provider.script(Reply(text, usage=Usage(output_tokens=9)), Reply("fine"))

    found = await talk(fleet, new=("First.", "Second."))

    assert [text, "fine"] == found
    assert ("assistant", text) == fleet.provider.requests[1].messages[1]


async def test_reply_full_of_escapes_is_billed_where_it_cannot_pass(
    running: Start,
) -> None:
    """Without compression it ends as a billed failure and not as a lost result."""
    fleet = await running(
        ROLES,
        served=NANO,
        connect=lambda base, loaded: client_of(
            base, TierpoolPlugin(loaded, compress=False)
        ),
    )
    usage = Usage(input_tokens=5, output_tokens=9)
    fleet.provider.script(Reply("\x01" * 400_000, usage=usage))

    (detail,) = await talk(fleet, compress=False)

    assert isinstance(detail, FailureDetail)
    assert (Outcome.BILLED, NextStep.FAIL) == (detail.outcome, detail.next)
    assert usage == detail.usage
    assert "takes 2,400,1" in detail.message
