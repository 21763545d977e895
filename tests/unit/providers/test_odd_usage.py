"""Usage that makes no sense is no usage: its cost would be wrong, not unknown."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from tierpool.activities.providers import close_providers
from tierpool.contracts import Usage

from .conftest import Wire

Events = list[dict[str, Any]]


@asynccontextmanager
async def answering(events: Events) -> AsyncIterator[str]:
    """Serve one stream, whatever is asked."""

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for event in events:
            kind = f"event: {event['type']}\n" if "type" in event else ""
            await response.write(f"{kind}data: {json.dumps(event)}\n\n".encode())
        return response

    app = web.Application()
    app.router.add_post("/{path:.*}", stream)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await close_providers()
        await runner.cleanup()


def chunk(text: str = "", *, end: bool = False, usage: Any = None) -> dict[str, Any]:
    reason = "stop" if end else None
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": reason}
    return {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m",
            "choices": [choice], "usage": usage}  # fmt: skip


def counted(sent: int, made: int) -> dict[str, int]:
    return {
        "prompt_tokens": sent,
        "completion_tokens": made,
        "total_tokens": sent + made,
    }


@pytest.mark.parametrize(
    ("events", "usage"),
    [
        ([chunk("Hello"), chunk(end=True, usage=counted(0, 0))], None),
        ([chunk(usage=counted(9, 0)), chunk("Hello"), chunk(end=True)], None),
        ([chunk("Hello", end=True, usage=counted(9, 0))], None),
        (
            [
                chunk("Hel", usage=counted(9, 1)),
                chunk("lo", usage=counted(9, 2)),
                chunk(end=True),
            ],
            Usage(input_tokens=9, output_tokens=2),
        ),
    ],
    ids=["zeros", "early", "no output", "running"],
)
async def test_openai_usage_counts_the_whole_reply(
    make_wire: Callable[[str], Wire], events: Events, usage: Usage | None
) -> None:
    """Zeros and counts from before the text are unknown; running counts are known."""
    async with answering(events) as address:
        reply = await make_wire("openai").complete(base_url=f"{address}/v1")

    assert ("Hello", usage) == (reply.text, reply.usage)


async def test_openai_error_of_odd_shape_is_a_failure(
    make_wire: Callable[[str], Wire],
) -> None:
    """An error object with nested codes is read as an error of the server."""
    odd = {"error": {"message": "no", "code": {"a": 1}, "type": ["x"]}}
    async with answering([odd]) as address:
        detail = await make_wire("openai").fail(base_url=f"{address}/v1")

    assert "no" in detail.message


@pytest.mark.parametrize("usage", [None, {}], ids=["null", "empty"])
async def test_anthropic_count_of_a_begun_message_is_not_its_cost(
    make_wire: Callable[[str], Wire], usage: Any
) -> None:
    """The one token that `message_start` reports is no usage of a whole reply."""
    message = {"id": "1", "type": "message", "role": "assistant", "model": "m",
               "content": [], "stop_reason": None, "stop_sequence": None,
               "usage": {"input_tokens": 9, "output_tokens": 1}}  # fmt: skip
    text = {"type": "text_delta", "text": "Hello"}
    ended = {"stop_reason": "end_turn", "stop_sequence": None}
    events = [
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0,
         "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": text},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": ended, "usage": usage},
        {"type": "message_stop"},
    ]  # fmt: skip
    async with answering(events) as address:
        reply = await make_wire("anthropic").complete(base_url=address)

    assert ("Hello", None) == (reply.text, reply.usage)


async def test_password_of_an_address_is_not_told(
    make_wire: Callable[[str], Wire], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address in a failure is the server's, without what else it may hold."""
    secret = "http://bob:hunter2secret@127.0.0.1:9/v1?key=topsecret"
    monkeypatch.setenv("TIERPOOL_LOCAL_BASE_URL", secret)

    detail = await make_wire("local").fail(base_url=None)
    await close_providers()

    assert "http://127.0.0.1:9" in detail.message
    assert "secret" not in detail.message
