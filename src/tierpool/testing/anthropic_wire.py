"""Anthropic's messages as the scripted provider reads and writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping

from pydantic import JsonValue

from tierpool.contracts import Usage
from tierpool.testing.steps import Fail
from tierpool.testing.wire import BadRequest, Parsed, Produced, require, texts

__all__ = ["AnthropicWire"]

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_FINISH = {"stop": "end_turn", "length": "max_tokens", "content_filter": "refusal"}


class AnthropicWire:
    """`POST /v1/messages`."""

    def parse(self, body: Mapping[str, JsonValue]) -> Parsed:
        """Read a request as strictly as Anthropic does where it matters here.

        Raises:
            BadRequest: for what Anthropic answers with 400.
        """
        model = require(body, "model", str)
        limit = require(body, "max_tokens", int)
        messages = texts(require(body, "messages", list))
        if limit < 1:
            raise BadRequest("must be at least 1", "max_tokens")
        if messages[0][0] != "user":
            raise BadRequest("the first message must be the user's", "messages")
        system = body.get("system")
        if isinstance(system, list):
            system = "\n".join(t for _, t in texts([{"content": system}]))
        return Parsed(
            model=model,
            system=system if isinstance(system, str) and system else None,
            messages=tuple(messages),
            schema=_schema(body.get("output_config")),
            schema_name=None,
            strict=None,
            max_tokens=limit,
            limit_name="max_tokens",
            stream=body.get("stream") is True,
            stream_usage=True,
        )

    def whole(self, made: Produced) -> Mapping[str, JsonValue]:
        """Return an answer that is not streamed."""
        answer = self._message(made)
        answer["content"] = [{"type": "text", "text": made.text}]
        answer["stop_reason"] = _finish(made)
        if made.report_usage:
            answer["usage"] = _usage(made.usage)
        return answer

    def head(self, made: Produced) -> bytes:
        """Return what a stream begins with."""
        message = self._message(made)
        if made.report_usage:
            message["usage"] = {**_usage(made.usage), "output_tokens": 1}
        block: dict[str, JsonValue] = {"type": "text", "text": ""}
        return _events(
            {"type": "message_start", "message": message},
            {"type": "content_block_start", "index": 0, "content_block": block},
            {"type": "ping"},
        )

    def piece(self, made: Produced, text: str) -> bytes:
        """Return one chunk of text."""
        delta: dict[str, JsonValue] = {"type": "text_delta", "text": text}
        return _events({"type": "content_block_delta", "index": 0, "delta": delta})

    def finish(self, made: Produced) -> bytes:
        """Return the events that say why the reply ends, with its usage."""
        delta: dict[str, JsonValue] = {
            "type": "message_delta",
            "delta": {"stop_reason": _finish(made), "stop_sequence": None},
        }
        if made.report_usage:
            delta["usage"] = {
                "output_tokens": made.usage.output_tokens,
                "output_tokens_details": {
                    "thinking_tokens": made.usage.reasoning_tokens
                },
            }
        return _events({"type": "content_block_stop", "index": 0}, delta)

    def end(self, made: Produced, *, stream_usage: bool) -> bytes:
        """Return what follows the finish of a stream."""
        return _events({"type": "message_stop"})

    def error(self, fail: Fail) -> Mapping[str, JsonValue]:
        """Return the body of an error."""
        kind = fail.kind or _TYPES.get(fail.status, "api_error")
        return {
            "type": "error",
            "error": {"type": kind, "message": fail.message},
            "request_id": "req_scripted",
        }

    def error_event(self, fail: Fail) -> bytes:
        """Return an error inside a stream."""
        return _events(self.error(fail))

    def _message(self, made: Produced) -> dict[str, JsonValue]:
        return {
            "id": f"msg_{made.number}",
            "type": "message",
            "role": "assistant",
            "model": made.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
        }


def _finish(made: Produced) -> str:
    return _FINISH.get(made.finish_reason, made.finish_reason)


def _usage(usage: Usage) -> dict[str, JsonValue]:
    """Write usage in Anthropic's sense: input without what the cache did."""
    read, written = usage.cached_input_tokens, usage.cache_write_tokens
    return {
        "input_tokens": usage.input_tokens - read - written,
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": written,
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
    }


def _schema(config: JsonValue) -> Mapping[str, JsonValue] | None:
    given = config.get("format") if isinstance(config, dict) else None
    if given is None:
        return None
    schema = given.get("schema") if isinstance(given, dict) else None
    if not isinstance(schema, dict):
        raise BadRequest("expected a json_schema", "output_config.format")
    _closed(schema)
    return schema


def _closed(part: JsonValue) -> None:
    """Refuse what Anthropic refuses: open objects and bounds."""
    if isinstance(part, list):
        for one in part:
            _closed(one)
    if not isinstance(part, dict):
        return
    if part.get("type") == "object" and part.get("additionalProperties") is not False:
        raise BadRequest(
            "For 'object' type, 'additionalProperties' must be explicitly set to false",
            "output_config.format.schema",
        )
    for key in ("minimum", "maximum", "minLength", "maxLength", "pattern"):
        if key in part and "type" in part:
            raise BadRequest(f"{key} is not supported", "output_config.format.schema")
    for one in part.values():
        _closed(one)


def _events(*events: Mapping[str, JsonValue]) -> bytes:
    return "".join(
        f"event: {event['type']}\ndata: {json.dumps(event, ensure_ascii=False)}\n\n"
        for event in events
    ).encode()
