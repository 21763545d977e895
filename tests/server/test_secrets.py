"""No key leaves the worker, not even in pieces, when a provider repeats it."""

import re
import zlib
from contextlib import suppress
from typing import Any

import pytest
from temporalio.client import WorkflowHandle
from temporalio.testing import WorkflowEnvironment

from tierpool import flow_result
from tierpool.testing import Fail, Reply
from tierpool.worker import Served

from .conftest import FLEET, Start
from .worker_process import worker_process

KEYS = {
    "nano": "sk-proj-Jd83kfLs02mXqPw71Zt5",
    "standard": "Kx9/vT2+mQ8=pL4:wZ7~rB1",  # looks like no known kind of key
}
PIECE = 8
"""Characters of a key that nobody may see in a row."""

ROLES = """
agents:
  reviewer: {prompt: "Review.\\n", tier: TIER, max_attempts: 1}
  gate: {type: python, call: "leaky_gate:check", max_attempts: 1}
flows:
  review:
    initial: incoming
    transitions:
      "incoming -> done": {agent: reviewer}
  gated:
    initial: incoming
    transitions:
      "incoming -> done": {agent: gate}
"""
GATE = """
import os

async def check(request):
    raise RuntimeError(f"Incorrect API key provided: {os.environ['ACME_KEY']}")
"""


def refusals(key: str) -> list[Fail]:
    """Return errors of a provider that repeats the key it was given."""
    said = f"Incorrect API key provided: {key}"
    return [
        Fail(401, said),
        Fail(400, said + "."),
        # what is shown of a message ends within the key
        *(Fail(400, "x " * (n // 2) + key) for n in (170, 180, 190)),
        Fail(400, "bad request", kind=key, code=key, param=key),
        Fail(400, body=said),
        Fail(500, said, after_chunks=1),
    ]


def pieces_found(key: str, evidence: str) -> set[str]:
    """Return pieces of the key that the evidence has, punctuation left aside."""
    plain, seen = (re.sub(r"\W", "", text) for text in (key, evidence))
    windows = {plain[i : i + PIECE] for i in range(len(plain) - PIECE + 1)}
    return {piece for piece in windows if piece in seen}


async def everything_kept(handle: WorkflowHandle[Any, Any]) -> str:
    """Return all that the server keeps of an item and all that its queries answer."""
    history = await handle.fetch_history()
    raw = b"\n".join(event.SerializeToString() for event in history.events)
    kept = [raw, *inflated(raw)]
    names = ("status", "costs", "__temporal_workflow_metadata")
    answers = [repr(await handle.query(name)) for name in names]
    return "\n".join([*[part.decode(errors="replace") for part in kept], *answers])


def inflated(raw: bytes) -> list[bytes]:
    """Return what is compressed somewhere in these bytes."""
    found = []
    for start in re.finditer(rb"\x78\x9c", raw):
        with suppress(zlib.error):
            found.append(zlib.decompressobj().decompress(raw[start.start() :]))
    return found


@pytest.mark.parametrize("tier", KEYS)
async def test_key_that_a_provider_repeats_goes_nowhere(
    running: Start, server: WorkflowEnvironment, tier: str
) -> None:
    """Histories, errors, queries and the worker's log are free of it."""
    key = KEYS[tier]
    base = re.sub(r"(model: \S+)", r"\1\n    api_key_env: ACME_KEY", FLEET)
    fleet = await running(
        ROLES.replace("TIER", tier),
        base=base,
        served=Served(flows=True),
        leaky_gate__py=GATE,
    )
    steps = refusals(key)
    fleet.provider.script(*steps, Reply("fine"))
    address = server.client.service_client.config.target_host
    evidence = []

    async with worker_process(
        address, fleet.fleet, "--pool", tier, "--tools", ACME_KEY=key
    ) as worker:
        flow = "gated"
        while fleet.provider.steps_left:  # an item whose key is refused takes several
            handle = await fleet.start(flow)
            result = await flow_result(handle)
            evidence += [repr(result), await everything_kept(handle)]
            flow = "review"
        worker.process.terminate()
        await worker.ended()

    assert result.state == "done"
    assert len(fleet.provider.requests) == len(steps) + 1
    assert fleet.provider.requests[-1].key_sha256
    assert "400" in "".join(evidence)
    assert "attempt.failed" in "".join(worker.output)
    assert pieces_found(key, "\n".join(evidence)) == set()
    assert pieces_found(key, "".join(worker.output)) == set()
