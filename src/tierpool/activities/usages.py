"""Usage objects of other libraries, read as one `Usage`.

Told apart by the names of their fields, so none of those libraries is
imported. Our own providers read their streams themselves.
"""

from __future__ import annotations

from collections.abc import Mapping

from tierpool.activities.providers.sdk import counts, read_usage
from tierpool.contracts import Usage

__all__ = ["usage_from"]


def usage_from(reported: object) -> Usage | None:
    """Read what an SDK or a framework reports; mappings count like objects.

    Known are tierpool's `Usage`, the openai SDK's of chat completions and of
    responses, the OpenAI Agents SDK's, the anthropic SDK's, and pydantic-ai's
    `RequestUsage` and `RunUsage`.

    Returns:
        None for anything else, for numbers that make no sense, and for no
        tokens at all: no call is made of nothing, so it only means that the
        provider said nothing.
    """
    if isinstance(reported, Usage):
        found: Usage | None = reported
    elif _has(reported, "prompt_tokens"):
        found = _openai(reported, "prompt", "completion")
    elif _has(reported, "cache_read_tokens"):
        found = _pydantic_ai(reported)
    elif _has(reported, "cache_read_input_tokens", "cache_creation_input_tokens"):
        found = _anthropic(reported)
    else:
        found = _openai(reported, "input", "output")
    if found is None or not found.input_tokens + found.output_tokens:
        return None
    return found


def _openai(reported: object, prompt: str, completion: str) -> Usage | None:
    """Read chat completions or responses: input includes what was cached.

    Some compatible servers leave reasoning out of the output but not out of
    the total: then the total decides.
    """
    sent = _get(reported, f"{prompt}_tokens")
    made = _get(reported, f"{completion}_tokens")
    total = _get(reported, "total_tokens")
    numbers = counts([sent, made, total])
    if numbers is not None:
        made = max(numbers[1], numbers[2] - numbers[0])
    details_in = _get(reported, f"{prompt}_tokens_details")
    details_out = _get(reported, f"{completion}_tokens_details")
    return read_usage(
        input_tokens=sent,
        output_tokens=made,
        cached=_get(details_in, "cached_tokens"),
        written=_get(details_in, "cache_write_tokens"),
        reasoning=_get(details_out, "reasoning_tokens"),
    )


def _anthropic(reported: object) -> Usage | None:
    """Read messages: input leaves out what was read from and written to the cache."""
    parts = counts(
        [
            _get(reported, "input_tokens"),
            _get(reported, "cache_read_input_tokens") or 0,
            _get(reported, "cache_creation_input_tokens") or 0,
        ]
    )
    if parts is None:
        return None
    details = _get(reported, "output_tokens_details")
    return read_usage(
        input_tokens=sum(parts),
        output_tokens=_get(reported, "output_tokens"),
        cached=parts[1],
        written=parts[2],
        reasoning=_get(details, "thinking_tokens"),
    )


def _pydantic_ai(reported: object) -> Usage | None:
    """Read pydantic-ai's: one meaning for every provider, which is also ours."""
    if _get(reported, "unmeasured_requests"):
        return None  # what it counts is only part of what was used
    return read_usage(
        input_tokens=_get(reported, "input_tokens"),
        output_tokens=_get(reported, "output_tokens"),
        cached=_get(reported, "cache_read_tokens"),
        written=_get(reported, "cache_write_tokens"),
        reasoning=_get(reported, "output_reasoning_tokens"),
    )


def _has(reported: object, *names: str) -> bool:
    if isinstance(reported, Mapping):
        return any(name in reported for name in names)
    return any(hasattr(reported, name) for name in names)


def _get(reported: object, name: str) -> object:
    if isinstance(reported, Mapping):
        return reported.get(name)
    return getattr(reported, name, None)
