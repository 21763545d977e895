"""How traces are switched on; each case in a process, which has one tracer for good."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tierpool import load_fleet
from tierpool.tracing import tracing

FLEET = """
version: 1
fleet: acme
tiers: {only: {model: "local:small", free: true}}
agents: {somebody: {prompt: "Do something.\\n", tier: only}}
"""
PROGRAM = """
import json, sys
import tierpool.worker, tierpool.cli.main
from tierpool import load_fleet
from tierpool.tracing import tracing

fleet = load_fleet(sys.argv[1])
loaded = "opentelemetry.trace" in sys.modules
with tracing(fleet) as plugins:
    told = {"loaded": loaded, "plugins": [type(one).__name__ for one in plugins]}
    if plugins:
        from opentelemetry import trace
        with trace.get_tracer("x").start_as_current_span("x") as span:
            told["recorded"] = span.is_recording()
            told["resource"] = dict(getattr(span, "resource", None).attributes) if span.is_recording() else {}
sys.stdout.write(json.dumps(told))
"""
BROKEN = """
import sys
from datetime import timedelta
from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from temporalio.testing import ActivityEnvironment
from tierpool.activities.model_calls import model_call
from tierpool.activities.providers.base import ProviderCall, ProviderReply
from tierpool.contracts import AgentRequest, Route, Usage

class Broken(SpanProcessor):
    def on_end(self, span):
        raise RuntimeError("no disk left")

provider = TracerProvider()
provider.add_span_processor(Broken())
trace.set_tracer_provider(provider)
route = Route(tier="nano", model="openai:small")
request = AgentRequest(role="clerk", item_id="i", route=route)
call = ProviderCall(
    model="small", messages=(), max_output_tokens=5, timeout=timedelta(seconds=5)
)
paid = ProviderReply(text="paid for", usage=Usage(), finish_reason="stop", model="")

def attempt():
    with model_call(request, call) as measured:
        measured.answered(paid)
    return paid.text

sys.stdout.write("\\n" + ActivityEnvironment().run(attempt))
"""
HERE = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}


class Sink(BaseHTTPRequestHandler):
    """Takes whatever is sent."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def collector() -> Iterator[dict[str, str]]:
    """Return the variable that names a collector."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Sink) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,)).start()
        url = f"http://127.0.0.1:{server.server_port}"
        yield {"OTEL_EXPORTER_OTLP_ENDPOINT": url}
        server.shutdown()


def told(path: Path, **env: str) -> Any:
    path.write_text(FLEET)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path)],
        env=os.environ | env,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": " "},
        HERE | {"OTEL_SDK_DISABLED": "TRUE"},
        HERE | {"OTEL_TRACES_EXPORTER": "none"},
    ],
    ids=["unset", "blank", "disabled", "none"],
)
def test_nothing_is_traced_unless_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, env: dict[str, str]
) -> None:
    """No address, a blank one, or one that is switched off: no plugin, no tracer."""
    path = tmp_path / "agents.yaml"
    path.write_text(FLEET)
    for name, value in env.items():
        monkeypatch.setenv(name, value)

    with tracing(load_fleet(path)) as plugins:
        assert () == plugins


def test_an_address_switches_traces_on(
    tmp_path: Path, collector: dict[str, str]
) -> None:
    """The process is called tierpool, in the namespace of its fleet.

    Before, OpenTelemetry is not even imported: that takes 0.1 s.
    """
    found = told(tmp_path / "agents.yaml", **collector)

    assert (False, ["OpenTelemetryPlugin"]) == (found["loaded"], found["plugins"])
    about = found["resource"]
    assert ("tierpool", "acme") == (about["service.name"], about["service.namespace"])


def test_the_environment_names_the_service_and_samples(
    tmp_path: Path, collector: dict[str, str]
) -> None:
    """What a user sets goes before what tierpool would say."""
    path = tmp_path / "agents.yaml"
    named = told(
        path,
        **collector,
        OTEL_SERVICE_NAME="mine",
        OTEL_RESOURCE_ATTRIBUTES="service.namespace=ours,team=a",
    )
    unsampled = told(path, **collector, OTEL_TRACES_SAMPLER="always_off")

    about = named["resource"]
    assert ("mine", "ours", "a") == (
        about["service.name"],
        about["service.namespace"],
        about["team"],
    )
    assert (True, False) == (named["recorded"], unsampled["recorded"])


def test_a_span_that_cannot_be_sent_costs_no_reply() -> None:
    """What was paid for is not lost to a span processor that raises."""
    done = subprocess.run(
        [sys.executable, "-c", BROKEN], capture_output=True, text=True, check=False
    )

    assert "paid for" == done.stdout.splitlines()[-1], done.stderr
    assert "telemetry.failed" in done.stdout
