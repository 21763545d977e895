"""Cancelling a call closes the connection, seen from the provider's side."""

from __future__ import annotations

import asyncio

import pytest

from tierpool.testing import Reply, SlowFirstByte, Stall


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(SlowFirstByte(), id="before the first byte"),
        pytest.param(Stall("some words here", after_chunks=2), id="within the reply"),
    ],
)
async def test_cancel_aborts_the_connection(wire, server, step):
    """The provider learns of a cancel at once and can stop its work."""
    server.script(step)
    call = asyncio.create_task(wire.complete())
    await server.until(lambda books: books.in_flight == 1)

    call.cancel()

    with pytest.raises(asyncio.CancelledError):
        await call
    await server.until(lambda books: books.in_flight == 0)
    (abort,) = server.accounting.aborted
    assert abort.number == 1
    assert server.accounting.calls == 1


async def test_other_calls_live_on(wire, server):
    """A cancelled call leaves the shared client usable for the others."""
    gate = asyncio.Event()
    server.script(Stall("never ends"), Reply("fine", gate=gate), Reply("next"))
    doomed = asyncio.create_task(wire.complete())
    await server.until(lambda books: books.in_flight == 1)
    other = asyncio.create_task(wire.complete())
    await server.until(lambda books: books.in_flight == 2)

    doomed.cancel()
    await server.until(lambda books: len(books.aborted) == 1)
    gate.set()

    assert (await other).text == "fine"
    assert (await wire.complete()).text == "next"


async def test_a_cut_reply_is_charged_in_part(wire, server):
    """The provider charges the input and what it had written until the cancel."""
    server.script(Stall("x" * 400, chunks=4, after_chunks=1))
    call = asyncio.create_task(wire.complete())
    await server.until(lambda books: books.in_flight == 1)
    await asyncio.sleep(0.2)  # lets the first chunk out; the sums hold without it

    call.cancel()
    await server.until(lambda books: len(books.aborted) == 1)

    assert server.accounting.billed_calls == 1
    assert server.accounting.usage.input_tokens == 3
    assert server.accounting.usage.output_tokens <= 25
