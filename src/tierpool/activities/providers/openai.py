"""OpenAI's chat completions, and everything that speaks their wire format.

Building the request, reading the chunks and reading the errors; the rest is in
`sdk`. Only this module and `local`, which builds on it, touch the openai SDK.
"""

from __future__ import annotations

import os
from typing import ClassVar, Final, cast
from urllib.parse import urlsplit

import openai
from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageParam
from openai.types.chat.chat_completion_chunk import Choice
from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming
from openai.types.completion_usage import CompletionUsage
from openai.types.shared_params import ResponseFormatJSONSchema

from tierpool.activities.providers.base import Provider, ProviderCall
from tierpool.activities.providers.failures import CutStream, Refusal
from tierpool.activities.providers.http import http_client, request_timeout
from tierpool.activities.providers.schemas import fits_openai_strict, safe_name
from tierpool.activities.providers.sdk import (
    NO_KEY,
    Answer,
    Opened,
    SdkProvider,
    read_usage,
)
from tierpool.contracts import Usage

__all__ = ["PROVIDER", "OpenAIProvider", "takes_completion_limit", "usage_of"]

_OFFICIAL: Final = "https://api.openai.com/v1"

_IN_STREAM: Final = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "not_found_error": 404,
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
    "insufficient_quota": 429,
    "requests": 429,
    "tokens": 429,
    "overloaded_error": 503,
    "unavailable_error": 503,
}
"""Codes and types of errors inside a stream, as the status they stand for."""


class OpenAIProvider(SdkProvider[openai.AsyncOpenAI]):
    """Speaks to OpenAI, or to a compatible server at a `base_url`."""

    name: ClassVar[str] = "openai"
    key_env: ClassVar[str | None] = "OPENAI_API_KEY"

    def _open(self, address: str | None, key: str) -> Opened[openai.AsyncOpenAI]:
        http = http_client(address, openai.DefaultAsyncHttpxClient)
        # Without a key, empty strings keep the SDK from sending the organization
        # and project that it would read from the environment.
        keyless = None if key else ""
        client = openai.AsyncOpenAI(
            api_key=key or NO_KEY,
            organization=keyless,
            project=keyless,
            base_url=address,
            max_retries=0,
            http_client=http,
        )
        return Opened(client, http)

    def _use_key(self, client: openai.AsyncOpenAI, key: str) -> None:
        client.api_key = key or NO_KEY

    async def _stream(
        self, client: openai.AsyncOpenAI, call: ProviderCall, answer: Answer
    ) -> None:
        stream = await client.chat.completions.create(
            **self._body(call), timeout=request_timeout(call)
        )
        async with stream:
            answer.opened = True
            answer.headers = stream.response.headers
            async for chunk in stream:
                _take(chunk, answer)

    async def _list_models(self, client: openai.AsyncOpenAI) -> None:
        await client.models.list()

    def _body(self, call: ProviderCall) -> CompletionCreateParamsStreaming:
        body: CompletionCreateParamsStreaming = {
            "model": call.model,
            "messages": _messages(call),
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if takes_completion_limit(self._base_url(call)):
            body["max_completion_tokens"] = call.max_output_tokens
        else:
            body["max_tokens"] = call.max_output_tokens
        if call.temperature is not None:
            body["temperature"] = call.temperature
        if call.schema is not None:
            body["response_format"] = _format(call)
        return body

    def _base_url(self, call: ProviderCall) -> str:
        """Return the address of the call, as the SDK finds it."""
        return call.base_url or os.environ.get("OPENAI_BASE_URL") or _OFFICIAL

    def _refusal(self, error: BaseException) -> Refusal | None:
        cut = error if isinstance(error, CutStream) else None
        cause = cut.cause if cut else error
        if isinstance(cause, openai.APIStatusError):
            return Refusal(cause.status_code, cause.response.headers, cause.body)
        if cut and isinstance(cause, openai.APIError) and cause.body is not None:
            return Refusal(_implied_status(cause.body), body=cause.body, cut=cut)
        return None


def takes_completion_limit(base_url: str) -> bool:
    """Tell whether the address wants `max_completion_tokens`.

    OpenAI and Azure refuse `max_tokens` for reasoning models. Everybody else
    (llama.cpp, vLLM, Ollama, Mistral, gateways) knows `max_tokens`, while the
    newer name is refused by some and ignored by others, which would leave the
    reply without a bound.
    """
    host = urlsplit(base_url).hostname or ""
    return host.endswith((".openai.com", ".openai.azure.com"))


def usage_of(reported: CompletionUsage) -> Usage | None:
    """Normalise usage; None if it is missing or nonsense.

    OpenAI's input includes cached tokens and its output includes reasoning.
    Some compatible servers leave reasoning out of the output but not out of
    the total: then the total decides.
    """
    prompt, output = reported.prompt_tokens, reported.completion_tokens
    details_in = reported.prompt_tokens_details
    details_out = reported.completion_tokens_details
    numbers: list[object] = [prompt, output, reported.total_tokens]
    if all(isinstance(n, int) for n in numbers) and output >= 0:
        output = max(output, reported.total_tokens - prompt)
    return read_usage(
        input_tokens=prompt,
        output_tokens=output,
        cached=getattr(details_in, "cached_tokens", None),
        written=getattr(details_in, "cache_write_tokens", None),
        reasoning=getattr(details_out, "reasoning_tokens", None),
    )


def _messages(call: ProviderCall) -> list[ChatCompletionMessageParam]:
    system = [("system", call.system)] if call.system else []
    return [
        cast(ChatCompletionMessageParam, {"role": role, "content": text})
        for role, text in (*system, *call.messages)
    ]


def _format(call: ProviderCall) -> ResponseFormatJSONSchema:
    schema = call.schema or {}
    return {
        "type": "json_schema",
        "json_schema": {
            "name": safe_name(call.schema_name),
            "schema": dict(schema),
            "strict": fits_openai_strict(schema),
        },
    }


def _take(chunk: ChatCompletionChunk, answer: Answer) -> None:
    answer.model = chunk.model or answer.model
    # The SDK does not validate chunks: a server may leave `choices` out.
    for choice in chunk.choices or ():
        if not choice.index:
            _take_choice(choice, answer)
    if chunk.usage is not None:  # some report it with every chunk: the last one counts
        answer.usage = usage_of(chunk.usage)


def _take_choice(choice: Choice, answer: Answer) -> None:
    delta = choice.delta
    if delta is not None:
        if delta.content:
            answer.add(delta.content)
        if delta.refusal:
            answer.refused = True
            answer.add(delta.refusal)
        if getattr(delta, "reasoning_content", None):
            answer.add(None)
    if choice.finish_reason:
        answer.finish_reason = str(choice.finish_reason)


def _implied_status(body: object) -> int:
    error = body if isinstance(body, dict) else {}
    for name in (error.get("code"), error.get("status"), error.get("type")):
        if isinstance(name, int) and 400 <= name <= 599:  # llama.cpp, Google
            return name
        if isinstance(name, str) and name in _IN_STREAM:
            return _IN_STREAM[name]
    return 500


PROVIDER: Final[Provider] = OpenAIProvider()
