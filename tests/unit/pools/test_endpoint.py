"""The HTTP endpoint of a worker process, over real HTTP."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from tierpool.contracts.reports import PoolReport, Window, WorkerReport
from tierpool.errors import UsageError
from tierpool.pools.endpoint import Listen, metrics_runtime, pages, serve_endpoint

NOW = datetime(2026, 11, 2, 12, tzinfo=UTC)
FREE = Listen(port=0)
SDK = b"# TYPE temporal_num_pollers gauge\ntemporal_num_pollers 5\n"


def worker(*pools: PoolReport, **more: Any) -> WorkerReport:
    more = {"id": "w1", "fleet": "acme", "started": NOW, "at": NOW} | more
    return WorkerReport(pools=pools, **({"state": "running"} | more))


def ask(
    url: str, path: str, method: str = "GET", **more: Any
) -> tuple[int, dict[str, str], bytes]:
    """Send a request, on a connection of its own."""
    with closing(
        http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
    ) as connection:
        connection.request(method, path, **more)
        response = connection.getresponse()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return response.status, headers, response.read()


async def get(url: str, path: str, method: str = "GET", **more: Any) -> tuple[int, Any]:
    """Return the status and the JSON of an answer."""
    status, headers, body = await asyncio.to_thread(ask, url, path, method, **more)
    assert "application/json" == headers["content-type"]
    return status, json.loads(body)


async def metrics(url: str) -> dict[str, float]:
    """Return the samples without labels; a metric may be announced once only."""
    status, headers, body = await asyncio.to_thread(ask, url, "/metrics")
    assert (200, "text/plain; version=0.0.4; charset=utf-8") == (
        status,
        headers["content-type"],
    )
    families = list(text_string_to_metric_families(body.decode()))
    assert len(families) == len({family.name for family in families})
    return {s.name: s.value for f in families for s in f.samples if not s.labels}


@asynccontextmanager
async def answering(reply: bytes, *, then_wait: bool = False) -> AsyncIterator[str]:
    """Serve something in the place of the SDK's metrics; yields its URL."""
    over = asyncio.Event()

    async def answer(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply)
        if then_wait:
            await over.wait()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        try:
            yield f"http://127.0.0.1:{port}/metrics"
        finally:
            over.set()


def replied(body: bytes, status: str = "200 OK", length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return f"HTTP/1.1 {status}\r\nContent-Length: {size}\r\n\r\n".encode() + body


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait less for what never answers."""
    monkeypatch.setattr(pages, "_ANSWER_SECONDS", 0.3)


async def test_health_is_the_whole_report() -> None:
    """Readers need not know the defaults, which the wire leaves out."""
    report = worker(PoolReport(pool="nano", window=Window(completed=2)), pid=7)
    async with serve_endpoint(lambda: report, FREE) as url:
        status, found = await get(url, "/health?verbose=1")

    assert 200 == status
    assert report == WorkerReport.model_validate(found)
    assert set(WorkerReport.model_fields) == set(found)
    assert set(PoolReport.model_fields) == set(found["pools"][0])
    assert set(Window.model_fields) == set(found["pools"][0]["window"])
    assert ("2026-11-02T12:00:00Z", "", "", []) == (
        found["at"],
        found["limits"],
        found["host"],
        found["serves"],
    )


async def test_report_is_made_on_the_event_loop_for_each_request() -> None:
    threads: list[threading.Thread] = []

    def report() -> WorkerReport:
        asyncio.get_running_loop()
        threads.append(threading.current_thread())
        return worker(pid=len(threads))

    async with serve_endpoint(report, FREE) as url:
        answers = [await get(url, "/health") for _ in range(2)]

    assert [1, 2] == [found["pid"] for _, found in answers]
    assert {threading.current_thread()} == set(threads)


async def test_ready_while_running() -> None:
    async with serve_endpoint(lambda: worker(PoolReport(pool="nano")), FREE) as url:
        assert (200, {"ready": True}) == await get(url, "/ready")


@pytest.mark.parametrize("state", ["starting", "draining"])
async def test_not_ready_in_other_states(state: str) -> None:
    async with serve_endpoint(lambda: worker(state=state), FREE) as url:
        ready = await get(url, "/ready")
        healthy, _ = await get(url, "/health")

    assert (503, {"ready": False, "reason": state}) == ready
    assert 200 == healthy


async def test_not_ready_with_a_pool_in_trouble() -> None:
    pools = PoolReport(pool="nano"), PoolReport(pool="premium", trouble="no key")
    async with serve_endpoint(lambda: worker(*pools), FREE) as url:
        ready = await get(url, "/ready")

    assert (503, {"ready": False, "reason": "pool premium: no key"}) == ready


@pytest.mark.usefixtures("soon")
async def test_blocked_event_loop_is_not_well() -> None:
    """Asks while this test holds the loop, and lets go after the answers."""
    found: dict[str, tuple[int, bytes]] = {}
    done = threading.Event()

    def asking() -> None:
        for path in ("/health", "/ready", "/metrics"):
            status, _, body = ask(url, path)
            found[path] = status, body
        done.set()

    async with serve_endpoint(worker, FREE) as url:
        thread = threading.Thread(target=asking)
        thread.start()
        done.wait(20)
        thread.join()
        again, _ = await get(url.replace("127.0.0.1", "localhost"), "/nothing")

    reason = "the event loop has not answered for 0.3 s"
    assert {503} == {status for status, _ in found.values()}
    assert {"error": reason} == json.loads(found["/health"][1])
    assert {"error": reason} == json.loads(found["/metrics"][1])
    assert {"ready": False, "reason": reason} == json.loads(found["/ready"][1])
    assert 404 == again


async def test_loop_that_runs_again_is_well_again() -> None:
    reports: list[Callable[[], WorkerReport]] = [worker]
    async with serve_endpoint(lambda: reports[0](), FREE) as url:
        reports[0] = lambda: worker(**{"id": 1 / 0})
        with capture_logs() as logs:
            broken = await get(url, "/health")
        reports[0] = worker
        status, _ = await get(url, "/health")

    assert (503, {"error": "the report failed with ZeroDivisionError"}) == broken
    assert [
        {
            "event": "endpoint.report_failed",
            "error": "ZeroDivisionError",
            "log_level": "warning",
        }
    ] == logs
    assert 200 == status


async def test_closed_loop_is_told() -> None:
    """An answer that is due after the loop's end leaves nothing behind."""
    loop = asyncio.new_event_loop()
    loop.close()

    page = pages.page_at("/health", pages.Source(worker, loop, None))

    assert (503, {"error": "the process is stopping"}) == (
        page.status,
        json.loads(page.body),
    )


async def test_other_paths_are_not_found() -> None:
    async with serve_endpoint(worker, FREE) as url:
        status, found = await get(url, "/favicon.ico")

    assert (404, {"error"}) == (status, set(found))
    assert found["error"] == (
        "'/favicon.ico' is not served here; there are /metrics, /health, /ready"
    )


@pytest.mark.parametrize("method", ["POST", "DELETE", "OPTIONS", "TRACE", "ODD"])
async def test_other_methods_are_not_allowed(method: str) -> None:
    async with serve_endpoint(worker, FREE) as url:
        status, headers, body = await asyncio.to_thread(
            ask, url, "/health", method, body=b"{}"
        )

    assert (405, "GET, HEAD") == (status, headers["allow"])
    assert {"error": f"{method} is not allowed; only GET and HEAD are"} == json.loads(
        body
    )


@pytest.mark.parametrize("path", ["/metrics", "/health", "/ready", "/nothing"])
async def test_head_is_get_without_a_body(path: str) -> None:
    async with serve_endpoint(worker, FREE) as url:
        expected, _, _ = await asyncio.to_thread(ask, url, path)
        status, headers, body = await asyncio.to_thread(ask, url, path, "HEAD")

    assert (expected, b"") == (status, body)
    assert int(headers["content-length"]) > 0


async def test_nothing_is_written_for_requests(
    capfd: pytest.CaptureFixture[str],
) -> None:
    async with serve_endpoint(worker, FREE) as url:
        host, port = url.removeprefix("http://").split(":")
        await get(url, "/nothing")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /health")
        writer.transport.abort()
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"nonsense\r\n\r\n")
        writer.transport.abort()
        await get(url, "/health")

    assert ("", "") == capfd.readouterr()


async def test_metrics_without_an_sdk() -> None:
    async with serve_endpoint(lambda: worker(PoolReport(pool="p", calls=4)), FREE) as u:
        assert 4 == (await metrics(u))["tierpool_worker_calls_total"]


async def test_metrics_of_the_sdk_are_added(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy of the environment is asked for them."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    async with (
        answering(replied(SDK)) as sdk,
        serve_endpoint(worker, FREE, sdk_metrics=sdk) as url,
    ):
        found = await metrics(url)

    assert (0, 5) == (
        found["tierpool_worker_calls_total"],
        found["temporal_num_pollers"],
    )


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize(
    ("reply", "then_wait"),
    [
        (b"", False),
        (b"", True),
        (replied(SDK, length=1000), False),
        (replied(SDK, length=1000), True),
        (replied(SDK, "500 Oops"), False),
        (replied(b"temporal_num_pollers \xff\n"), False),
        (b"not HTTP\r\n\r\n", False),
    ],
    ids=["closes", "silent", "cut off", "stalls", "fails", "no UTF-8", "no HTTP"],
)
async def test_metrics_without_those_of_a_broken_sdk(
    reply: bytes, then_wait: bool
) -> None:
    async with (
        answering(reply, then_wait=then_wait) as sdk,
        serve_endpoint(worker, FREE, sdk_metrics=sdk) as url,
    ):
        found = await metrics(url)

    assert 0 == found["tierpool_worker_calls_total"]
    assert "temporal_num_pollers" not in found


async def test_metrics_without_those_of_a_dead_sdk() -> None:
    async with answering(b"") as sdk:
        pass
    async with serve_endpoint(worker, FREE, sdk_metrics=sdk) as url:
        assert 0 == (await metrics(url))["tierpool_worker_calls_total"]


async def test_sdk_runtime_passes_its_metrics_on() -> None:
    """A counter of one's own is there without a client."""
    runtime, sdk = metrics_runtime(tags={"fleet": "acme"})
    runtime.metric_meter.create_counter("own_reviews", "Reviews.").add(3)

    async with serve_endpoint(worker, FREE, sdk_metrics=sdk) as url:
        _, _, body = await asyncio.to_thread(ask, url, "/metrics")

    samples = [
        sample
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    ]
    (own,) = (sample for sample in samples if sample.name == "own_reviews_total")
    assert (3, "acme") == (own.value, own.labels["fleet"])
    assert "tierpool_worker_calls_total" in {sample.name for sample in samples}


def test_sdk_runtime_says_what_it_refuses() -> None:
    with pytest.raises(ValueError, match="1s and 60s"):
        metrics_runtime(heartbeat=timedelta(minutes=5))


async def test_taken_port_is_replaced() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with capture_logs() as logs:
            async with serve_endpoint(worker, Listen(port=port)) as url:
                status, _ = await get(url, "/health")

    assert 200 == status
    (warning,) = logs
    assert ("endpoint.port_taken", port) == (warning["event"], warning["port"])
    assert url == f"http://127.0.0.1:{warning['instead']}"
    assert port != warning["instead"]


async def test_taken_port_is_refused_if_required() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError) as refused:
            async with serve_endpoint(worker, Listen(port=port, required=True)):
                pass

    assert str(refused.value).startswith(f"cannot listen on 127.0.0.1:{port}: ")
    assert "name another address or port" in str(refused.value)


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid", "a..b"])
async def test_address_of_another_machine_is_refused(host: str) -> None:
    with pytest.raises(UsageError, match=f"cannot listen on {host}:8080: "):
        async with serve_endpoint(worker, Listen(host)):
            pass


def test_impossible_port_is_refused() -> None:
    with pytest.raises(UsageError, match="no port from 0 to 65535: 70000"):
        Listen(port=70000)


async def test_localhost_is_ipv4() -> None:
    async with serve_endpoint(worker, Listen("localhost", 0)) as url:
        status, _ = await get(url, "/health")

    assert 200 == status
    assert url.startswith("http://127.0.0.1:")


async def test_port_is_free_again_afterwards() -> None:
    async with serve_endpoint(worker, FREE) as first:
        await get(first, "/health")
    port = int(first.rpartition(":")[2])

    async with serve_endpoint(worker, Listen(port=port, required=True)) as again:
        status, _ = await get(again, "/health")

    assert (first, 200) == (again, status)


@pytest.mark.skipif(not socket.has_ipv6, reason="needs IPv6")
async def test_ipv6_address_stands_in_brackets() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 loopback")
    async with serve_endpoint(worker, Listen("::1", 0)) as url:
        status, _ = await get(url, "/health")

    assert 200 == status
    assert url.startswith("http://[::1]:")


async def test_inherited_socket_outlives_the_processes_that_use_it() -> None:
    """A supervisor keeps its own, and one process after the other answers on it."""
    with socket.create_server(("127.0.0.1", 0)) as kept:
        found = []
        for name in ("first", "second"):
            listen = Listen("ignored", 1, sock=kept.dup())
            async with serve_endpoint(lambda n=name: worker(id=n), listen) as url:
                found.append((await get(url, "/health"))[1]["id"])

        assert url == f"http://127.0.0.1:{kept.getsockname()[1]}"
    assert ["first", "second"] == found


async def test_inherited_socket_can_be_shared() -> None:
    """Each connection has one of them; none of them waits for a lost one."""
    with socket.create_server(("127.0.0.1", 0)) as kept:
        async with (
            serve_endpoint(worker, Listen(sock=kept.dup())) as url,
            serve_endpoint(worker, Listen(sock=kept.dup())),
        ):
            answers = await asyncio.gather(*(get(url, "/ready") for _ in range(40)))

    assert {200} == {status for status, _ in answers}


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("8080", "127.0.0.1", 8080),
        (":9090", "127.0.0.1", 9090),
        ("0", "127.0.0.1", 0),
        ("0.0.0.0:65535", "0.0.0.0", 65535),
        ("localhost:80", "localhost", 80),
        ("worker-1.acme_net:80", "worker-1.acme_net", 80),
        ("[::1]:8080", "::1", 8080),
        ("[::]:8080", "::", 8080),
    ],
)
def test_addresses(text: str, host: str, port: int) -> None:
    assert Listen(host, port) == Listen.parse(text)


def test_parsed_address_can_be_required() -> None:
    assert Listen.parse("80", required=True).required


@pytest.mark.parametrize(
    ("text", "flaw"),
    [
        ("", "'' is no port from 0 to 65535"),
        ("localhost", "'localhost' is no port from 0 to 65535"),
        ("localhost:", "'' is no port from 0 to 65535"),
        ("localhost:http", "'http' is no port from 0 to 65535"),
        (":65536", "'65536' is no port from 0 to 65535"),
        (":-1", "'-1' is no port from 0 to 65535"),
        (":1e3", "'1e3' is no port from 0 to 65535"),
        (":٣", "'٣' is no port from 0 to 65535"),
        ("::1:8080", "an IPv6 address needs brackets"),
        ("[::1]", "'1]' is no port"),
        ("[localhost]:80", "'[localhost]' is no IPv6 address"),
        ("[]:80", "'[]' is no IPv6 address"),
        ("http://localhost:80", "this is a URL or a path"),
        ("localhost:80/metrics", "this is a URL or a path"),
        ("my host:80", "'my host' is no name or address"),
        ("[::1:80", "an IPv6 address needs brackets"),
    ],
)
def test_addresses_that_mean_nothing(text: str, flaw: str) -> None:
    with pytest.raises(UsageError) as refused:
        Listen.parse(text)

    message = str(refused.value)
    assert message.startswith(f"cannot listen on {text!r}: ")
    assert flaw in message
    assert "such as 127.0.0.1:8080, 8080 or [::1]:8080" in message
