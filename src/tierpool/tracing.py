"""Traces of this process: workflow, activity, model call, sent to a collector.

OpenTelemetry's own environment variables decide: a process traces if
`OTEL_EXPORTER_OTLP_ENDPOINT` (or `…_TRACES_ENDPOINT`) names a collector. The
spans of workflows and activities are those of Temporal's plugin; what a model
call's span says stands in `activities.model_calls`. Whoever runs workers of
their own sets OpenTelemetry up themselves and needs nothing from here.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import structlog
from temporalio.client import Plugin

from tierpool import __version__
from tierpool.contracts.claims import claims_id
from tierpool.contracts.ledger import ledger_id
from tierpool.contracts.limits import limits_id
from tierpool.contracts.scaling import scaling_id
from tierpool.errors import UsageError
from tierpool.fleet import LoadedFleet

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace.sampling import Sampler
    from opentelemetry.trace import Link, SpanKind, TraceState
    from opentelemetry.util.types import Attributes
    from temporalio.contrib.opentelemetry import ReplaySafeTracerProvider

__all__ = ["tracing"]

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_HTTP = "http/protobuf"
_OF_ENTITIES = (ledger_id, claims_id, limits_id, scaling_id)
_FLUSH_SECONDS = 5.0
_QUERIES = ("QueryWorkflow:", "HandleQuery:")

_log = structlog.get_logger()


@contextmanager
def tracing(fleet: LoadedFleet) -> Iterator[Sequence[Plugin]]:
    """Trace until the block ends, if the environment asks for it.

    Yields the plugins to connect with: none, or Temporal's. At the end the spans
    that are left are sent. The tracer is the process's: use this once.

    Raises:
        UsageError: if traces are asked for and cannot be made: the extra is not
            installed, the address is none, or the protocol is not HTTP.
    """
    where = _endpoint()
    if not where:
        yield ()
        return
    try:
        provider = _provider(fleet)
        from temporalio.contrib.opentelemetry import OpenTelemetryPlugin
    except ImportError as error:
        raise UsageError(
            f"{where} asks for traces, but {error.name} is not installed: "
            "pip install 'tierpool[otel]', or set OTEL_SDK_DISABLED=true"
        ) from error
    _log.info("tracing.started", variable=where)
    try:
        yield (OpenTelemetryPlugin(add_temporal_spans=True),)
    finally:
        # with a collector that is gone it would take half a minute
        ending = threading.Thread(target=provider.shutdown, daemon=True)
        ending.start()
        ending.join(_FLUSH_SECONDS)


def _endpoint() -> str:
    """Return the variable that names the collector; empty if nothing is traced.

    Raises:
        UsageError: for an address or a protocol that cannot be used.
    """
    disabled = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    if disabled or os.environ.get("OTEL_TRACES_EXPORTER", "").strip() == "none":
        return ""
    where = next((name for name in _ENDPOINTS if os.environ.get(name, "").strip()), "")
    if not where:
        return ""
    url = urlsplit(os.environ[where].strip())
    if url.scheme not in ("http", "https") or not url.hostname:
        # not the value: it may carry a password
        raise UsageError(
            f"{where} is no address of a collector: it has to begin with http:// or "
            "https://, such as http://127.0.0.1:4318"
        )
    for name in _PROTOCOLS:
        protocol = os.environ.get(name, "").strip()
        if protocol and protocol != _HTTP:
            raise UsageError(
                f"{name}={protocol!r} is not spoken here; {_HTTP!r} is, which "
                "collectors take on port 4318"
            )
    return where


def _provider(fleet: LoadedFleet) -> ReplaySafeTracerProvider:
    """Make the process's tracer; spans are sent in batches by a thread of its own."""
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from temporalio.contrib.opentelemetry import create_tracer_provider

    given = OTELResourceDetector().detect().attributes
    ours = {
        "service.name": "tierpool",
        "service.namespace": fleet.name,
        "service.version": __version__,
    }
    made = create_tracer_provider(
        # an unused provider has the sampler that the environment asks for
        sampler=_sampler(fleet.name, TracerProvider(shutdown_on_exit=False).sampler),
        resource=Resource.create({k: v for k, v in ours.items() if k not in given}),
        shutdown_on_exit=False,
    )
    made.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(made)
    return made


def _sampler(fleet: str, asked: Sampler) -> Sampler:
    """Leave out what is no part of an item: the fleet's entities, and queries.

    Every worker asks the ledger every second or so; these updates would bury the
    items, and an entity's own span would last for days.
    """
    from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult

    entities = {id_of(fleet) for id_of in _OF_ENTITIES}

    class _Items(Sampler):
        def should_sample(
            self,
            parent_context: Context | None,
            trace_id: int,
            name: str,
            kind: SpanKind | None = None,
            attributes: Attributes = None,
            links: Sequence[Link] | None = None,
            trace_state: TraceState | None = None,
        ) -> SamplingResult:
            id = (attributes or {}).get("temporalWorkflowID")
            if id in entities or name.startswith(_QUERIES):
                return SamplingResult(Decision.DROP)
            return asked.should_sample(
                parent_context, trace_id, name, kind, attributes, links, trace_state
            )

        def get_description(self) -> str:
            return f"Items({asked.get_description()})"

    return _Items()
