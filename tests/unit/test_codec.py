"""The compression codec and the codec server, over real HTTP."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf import json_format
from temporalio.api.common.v1 import Payload, Payloads
from temporalio.api.sdk.v1 import WorkflowMetadata
from temporalio.contrib.pydantic import (
    PydanticPayloadConverter,
    pydantic_data_converter,
)
from temporalio.converter import DataConverter, DefaultPayloadConverter, PayloadCodec

from tierpool import TierpoolError
from tierpool.cli import parser
from tierpool.cli.main import main
from tierpool.codec import ENCODING, MAX_DECODED_BYTES, MIN_BYTES, ZlibCodec
from tierpool.devserver.codec_server import MAX_BYTES, serve_codec, ui_origins
from tierpool.errors import PayloadTooLarge, ServerError
from tierpool.plugin import _data_converter

PAGE = "http://127.0.0.1:8233"


def plain(data: bytes, **metadata: bytes) -> Payload:
    return Payload(metadata={"encoding": b"json/plain", **metadata}, data=data)


def zipped(data: bytes) -> Payload:
    return Payload(metadata={"encoding": ENCODING}, data=data)


TEXT = b'{"text": "' + b"some words " * 60 + b'"}'


async def test_large_payload_is_compressed_and_comes_back() -> None:
    """What is large is smaller on the wire, whole and equal after decoding."""
    payload = plain(TEXT, custom=b"kept")

    (packed,) = await ZlibCodec().encode([payload])
    (back,) = await ZlibCodec().decode([packed])

    assert ENCODING == packed.metadata["encoding"]
    assert packed.ByteSize() < payload.ByteSize() / 4
    assert payload == back


async def test_wire_format_is_the_go_sdks() -> None:
    """The data is the serialized payload in a zlib stream, and nothing else."""
    payload = plain(TEXT)

    (packed,) = await ZlibCodec().encode([payload])

    assert {"encoding": b"binary/zlib"} == dict(packed.metadata)
    assert payload == Payload.FromString(zlib.decompress(packed.data))


@pytest.mark.parametrize(
    ("size", "encoding"), [(MIN_BYTES - 1, b"json/plain"), (MIN_BYTES, ENCODING)]
)
async def test_small_payload_stays_as_it_is(size: int, encoding: bytes) -> None:
    """Data below 256 bytes is readable without a codec."""
    (made,) = await ZlibCodec().encode([plain(b"[" + b"1" * (size - 2) + b"]")])

    assert encoding == made.metadata["encoding"]


async def test_payload_that_does_not_shrink_stays_as_it_is() -> None:
    """Random data is passed on, in its place among others."""
    given = [plain(os.urandom(5_000)), plain(TEXT), plain(b"1")]

    made = await ZlibCodec().encode(given)

    assert [given[0], given[2]] == [made[0], made[2]]
    assert ENCODING == made[1].metadata["encoding"]
    assert given == await ZlibCodec().decode(made)


async def test_what_people_read_stays_as_it_is() -> None:
    """Summaries and a workflow's current details need no codec, however long."""
    converter = PydanticPayloadConverter()
    summary = converter.to_payload("a summary " * 40)
    details = converter.to_payload(
        WorkflowMetadata(current_details="| a | b |\n" * 200)
    )

    made = await ZlibCodec().encode([summary, details])

    assert [summary, details] == made


async def test_long_string_is_compressed() -> None:
    """A string that is too long for a summary is data like any other."""
    payload = PydanticPayloadConverter().to_payload("a summary " * 41)

    (made,) = await ZlibCodec().encode([payload])

    assert ENCODING == made.metadata["encoding"]


async def test_encoding_is_deterministic() -> None:
    """Equal payloads are equal bytes, whatever the order of their metadata."""
    names = [f"key-{n}" for n in range(20)]
    one = plain(TEXT, **dict.fromkeys(names, b"v"))
    other = plain(TEXT, **dict.fromkeys(reversed(names), b"v"))

    first, second = await ZlibCodec().encode([one, other])

    assert first.SerializeToString(deterministic=True) == second.SerializeToString(
        deterministic=True
    )


async def test_large_payload_leaves_the_loop() -> None:
    """Megabytes are converted as well; they are handed to a thread."""
    payload = plain(os.urandom(300_000) + TEXT * 3_000)

    made = await ZlibCodec().encode([payload])

    assert [payload] == await ZlibCodec().decode(made)
    assert ENCODING == made[0].metadata["encoding"]


async def test_switched_off_it_still_decodes() -> None:
    """What was compressed before stays readable; nothing more is compressed."""
    off = ZlibCodec(compress=False)
    (packed,) = await ZlibCodec().encode([plain(TEXT)])

    assert [plain(TEXT)] == await off.encode([plain(TEXT)])
    assert [plain(TEXT)] == await off.decode([packed])


async def test_decompression_bomb_is_refused() -> None:
    """A small payload that would fill the memory is refused, with both sizes."""
    bomb = zipped(zlib.compress(bytes(MAX_DECODED_BYTES + 1), 9))

    with pytest.raises(PayloadTooLarge) as refused:
        await ZlibCodec().decode([bomb])

    assert f"payload of {len(bomb.data):,} bytes" in str(refused.value)
    assert "more than 67,108,864 bytes" in str(refused.value)


async def test_nothing_is_encoded_that_would_not_be_decoded() -> None:
    """The bound holds in both directions, to the byte."""
    payload = plain(b"[" + b"1" * 1_000 + b"]")
    fits = ZlibCodec(max_decoded_bytes=payload.ByteSize())
    larger = ZlibCodec(max_decoded_bytes=payload.ByteSize() - 1)

    (packed,) = await fits.encode([payload])

    assert [payload] == await fits.decode([packed])
    assert [payload] == await larger.encode([payload])
    with pytest.raises(PayloadTooLarge):
        await larger.decode([packed])


@pytest.mark.parametrize(
    ("data", "how"),
    [
        (b"", "its end is missing"),
        (b"no zlib", "incorrect header check"),
        (zlib.compress(TEXT)[:-1], "its end is missing"),
        (zlib.compress(TEXT)[:-4] + b"\0\0\0\0", "incorrect data check"),
        (zlib.compress(b"\xff\xff"), "no payload is in it"),
    ],
)
async def test_damaged_payload_is_refused(data: bytes, how: str) -> None:
    """The error says what is wrong and shows none of the data."""
    with pytest.raises(TierpoolError) as refused:
        await ZlibCodec().decode([zipped(data)])

    assert f"payload of {len(data)} bytes says that it is binary/zlib" in str(
        refused.value
    )
    assert how in str(refused.value)


class OwnCodec(PayloadCodec):
    async def encode(self, payloads: Any) -> list[Payload]:
        return list(payloads)

    async def decode(self, payloads: Any) -> list[Payload]:
        return list(payloads)


@pytest.mark.parametrize("existing", [None, DataConverter.default])
@pytest.mark.parametrize("compress", [True, False])
def test_plugin_brings_the_codec(
    existing: DataConverter | None, compress: bool
) -> None:
    """A converter without a codec gets ours, switched on or off."""
    made = _data_converter(existing, compress=compress)

    assert isinstance(made.payload_codec, ZlibCodec)
    assert compress is made.payload_codec.compress
    assert made.payload_converter_class is PydanticPayloadConverter


def test_plugin_keeps_a_users_codec() -> None:
    """A codec of the client's own stays, also if the payload converter is replaced."""
    own = OwnCodec()

    made = _data_converter(DataConverter(payload_codec=own), compress=True)

    assert made.payload_codec is own
    assert made.payload_converter_class is not DefaultPayloadConverter


def test_plugin_keeps_the_rest_of_a_converter() -> None:
    """The converter of a user's own class gets the codec and is else the same."""
    made = _data_converter(pydantic_data_converter, compress=True)

    assert isinstance(made.payload_codec, ZlibCodec)
    assert (
        pydantic_data_converter.payload_converter_class is made.payload_converter_class
    )
    assert pydantic_data_converter.payload_codec is None


async def test_client_without_the_codec_gets_a_clear_error() -> None:
    """A converter that knows no such payload names its encoding."""
    payloads = await _data_converter(None, compress=True).encode([{"a": "b" * 500}])

    with pytest.raises(KeyError, match="Unknown payload encoding binary/zlib"):
        await pydantic_data_converter.decode(payloads)


@pytest.fixture
def endpoint() -> Iterator[str]:
    with serve_codec(ZlibCodec(), origins=[PAGE]) as url:
        yield url


def ask(
    endpoint: str,
    path: str,
    body: bytes = b"{}",
    *,
    method: str = "POST",
    **headers: str,
) -> tuple[int, dict[str, str], bytes]:
    """Send a request as a browser or the CLI would."""
    connection = http.client.HTTPConnection(
        endpoint.removeprefix("http://"), timeout=10
    )
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, named)
    response = connection.getresponse()
    answer = response.status, dict(response.getheaders()), response.read()
    connection.close()
    return answer


def as_json(*payloads: Payload) -> bytes:
    return json_format.MessageToJson(Payloads(payloads=payloads)).encode()


async def test_server_decodes_for_the_web_ui(endpoint: str) -> None:
    """A page of the Web UI may read the decoded payloads, in their order."""
    (packed,) = await ZlibCodec().encode([plain(TEXT)])

    status, headers, body = ask(
        endpoint, "/decode", as_json(packed, plain(b"1")), Origin=PAGE, X_Namespace="n"
    )

    first, second = json.loads(body)["payloads"]
    assert 200 == status
    assert PAGE == headers["Access-Control-Allow-Origin"]
    assert headers["Content-Type"].startswith("application/json")
    assert TEXT == b64decode(first["data"])
    assert "json/plain" == b64decode(first["metadata"]["encoding"]).decode()
    assert b"1" == b64decode(second["data"])


async def test_server_encodes_for_the_cli(endpoint: str) -> None:
    """A program that is no browser names no origin; what it gets decodes again."""
    status, headers, body = ask(endpoint, "/encode", as_json(plain(TEXT)))

    packed = json_format.Parse(body, Payloads()).payloads
    assert 200 == status
    assert "Access-Control-Allow-Origin" not in headers
    assert ENCODING == packed[0].metadata["encoding"]
    assert [plain(TEXT)] == await ZlibCodec().decode(packed)


def test_server_answers_the_browsers_question(endpoint: str) -> None:
    """The preflight request allows the method and the headers that the UI sends."""
    status, headers, body = ask(
        endpoint, "/decode", b"", method="OPTIONS", Origin=PAGE,
        Access_Control_Request_Method="POST",
        Access_Control_Request_Headers="content-type,x-namespace",
    )  # fmt: skip

    allowed = headers["Access-Control-Allow-Headers"].split(", ")
    assert (204, b"") == (status, body)
    assert PAGE == headers["Access-Control-Allow-Origin"]
    assert "POST" == headers["Access-Control-Allow-Methods"]
    assert {"content-type", "x-namespace"} <= set(allowed)


@pytest.mark.parametrize("method", ["OPTIONS", "POST"])
@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", PAGE + "0", PAGE.replace("http", "https")]
)
def test_other_pages_are_refused(endpoint: str, method: str, origin: str) -> None:
    """A page that is not the Web UI gets nothing, and no leave to read the answer."""
    status, headers, body = ask(
        endpoint, "/decode", as_json(plain(b"1")), method=method, Origin=origin
    )

    assert 403 == status
    assert "Access-Control-Allow-Origin" not in headers
    assert origin in body.decode()
    assert f"allowed: {PAGE}" in body.decode()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[1]",
        b"\xff\xfe",
        b'{"payloads": 1}',
        b'{"payloads": [1]}',
        b'{"payloads": [{"data": "A"}]}',
        b'{"payloads": [{"metadata": {"encoding": 5}}]}',
        b"[" * 100_000,
    ],
)
def test_bad_body_is_explained(endpoint: str, body: bytes) -> None:
    """The answer to what is no payloads shows what they look like."""
    status, headers, answer = ask(endpoint, "/decode", body, Origin=PAGE)

    assert 400 == status
    assert 'the body must be JSON like {"payloads": [' in answer.decode()
    assert PAGE == headers["Access-Control-Allow-Origin"]


def test_unknown_fields_are_no_mistake(endpoint: str) -> None:
    """A newer Web UI may send more than is understood."""
    data = b64encode(b"1").decode()
    body = json.dumps({"payloads": [{"data": data, "new": [1]}], "more": 1}).encode()

    status, _, answer = ask(endpoint, "/decode", body)

    assert (200, {"payloads": [{"data": data}]}) == (status, json.loads(answer))


def test_damaged_payload_is_explained(endpoint: str) -> None:
    """The answer names the payload by its place and says what is wrong."""
    body = as_json(plain(b"1"), zipped(b"no zlib"))

    status, _, answer = ask(endpoint, "/decode", body)

    assert 400 == status
    assert answer.decode().startswith("payloads[1]: a payload of 7 bytes says")


def test_many_small_bombs_are_refused(endpoint: str) -> None:
    """The payloads of one answer have a bound together."""
    inner = plain(bytes(20 * 1024 * 1024)).SerializeToString()
    bomb = zipped(zlib.compress(inner))

    status, _, answer = ask(endpoint, "/decode", as_json(bomb, bomb, bomb))

    assert 413 == status
    assert "the first 2 payloads take 41,943,0" in answer.decode()
    assert f"the limit is {MAX_BYTES:,}" in answer.decode()


@pytest.mark.parametrize(
    ("length", "status", "why"),
    [
        (str(MAX_BYTES + 1), 413, f"the request has {MAX_BYTES + 1} bytes"),
        ("9" * 5_000, 413, "the limit is"),
        ("-1", 411, "needs a Content-Length"),
        ("abc", 411, "needs a Content-Length"),
        ("٣", 411, "needs a Content-Length"),
    ],
)
def test_size_of_a_request_is_bounded(
    endpoint: str, length: str, status: int, why: str
) -> None:
    """A body that is too large, or of unknown length, is not read."""
    host, port = endpoint.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        sock.sendall(
            f"POST /decode HTTP/1.1\r\nContent-Length: {length}\r\n\r\n".encode()
        )
        answer = b"".join(iter(lambda: sock.recv(4096), b"")).decode()

    assert answer.startswith(f"HTTP/1.1 {status} ")
    assert why in answer


@pytest.mark.parametrize("path", ["/", "/download", "/decode/x"])
def test_other_paths_are_explained(endpoint: str, path: str) -> None:
    """What is not served is answered with what is."""
    status, _, answer = ask(endpoint, path)

    assert 404 == status
    assert "POST to /decode or /encode" in answer.decode()


def test_server_goes_on_after_a_connection_that_breaks_off(
    endpoint: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """A client that goes away in the middle of a request harms nobody, silently."""
    host, port = endpoint.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        sock.sendall(b"POST /decode HTTP/1.1\r\nContent-Length: 100\r\n\r\n{")

    status, _, _ = ask(endpoint, "/decode", as_json(plain(b"1")))

    assert 200 == status
    assert ("", "") == capfd.readouterr()


def test_port_is_free_again_afterwards() -> None:
    """The port can be asked for, is refused while it is taken, and then free at once."""
    with serve_codec(ZlibCodec()) as first:
        port = int(first.rpartition(":")[2])
        ask(first, "/decode")
        with pytest.raises(ServerError) as refused, serve_codec(ZlibCodec(), port=port):
            pass

    with serve_codec(ZlibCodec(), port=port) as again:
        status, _, _ = ask(again, "/decode")

    assert f"cannot listen on 127.0.0.1:{port}" in str(refused.value)
    assert (first, 200) == (again, status)


def test_web_ui_has_two_names() -> None:
    """People open the page under either name of this machine."""
    assert ("http://127.0.0.1:1", "http://localhost:1") == ui_origins(1)


@pytest.mark.parametrize("url", ["127.0.0.1:8233", "http://", "http://a/b", "*"])
def test_wrong_origin_is_bad_usage(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command names an origin that can never match."""
    status = main(["codec-server", "--port", "0", "--json", "--origin", url])

    assert 2 == status
    assert url in json.loads(capsys.readouterr().out)["error"]


def test_codec_server_listens_on_loopback_by_default() -> None:
    """Nobody else is asked in unless the command line says so."""
    args = parser().parse_args(["codec-server"])

    assert ("127.0.0.1", 8234, []) == (args.host, args.port, args.origin)


def test_codec_server_serves_the_page_it_is_given() -> None:
    """The command decodes for the Web UI it was told of and ends in order on SIGTERM."""
    command = [sys.executable, "-m", "tierpool", "codec-server", "--json"]
    command += ["--port", "0", "--origin", PAGE + "/"]

    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        page, _, _ = ask(ready["codec"], "/decode", as_json(plain(b"1")), Origin=PAGE)
        other, _, _ = ask(ready["codec"], "/decode", Origin="http://evil.example")
        process.send_signal(signal.SIGTERM)

    assert (200, 403, 0) == (page, other, process.returncode)
