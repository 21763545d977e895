"""OpenAI's chat completions as the scripted provider reads and writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping

from pydantic import JsonValue

from tierpool.contracts import Usage
from tierpool.testing.steps import Fail
from tierpool.testing.wire import BadRequest, Parsed, Produced, require, texts

__all__ = ["OpenAIWire"]

_TYPES = {
    401: "invalid_request_error",
    403: "permission_error",
    404: "invalid_request_error",
    429: "requests",
    500: "server_error",
    503: "server_error",
}
_CREATED = 1_700_000_000


class OpenAIWire:
    """`POST /v1/chat/completions`."""

    def parse(self, body: Mapping[str, JsonValue]) -> Parsed:
        """Read a request as strictly as OpenAI does where it matters here.

        Raises:
            BadRequest: for what OpenAI answers with 400.
        """
        model = require(body, "model", str)
        messages = texts(require(body, "messages", list))
        limits = [n for n in ("max_tokens", "max_completion_tokens") if body.get(n)]
        if len(limits) > 1:
            raise BadRequest("max_tokens and max_completion_tokens exclude each other")
        limit = body.get(limits[0]) if limits else None
        if limits and (not isinstance(limit, int) or limit < 1):
            raise BadRequest("expected an integer from 1", limits[0])
        system = "\n".join(t for role, t in messages if role in ("system", "developer"))
        schema, name, strict = _schema(body.get("response_format"))
        options = body.get("stream_options")
        if options and not body.get("stream"):
            raise BadRequest("only allowed when stream is set", "stream_options")
        return Parsed(
            model=model,
            system=system or None,
            messages=tuple(m for m in messages if m[0] not in ("system", "developer")),
            schema=schema,
            schema_name=name,
            strict=strict,
            max_tokens=limit if isinstance(limit, int) else None,
            limit_name=limits[0] if limits else None,
            stream=body.get("stream") is True,
            stream_usage=isinstance(options, dict)
            and options.get("include_usage") is True,
        )

    def whole(self, made: Produced) -> Mapping[str, JsonValue]:
        """Return an answer that is not streamed."""
        message: dict[str, JsonValue] = {"role": "assistant", "content": made.text}
        if made.finish_reason == "refusal":
            message = {"role": "assistant", "content": None, "refusal": made.text}
        choice: dict[str, JsonValue] = {
            "index": 0,
            "message": message,
            "finish_reason": _finish(made),
        }
        answer = self._frame(made, "chat.completion", [choice])
        if made.report_usage:
            answer["usage"] = _usage(made.usage)
        return answer

    def head(self, made: Produced) -> bytes:
        """Return what a stream begins with."""
        return self._chunk(made, {"role": "assistant", "content": ""})

    def piece(self, made: Produced, text: str) -> bytes:
        """Return one chunk of text."""
        key = "refusal" if made.finish_reason == "refusal" else "content"
        return self._chunk(made, {key: text})

    def finish(self, made: Produced) -> bytes:
        """Return the chunk that says why the reply ends."""
        return self._chunk(made, {}, _finish(made))

    def end(self, made: Produced, *, stream_usage: bool) -> bytes:
        """Return what follows the finish of a stream: usage, if it was asked for."""
        usage = b""
        if made.report_usage and stream_usage:
            frame = self._frame(made, "chat.completion.chunk", [])
            usage = _event({**frame, "usage": _usage(made.usage)})
        return usage + b"data: [DONE]\n\n"

    def error(self, fail: Fail) -> Mapping[str, JsonValue]:
        """Return the body of an error."""
        kind = fail.kind or _TYPES.get(fail.status, "invalid_request_error")
        return {
            "error": {
                "message": fail.message,
                "type": kind,
                "param": fail.param,
                "code": fail.code,
            }
        }

    def error_event(self, fail: Fail) -> bytes:
        """Return an error inside a stream."""
        return _event(self.error(fail))

    def _chunk(
        self, made: Produced, delta: Mapping[str, JsonValue], finish: str | None = None
    ) -> bytes:
        choice: dict[str, JsonValue] = {
            "index": 0,
            "delta": dict(delta),
            "finish_reason": finish,
        }
        return _event(self._frame(made, "chat.completion.chunk", [choice]))

    def _frame(
        self, made: Produced, kind: str, choices: list[JsonValue]
    ) -> dict[str, JsonValue]:
        return {
            "id": f"chatcmpl-{made.number}",
            "object": kind,
            "created": _CREATED,
            "model": made.model,
            "choices": choices,
        }


def _finish(made: Produced) -> str:
    return "stop" if made.finish_reason == "refusal" else made.finish_reason


def _usage(usage: Usage) -> dict[str, JsonValue]:
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cached_input_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def _schema(
    given: JsonValue,
) -> tuple[Mapping[str, JsonValue] | None, str | None, bool | None]:
    if not isinstance(given, dict) or given.get("type") != "json_schema":
        return None, None, None
    inner = given.get("json_schema")
    if not isinstance(inner, dict) or not isinstance(inner.get("schema"), dict):
        raise BadRequest("expected an object with a schema", "response_format")
    schema, name = inner["schema"], inner.get("name")
    if not isinstance(name, str) or not name.replace("-", "_").isidentifier():
        raise BadRequest("expected a name", "response_format.json_schema.name")
    return (
        schema if isinstance(schema, dict) else None,
        name,
        inner.get("strict") is True,
    )


def _event(data: Mapping[str, JsonValue]) -> bytes:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n".encode()
