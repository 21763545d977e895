"""The scripted provider as a process: its command line and its log of calls."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from decimal import Decimal

import aiohttp
import pytest

from tierpool.contracts import Usage
from tierpool.testing import RateLimited, Reply, ScriptedProvider, ServerError, Stall
from tierpool.testing.process import main, read_price, read_steps

OPENAI = "/v1/chat/completions"


def ask(text: str, **more: object) -> dict[str, object]:
    """Make the body of a request."""
    messages = [{"role": "user", "content": text}]
    return {"model": "m", "max_tokens": 50, "messages": messages, **more}


@asynccontextmanager
async def provider_process(*arguments: str) -> AsyncIterator[aiohttp.ClientSession]:
    """Run a provider as a process; yield a session that talks to it."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-m", "tierpool.testing.provider"),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        line = json.loads(await process.stdout.readline())
        async with aiohttp.ClientSession(line["base_url"]) as session:
            yield session
    finally:
        process.send_signal(signal.SIGTERM)
        await process.communicate()


async def test_steps_are_taken_in_turn_and_priced():
    """The process plays its steps for ever and counts dollars by model."""
    steps = '[{"step": "Reply", "text": "xxxxxxxx"}, {"step": "ServerError"}]'
    async with provider_process("--steps", steps, "--price", "m=1000:5000") as http:
        statuses = []
        for _ in range(3):
            async with http.post(OPENAI, json=ask("four")) as got:
                statuses.append(got.status)
                await got.read()
        async with http.get("/_stats") as got:
            stats = await got.json()

    assert [200, 500, 200] == statuses
    assert Decimal("0.022") == Decimal(stats["usd"])  # 2 x (1 in, 2 out)


async def test_log_names_calls_and_tells_when_a_client_left():
    """`/_calls` has label, times, charge and whether the client broke a call off."""
    steps = '[{"step": "Reply", "text": "ok"}, {"step": "Stall", "text": "endless"}]'
    arguments = ("--steps", steps, "--price", "m=1:1", "--label", r"ITEM-\d+")
    begun = time.time()
    async with provider_process(*arguments) as http:
        async with http.post(OPENAI, json=ask("about ITEM-1 and ITEM-2")) as got:
            await got.read()
        async with http.post(OPENAI, json=ask("nameless", stream=True)) as got:
            await got.content.readany()
            got.close()
        first, second = [], []
        while not (second and second["ended"]):
            async with http.get("/_calls") as got:
                first, second = await got.json()

    assert ["ITEM-1", ""] == [first["label"], second["label"]]
    assert [False, True] == [first["aborted"], second["aborted"]]
    assert first["usd"] is not None
    assert second["started"] >= first["ended"] >= first["started"] >= begun
    assert second["ended"] >= second["started"]


async def test_log_of_calls_is_bounded():
    """Only the latest calls stay in the log; the sums hold all."""
    async with ScriptedProvider(keep_calls=2, label=re.compile("t[0-9]")) as provider:
        provider.default(Reply())
        async with aiohttp.ClientSession(provider.base_url) as http:
            for text in ("t1", "t2", "t3"):
                async with http.post(OPENAI, json=ask(text)) as got:
                    await got.read()

        assert ["t2", "t3"] == [record.label for record in provider.calls]
        assert 3 == provider.accounting.calls


def test_steps_are_read_with_durations_and_usage():
    """Seconds become durations, and usage is validated."""
    text = """[
        {"step": "Reply", "delay": 0.5, "usage": {"input_tokens": 3, "output_tokens": 1}},
        {"step": "RateLimited", "wait": 2, "dialect": "ms"},
        {"step": "Stall", "after_chunks": 2},
        {"step": "ServerError"}
    ]"""

    steps = read_steps(text)

    assert [
        Reply(
            delay=timedelta(seconds=0.5), usage=Usage(input_tokens=3, output_tokens=1)
        ),
        RateLimited(wait=timedelta(seconds=2), dialect="ms"),
        Stall(after_chunks=2),
        ServerError(),
    ] == steps


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "at least one step"),
        ("{}", "a JSON array"),
        ('[{"step": "Repl"}]', "'Repl' is no step; known are CutConnection"),
        ('[{"text": "x"}]', "None is no step"),
        (
            '[{"step": "Reply"}, {"step": "Reply", "gate": 1}]',
            "step 2.*no field 'gate'",
        ),
        ("[", "Expecting value"),
    ],
)
def test_bad_steps_are_refused(text, words):
    """A step that cannot be read is named."""
    with pytest.raises(ValueError, match=words):
        read_steps(text)


def test_price_is_read():
    """A price names its model, whose name may have an equals sign."""
    model, price = read_price("a=b=0.5:2")

    assert "a=b" == model
    assert Decimal("0.5") == price.input_usd_per_mtok
    assert Decimal(2) == price.output_usd_per_mtok


@pytest.mark.parametrize("text", ["m", "m=1", "=1:2", "m=a:2", "m=1:2:3", "m=-1:2"])
def test_bad_prices_are_refused(text):
    """A price of another form is an error."""
    with pytest.raises(ValueError, match=r"MODEL=INPUT:OUTPUT|greater than"):
        read_price(text)


def test_command_line_shows_what_is_wrong(capsys):
    """A step that cannot be read ends the process with the reason."""
    with pytest.raises(SystemExit):
        main(["--steps", '[{"step": "Nothing"}]'])

    assert "'Nothing' is no step" in capsys.readouterr().err
