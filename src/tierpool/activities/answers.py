"""Around one call of a model: may it be sent, and what is its answer worth.

Before: the bytes against what was reserved for. After: the usage against what
was asked for, the text as a reply, and whether the result fits through Temporal,
which would refuse a larger one after it was paid for.
"""

from __future__ import annotations

from typing import Any, Final

import structlog
from temporalio import activity

from tierpool.activities.providers.base import (
    ProviderCall,
    ProviderError,
    ProviderReply,
)
from tierpool.budget.estimate import input_tokens
from tierpool.contracts import (
    AgentRequest,
    AgentResult,
    FailureDetail,
    NextStep,
    Outcome,
    Usage,
)
from tierpool.replies import read_reply

__all__ = ["check_estimate", "compare_usage", "fitting", "read_answer"]

_REPLY_LIMIT_BYTES: Final = 1_500_000
"""UTF-8 bytes of a model's text."""

_RESULT_LIMIT_BYTES: Final = 1_900_000
"""Of a result as it is sent; Temporal's own limit is 2 MiB."""

_ALWAYS_FITS_BYTES: Final = 900_000
"""Before the codec: none makes twice as much of it."""

_SHOWN_CHARACTERS: Final = 8_000
"""Most of an invalid answer that goes back for repair."""

_log = structlog.get_logger()


def check_estimate(request: AgentRequest, counted: int) -> None:
    """Refuse to send more than was reserved for.

    Raises:
        ProviderError: unbilled, with the bytes for which to reserve.
    """
    if not 0 < request.input_bytes < counted:
        return
    raise ProviderError(
        FailureDetail(
            outcome=Outcome.UNBILLED,
            next=NextStep.RESERVE,
            message=f"estimate too low: {counted:,} bytes would be sent, reserved "
            f"for {request.input_bytes:,}",
            input_bytes=counted,
        )
    )


def compare_usage(
    request: AgentRequest, call: ProviderCall, usage: Usage | None
) -> None:
    """Warn of a usage that the reservation does not cover; it is charged as it is."""
    if usage is None:
        return
    count = len(call.messages) + (call.system is not None)
    covered = input_tokens(request.input_bytes, count) if request.input_bytes else None
    if usage.output_tokens > call.max_output_tokens or (
        covered is not None and usage.input_tokens > covered
    ):
        _log.warning(
            "usage.above_request",
            role=request.role,
            model=request.route.model,
            input_tokens=usage.input_tokens,
            reserved_input_tokens=covered,
            output_tokens=usage.output_tokens,
            max_output_tokens=call.max_output_tokens,
        )


def read_answer(answer: ProviderReply, schema: dict[str, Any] | None) -> AgentResult:
    """Validate an answer; what is not a valid reply is still billed."""
    size = len(answer.text.encode())
    if size > _REPLY_LIMIT_BYTES:
        raise _too_large(answer, f"has {size:,} bytes", _REPLY_LIMIT_BYTES)
    found = read_reply(answer.text, answer.finish_reason, schema)
    return AgentResult(
        reply=found.reply,
        problem=found.problem,
        text="" if found.reply is not None else answer.text[:_SHOWN_CHARACTERS],
        usage=answer.usage,
        finish_reason=answer.finish_reason,
        model=answer.model,
    )


async def fitting(result: AgentResult, answer: ProviderReply) -> AgentResult:
    """Return a result that Temporal takes: a text may grow sixfold as JSON.

    Raises:
        ProviderError: for what it would refuse; its cost would be lost.
    """
    payload = activity.payload_converter().to_payload(result)
    if payload.ByteSize() > _ALWAYS_FITS_BYTES:
        codec = activity.client().data_converter.payload_codec
        sent = await codec.encode([payload]) if codec else [payload]
        size = sum(part.ByteSize() for part in sent)
        if size > _RESULT_LIMIT_BYTES:
            raise _too_large(answer, f"takes {size:,} bytes", _RESULT_LIMIT_BYTES)
    return result


def _too_large(answer: ProviderReply, how: str, limit: int) -> ProviderError:
    return ProviderError(
        FailureDetail(
            outcome=Outcome.BILLED if answer.usage else Outcome.AMBIGUOUS,
            next=NextStep.FAIL,
            message=f"the reply {how}; the limit is {limit:,}",
            usage=answer.usage,
        )
    )
