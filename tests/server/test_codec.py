"""Compressed payloads on a real server: who reads them, and with what."""

import http.client
import json
from collections.abc import Sequence
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.message import Message
from temporalio.api.common.v1 import Header, Payload, Payloads
from temporalio.api.enums.v1 import EventType
from temporalio.api.sdk.v1 import UserMetadata, WorkflowMetadata
from temporalio.client import WorkflowHistory
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Replayer

from tierpool import TierpoolPlugin, flow_result, load_fleet
from tierpool.client import ItemHandle
from tierpool.codec import ENCODING, ZlibCodec
from tierpool.contracts import FlowResult, ItemCosts
from tierpool.devserver.codec_server import serve_codec, ui_origins
from tierpool.testing import Reply
from tierpool.worker import Served

from .conftest import Running, Start, client_of, working

REVIEW = """
agents:
  planner: {prompt: "Plan.\\n", tier: nano}
  reviewer: {prompt: "Review.\\n", tier: nano, output: {verdict: [approve, reject]}}
flows:
  change:
    initial: incoming
    transitions:
      "incoming -> planned": {agent: planner}
      "planned -> done": {agent: reviewer}
"""
NOTHING = Served(tools=True)
"""No worker that an item of these flows needs."""
NEEDED = Served(flows=True, pools=("nano",))
LONG = "These words are long enough. " * 40
PLAN = "A plan that goes on for a while. " * 40
TITLE = "Größe über alles · " * 10


async def ended(fleet: Running, **fields: Any) -> ItemHandle:
    """Let an item with a long text and a long reply go its way."""
    fleet.provider.script(Reply(PLAN), Reply(json={"verdict": "approve"}))
    handle = await fleet.start("change", {"title": TITLE, "text": LONG, **fields})
    await flow_result(handle)
    return handle


def payloads(message: Message, *kinds: type[Message]) -> list[Any]:
    """Return the messages of these kinds inside another, at any depth."""
    found: list[Any] = [message] if isinstance(message, kinds) else []
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        entry = field.message_type
        if entry.GetOptions().map_entry:
            if entry.fields_by_name["value"].message_type is None:
                continue
            inner = list(value.values())
        else:
            inner = list(value) if hasattr(value, "append") else [value]
        for one in inner:
            found += payloads(one, *kinds)
    return found


def inside(history: WorkflowHistory, *kinds: type[Message]) -> list[Any]:
    return [one for event in history.events for one in payloads(event, *kinds)]


def is_compressed(payload: Payload) -> bool:
    return payload.metadata["encoding"] == ENCODING


async def test_history_is_compressed_and_labels_are_not(running: Start) -> None:
    """Long texts are in no event as they are; small values, summaries and headers are."""
    fleet = await running(REVIEW)

    history = await (await ended(fleet)).fetch_history()

    everything = inside(history, Payload)
    labels = [p for kind in (UserMetadata, Header) for h in inside(history, kind)
              for p in payloads(h, Payload)]  # fmt: skip
    raw = b"".join(event.SerializeToString() for event in history.events)
    assert sum(map(is_compressed, everything)) >= 4  # input, activities, result
    assert any(not is_compressed(p) for p in everything)
    assert LONG[:40].encode() not in raw
    assert PLAN[:40].encode() not in raw
    assert TITLE.encode() in raw  # the item's summary
    assert len(labels) >= 3
    assert not any(map(is_compressed, labels))


async def test_compressed_history_is_a_fraction(running: Start) -> None:
    """The same item makes a history of less than half the size; nothing else changes."""
    fleet = await running(REVIEW, served=NOTHING)
    sizes, results = [], []
    for compress in (True, False):
        plugin = TierpoolPlugin(fleet.fleet, compress=compress)
        client = client_of(fleet.client, plugin, data_converter=pydantic_data_converter)
        async with working(client, fleet.fleet, NEEDED):
            handle = await ended(Running(fleet.fleet, client, fleet.provider))
        history = await handle.fetch_history()
        sizes.append(sum(event.ByteSize() for event in history.events))
        results.append((await flow_result(handle)).model_dump(exclude={"item_id"}))

    assert sizes[0] < sizes[1] / 2
    assert results[0] == results[1]


async def test_compressed_history_replays(running: Start) -> None:
    """A replayer with the plugin reads it, whatever the plugin's switch says."""
    fleet = await running(REVIEW)
    history = await (await ended(fleet)).fetch_history()
    text = history.to_json()

    failures = []
    for compress in (True, False):
        plugin = TierpoolPlugin(fleet.fleet, compress=compress)
        replayed = await Replayer(workflows=[], plugins=[plugin]).replay_workflow(
            WorkflowHistory.from_json(history.workflow_id, text),
            raise_on_replay_failure=False,
        )
        failures.append(replayed.replay_failure)

    assert any(map(is_compressed, inside(history, Payload)))
    assert [None, None] == failures


async def test_item_started_compressed_goes_on_without_compression(
    running: Start,
) -> None:
    """Switching compression off under a running item loses nothing of it."""
    fleet = await running(REVIEW, served=NOTHING)
    fleet.provider.script(Reply(PLAN), Reply(json={"verdict": "approve"}))
    handle = await fleet.start("change", {"text": LONG})
    plugin = TierpoolPlugin(fleet.fleet, compress=False)
    plain = client_of(fleet.client, plugin, data_converter=pydantic_data_converter)

    async with working(plain, fleet.fleet, NEEDED):
        result = await flow_result(handle)
    history = await handle.fetch_history()

    assert "done" == result.state
    assert LONG in fleet.provider.requests[0].text
    assert 1 == sum(map(is_compressed, inside(history, Payload)))  # its input


async def test_other_clients_with_the_plugin_read_everything(
    running: Start, server: WorkflowEnvironment
) -> None:
    """A client of another fleet file reads result and queries of the item."""
    fleet = await running(REVIEW)
    handle = await ended(fleet)
    path = fleet.fleet.path.with_name("other.yaml")
    text = fleet.fleet.path.read_text()
    path.write_text(text.replace(f"fleet: {fleet.fleet.name}", "fleet: other"))
    other = client_of(server.client, TierpoolPlugin(load_fleet(path)))

    seen = other.get_workflow_handle(handle.id, result_type=FlowResult)
    result = await seen.result()
    costs = await seen.query("costs", result_type=ItemCosts)

    assert "done" == result.state
    assert 2 == len(costs.attempts)


async def test_client_without_the_codec_is_told(
    running: Start, server: WorkflowEnvironment
) -> None:
    """Without the plugin a result is an error that names the encoding, never garbage."""
    fleet = await running(REVIEW)
    handle = await ended(fleet)
    stranger = server.client.get_workflow_handle(handle.id)

    with pytest.raises((KeyError, RuntimeError)) as refused:
        await stranger.query("costs")

    assert "Unknown payload encoding binary/zlib" in str(refused.value)


async def test_details_are_read_without_the_codec(
    running: Start, server: WorkflowEnvironment
) -> None:
    """A Web UI without a codec server shows title, summary and current details."""
    fleet = await running(REVIEW)
    handle = await ended(fleet)
    stranger = server.client.get_workflow_handle(handle.id)

    answer = await stranger.query(
        "__temporal_workflow_metadata", result_type=WorkflowMetadata
    )
    described = await stranger.describe()

    assert len(answer.current_details) > 256
    assert "**done** · 2 attempts" in answer.current_details
    assert TITLE == await described.static_summary()


def decoded(endpoint: str, origin: str, given: Sequence[Payload]) -> list[Payload]:
    """Ask a codec server as the Web UI does."""
    connection = http.client.HTTPConnection(
        endpoint.removeprefix("http://"), timeout=10
    )
    body = json_format.MessageToJson(Payloads(payloads=given))
    headers = {"Origin": origin, "Content-Type": "application/json", "X-Namespace": "n"}
    connection.request("POST", "/decode", body, headers)
    response = connection.getresponse()
    text = response.read()
    connection.close()
    assert (200, origin) == (
        response.status,
        response.headers["Access-Control-Allow-Origin"],
    ), text
    return list(json_format.Parse(text, Payloads()).payloads)


async def test_codec_server_shows_a_history(running: Start) -> None:
    """The Web UI gets the texts of an item's events from the codec server."""
    fleet = await running(REVIEW)
    history = await (await ended(fleet)).fetch_history()
    started = history.events[0]
    given = inside(history, Payload)
    page = ui_origins(8233)[1]

    with serve_codec(ZlibCodec(), origins=ui_origins(8233)) as endpoint:
        shown = decoded(endpoint, page, given)

    assert EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED == started.event_type
    assert not any(map(is_compressed, shown))
    assert any(LONG in json.loads(p.data).get("item", {}).get("text", "")
               for p in shown if p.data.startswith(b'{"flow"'))  # fmt: skip
    assert any(PLAN.strip().encode() in payload.data for payload in shown)
