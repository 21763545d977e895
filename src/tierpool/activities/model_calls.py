"""What is measured of a model call: its duration, its tokens, its span.

Metrics go to Temporal's meter and so wherever the SDK's own go; spans to
OpenTelemetry's tracer, if the process has one. Neither ever gets a prompt, a
reply, or anything of an item. What goes wrong here is logged and nothing more:
the call may have been paid for.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import structlog
from temporalio import activity

from tierpool import telemetry as names
from tierpool.activities.providers.base import (
    ProviderCall,
    ProviderError,
    ProviderReply,
)
from tierpool.blueprint import split_model
from tierpool.contracts import AgentRequest, FailureDetail, Outcome, Usage

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from opentelemetry.trace import Span, Tracer

__all__ = ["ModelCall", "model_call"]

_log = structlog.get_logger()

_CHAT = "chat"
"""Name of the operation: every provider here is asked for the next message."""
_TRACER = "tierpool"
_PORTS = {"http": 80, "https": 443}


class ModelCall:
    """A model call under way."""

    def __init__(self, request: AgentRequest, span: Span | None) -> None:
        """Take what was asked for, and the span of the call if there is one."""
        provider, model = split_model(request.route.model)
        self._span, self._began = span, time.perf_counter()
        self._labels: dict[str, str | int | float | bool] = {
            names.in_prometheus(names.GENAI_OPERATION): _CHAT,
            names.in_prometheus(names.GENAI_PROVIDER): provider,
            names.in_prometheus(names.GENAI_REQUEST_MODEL): model,
            "tier": request.route.tier,
        }

    def answered(self, answer: ProviderReply) -> None:
        """Measure a call that gave an answer."""
        outcome = Outcome.BILLED if answer.usage else Outcome.AMBIGUOUS
        self._ended(outcome, "", answer.usage)
        if self._span is not None:
            self._span.set_attribute(names.GENAI_FINISH_REASONS, [answer.finish_reason])
            if answer.model:
                self._span.set_attribute(names.GENAI_RESPONSE_MODEL, answer.model)

    def failed(self, failure: FailureDetail) -> None:
        """Measure a call that gave none."""
        error = str(failure.status) if failure.status else "no_answer"
        self._ended(failure.outcome, error, failure.usage)

    def cancelled(self) -> None:
        """Measure a call that was broken off."""
        self._ended(Outcome.AMBIGUOUS, "cancelled", None)

    def _ended(self, outcome: Outcome, error: str, usage: Usage | None) -> None:
        took = time.perf_counter() - self._began
        with _harmless():
            self._measure(took, outcome, error, usage)
        if self._span is not None:
            _describe(self._span, outcome, error, usage)

    def _measure(
        self, took: float, outcome: Outcome, error: str, usage: Usage | None
    ) -> None:
        # an empty label is none: every sample has the same ones
        ended = {"outcome": outcome.value, names.in_prometheus(names.ERROR_TYPE): error}
        activity.metric_meter().create_histogram_float(
            names.in_prometheus(names.GENAI_DURATION),
            names.METERED[names.METRIC_GENAI_DURATION],
            "seconds",  # becomes the name's end; "s" would be `_s`
        ).record(took, self._labels | ended)
        if usage is not None:
            self._count(usage)

    def _count(self, usage: Usage) -> None:
        histogram = activity.metric_meter().create_histogram(
            names.METRIC_GENAI_TOKENS, names.METERED[names.METRIC_GENAI_TOKENS]
        )
        kind = names.in_prometheus(names.GENAI_TOKEN_TYPE)
        histogram.record(usage.input_tokens, self._labels | {kind: "input"})
        histogram.record(usage.output_tokens, self._labels | {kind: "output"})


@contextmanager
def model_call(request: AgentRequest, call: ProviderCall) -> Iterator[ModelCall]:
    """Measure a call to a provider from here to the end of the block.

    The block says when it is answered; how it failed is seen by its error.
    """
    span = None
    with _harmless():
        span = _begun(request, call)
    made = ModelCall(request, span)
    try:
        with _current(span):
            yield made
    except ProviderError as error:
        made.failed(error.detail)
        raise
    except asyncio.CancelledError:
        made.cancelled()
        raise
    finally:
        with _harmless():
            if span is not None:
                span.end()


@contextmanager
def _harmless() -> Iterator[None]:
    """Keep errors of meters, and of whatever spans are sent to, from the call."""
    try:
        yield
    except Exception:  # noqa: BLE001 - processors of spans may be the user's code
        _log.exception("telemetry.failed")


def _begun(request: AgentRequest, call: ProviderCall) -> Span | None:
    """Begin a span; none where nobody has set OpenTelemetry up.

    Importing it takes 0.1 s, and a process that has not done so has no tracer.
    """
    trace: Any = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    tracer: Tracer = trace.get_tracer(_TRACER)
    asked = _asked(request, call)
    kind = trace.SpanKind.CLIENT
    return tracer.start_span(f"{_CHAT} {call.model}", kind=kind, attributes=asked)


def _current(span: Span | None) -> AbstractContextManager[object]:
    """Make a span the current one: what the client sends belongs to it."""
    if span is None:
        return nullcontext()
    # messages of errors are the workflow's to show; here their type says enough
    used: AbstractContextManager[object] = sys.modules["opentelemetry.trace"].use_span(
        span, record_exception=False, set_status_on_exception=False
    )
    return used


def _asked(request: AgentRequest, call: ProviderCall) -> dict[str, str | int | float]:
    provider, model = split_model(request.route.model)
    asked: dict[str, str | int | float] = {
        names.GENAI_OPERATION: _CHAT,
        names.GENAI_PROVIDER: provider,
        names.GENAI_REQUEST_MODEL: model,
        names.GENAI_MAX_TOKENS: call.max_output_tokens,
        names.GENAI_OUTPUT_TYPE: "text" if call.schema is None else "json",
        names.GENAI_AGENT_NAME: request.role,
        names.SPAN_TIER: request.route.tier,
        names.SPAN_ATTEMPT: request.attempt,
    }
    if call.temperature is not None:
        asked[names.GENAI_TEMPERATURE] = call.temperature
    # not the whole address: it may carry a key
    where = urlsplit(call.base_url or "")
    if where.hostname:
        asked[names.SERVER_ADDRESS] = where.hostname
        asked[names.SERVER_PORT] = where.port or _PORTS.get(where.scheme, 0)
    return asked


def _describe(span: Span, outcome: Outcome, error: str, usage: Usage | None) -> None:
    span.set_attribute(names.SPAN_OUTCOME, outcome.value)
    if error:
        span.set_attribute(names.ERROR_TYPE, error)
        span.set_status(sys.modules["opentelemetry.trace"].StatusCode.ERROR)
    if usage is None:
        return
    span.set_attribute(names.GENAI_INPUT_TOKENS, usage.input_tokens)
    span.set_attribute(names.GENAI_OUTPUT_TOKENS, usage.output_tokens)
    for name, tokens in (
        (names.GENAI_CACHE_READ_TOKENS, usage.cached_input_tokens),
        (names.GENAI_CACHE_CREATION_TOKENS, usage.cache_write_tokens),
        (names.GENAI_REASONING_TOKENS, usage.reasoning_tokens),
    ):
        if tokens:
            span.set_attribute(name, tokens)
