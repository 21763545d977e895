"""Anthropic's messages.

Building the request, reading the events and reading the errors; the rest is in
`sdk`. Only this module touches the anthropic SDK.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final, cast

import anthropic
from anthropic.types import MessageParam, OutputConfigParam, RawMessageStreamEvent
from anthropic.types.message_create_params import MessageCreateParamsStreaming

from tierpool.activities.providers.base import Provider, ProviderCall
from tierpool.activities.providers.failures import CutStream, Refusal, error_object
from tierpool.activities.providers.http import http_client, request_timeout
from tierpool.activities.providers.schemas import fits_anthropic
from tierpool.activities.providers.sdk import (
    NO_KEY,
    Answer,
    Opened,
    SdkProvider,
    counts,
    read_usage,
)
from tierpool.activities.providers.sizes import compact_json
from tierpool.contracts import Usage

__all__ = ["PROVIDER", "AnthropicProvider", "usage_of"]

_FINISH: Final = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "refusal",
}

_STATUS_OF: Final = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""Types of errors, as the status they come with outside a stream."""

_USAGE_FIELDS: Final = (
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "output_tokens_details",
)


class AnthropicProvider(SdkProvider[anthropic.AsyncAnthropic]):
    """Speaks to Anthropic, or to a compatible server at a `base_url`."""

    name: ClassVar[str] = "anthropic"
    key_env: ClassVar[str | None] = "ANTHROPIC_API_KEY"

    def _open(self, address: str | None, key: str) -> Opened[anthropic.AsyncAnthropic]:
        http = http_client(address, anthropic.DefaultAsyncHttpxClient)
        client = anthropic.AsyncAnthropic(
            api_key=key or NO_KEY,
            base_url=address,
            max_retries=0,
            http_client=http,
        )
        return Opened(client, http)

    def _use_key(self, client: anthropic.AsyncAnthropic, key: str) -> None:
        client.api_key = key or NO_KEY

    async def _stream(
        self, client: anthropic.AsyncAnthropic, call: ProviderCall, answer: Answer
    ) -> None:
        stream = await client.messages.create(
            **_parameters(call),
            extra_body=_extra(call),
            timeout=request_timeout(call),
        )
        reported: dict[str, object] = {}
        async with stream:
            answer.opened = True
            answer.headers = stream.response.headers
            async for event in stream:
                _take(event, answer, reported)

    async def _list_models(self, client: anthropic.AsyncAnthropic) -> None:
        await client.models.list(limit=1)

    def _body(self, call: ProviderCall) -> Mapping[str, object]:
        return {**_parameters(call), **_extra(call)}

    def _refusal(self, error: BaseException) -> Refusal | None:
        cut = error if isinstance(error, CutStream) else None
        cause = cut.cause if cut else error
        if not isinstance(cause, anthropic.APIStatusError):
            return None
        if cause.status_code != 200:
            return Refusal(cause.status_code, cause.response.headers, cause.body)
        status = _STATUS_OF.get(_error_type(cause.body), 500)
        return Refusal(status, body=cause.body, cut=cut)


def usage_of(reported: dict[str, object]) -> Usage | None:
    """Normalise usage; None if it is missing or nonsense.

    Anthropic's `input_tokens` leaves out what was read from and written to the
    cache; ours includes both.
    """
    parts = counts(
        [
            reported.get("input_tokens"),
            reported.get("cache_read_input_tokens") or 0,
            reported.get("cache_creation_input_tokens") or 0,
        ]
    )
    if parts is None:
        return None
    details = reported.get("output_tokens_details")
    return read_usage(
        input_tokens=sum(parts),
        output_tokens=reported.get("output_tokens"),
        cached=parts[1],
        written=parts[2],
        reasoning=getattr(details, "thinking_tokens", None),
    )


def _parameters(call: ProviderCall) -> MessageCreateParamsStreaming:
    system, output = _system_and_output(call)
    parameters: MessageCreateParamsStreaming = {
        "model": call.model,
        "messages": [
            cast(MessageParam, {"role": role, "content": text})
            for role, text in call.messages
        ],
        "max_tokens": call.max_output_tokens,
        "stream": True,
    }
    if system:
        parameters["system"] = system
    if output:
        parameters["output_config"] = output
    return parameters


def _extra(call: ProviderCall) -> dict[str, object]:
    """Return what the SDK has no parameter for: the newest models refuse it."""
    return {} if call.temperature is None else {"temperature": call.temperature}


def _system_and_output(
    call: ProviderCall,
) -> tuple[str | None, OutputConfigParam | None]:
    """Ask for the schema: enforced where the provider can, else in words."""
    if call.schema is None:
        return call.system, None
    schema = dict(call.schema)
    if fits_anthropic(schema):
        plain = cast(dict[str, object], anthropic.transform_schema(schema))
        return call.system, {"format": {"type": "json_schema", "schema": plain}}
    words = (
        "Answer with one JSON object that satisfies this JSON Schema, "
        f"and nothing else:\n{compact_json(schema)}"
    )
    return f"{call.system}\n\n{words}" if call.system else words, None


def _take(
    event: RawMessageStreamEvent, answer: Answer, reported: dict[str, object]
) -> None:
    match event.type:
        case "message_start":
            answer.model = event.message.model or answer.model
            _note_usage(event.message.usage, reported)
            reported.pop("output_tokens", None)  # of a message that has just begun
        case "content_block_delta":
            delta = event.delta
            answer.add(delta.text if delta.type == "text_delta" else None)
        case "message_delta":
            # Its counts are totals, and replace those of the start.
            _note_usage(event.usage, reported)
            reason = event.delta.stop_reason
            if reason:
                answer.usage = usage_of(reported)
                answer.finish_reason = _FINISH.get(reason, str(reason))
        case _:
            pass


def _note_usage(usage: object, reported: dict[str, object]) -> None:
    for name in _USAGE_FIELDS:
        value = getattr(usage, name, None)
        if value is not None:
            reported[name] = value


def _error_type(body: object) -> str:
    return str((error_object(body) or {}).get("type"))


PROVIDER: Final[Provider] = AnthropicProvider()
