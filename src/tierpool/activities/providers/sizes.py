"""How many bytes a model may read of a request; pure.

Counted from the body that is sent, whatever the provider, so that no second
description of it can drift. What the bytes may cost is `budget.estimate`'s.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import cast

__all__ = ["body_bytes", "compact_json"]


def body_bytes(body: Mapping[str, object]) -> int:
    """Return the UTF-8 bytes of a request's body.

    The texts of `messages` and `system` count as they are, since a model reads
    them without JSON's escapes; everything else counts as compact JSON.
    """
    messages = cast(Iterable[Mapping[str, object]], body["messages"])
    bare = [{**message, "content": ""} for message in messages]
    texts = [message["content"] for message in messages]
    rest: dict[str, object] = {**body, "messages": bare}
    if "system" in body:
        texts.append(body["system"])
        rest["system"] = ""
    return sum(_bytes(str(text)) for text in texts) + _bytes(compact_json(rest))


def compact_json(value: object) -> str:
    """Write JSON without spaces and without escapes that it does not need."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _bytes(text: str) -> int:
    # Half a pair of surrogates cannot be sent: counting it is no place to fail.
    return len(text.encode("utf-8", "surrogatepass"))
