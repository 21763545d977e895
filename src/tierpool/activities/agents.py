"""The activity behind every agent call: one attempt of one role.

Dynamic: its type is the role, so that timelines and Temporal's own metrics
speak of roles. It resolves texts and the conversation, runs the provider or
tool while it heartbeats, validates the reply, and reports every failure as one
`FailureDetail`.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from pydantic import ValidationError
from temporalio import activity
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError

from tierpool.activities.admission import (
    Admit,
    application_error,
    asked,
    not_admitted,
    settle,
    told,
    unbilled,
)
from tierpool.activities.answers import (
    check_estimate,
    compare_usage,
    fitting,
    read_answer,
)
from tierpool.activities.conversations import ConversationStore, Said, ask_messages
from tierpool.activities.model_calls import model_call
from tierpool.activities.parts import PartMissing, PartStore, ask_item
from tierpool.activities.providers.base import (
    ProviderCall,
    ProviderError,
)
from tierpool.activities.tools import ToolError, run_command, run_python
from tierpool.blueprint import Reply
from tierpool.contracts import (
    AgentRequest,
    AgentResult,
    ConversationRef,
    FailureDetail,
    Message,
    NextStep,
    Outcome,
    PartRef,
)
from tierpool.errors import (
    ConfigError,
    NotAdmitted,
    UnknownName,
)
from tierpool.replies import check_schema, reply_text, validate_reply

__all__ = ["AgentActivities"]

_BEAT_SECONDS = 1.5
"""Well below the heartbeat timeout, also when the event loop is busy."""

_READ_AT_ONCE = 16_000
"""Characters of an answer; validating a longer one can take seconds."""

_SECRET_NAMES = ("KEY", "TOKEN", "SECRET", "PASSWORD")
"""Ends of the names of environment variables whose values nobody may see."""

_SHORTEST_SECRET = 8
"""Characters; replacing shorter values would garble words."""

_log = structlog.get_logger()


class AgentActivities:
    """Activities of a tier's or the tools' workers; one object per process."""

    def __init__(
        self,
        workdir: Path,
        import_from: Path,
        parts: PartStore,
        conversations: ConversationStore,
        admit: Admit,
    ) -> None:
        """Take what the process has.

        Args:
            workdir: Folder of command roles.
            import_from: Folder that python roles are imported from.
            parts: Texts by hash, for all pools of the process.
            conversations: Conversations, for all pools of the process.
            admit: Lets a call start, with an instance of the pool.
        """
        self._workdir, self._import_from = workdir, import_from
        self._parts, self._conversations = parts, conversations
        self._admit = admit

    @activity.defn(dynamic=True)
    async def attempt(self, args: Sequence[RawValue]) -> AgentResult:
        """Make one attempt.

        Raises:
            ApplicationError: whose first detail is a `FailureDetail`.
        """
        request = _read_request(args)
        log = _log.bind(
            role=request.role, tier=request.route.tier, model=request.route.model
        )
        async with _heartbeats():
            try:
                result = await self._run(request)
            except ProviderError as error:
                detail = error.detail
            except ToolError as error:  # the words of a user's code
                detail = error.detail.model_copy(
                    update={"message": _without_secrets(error.detail.message)}
                )
            except asyncio.CancelledError:
                if not _broken_off_by_operator():
                    raise
                # Ended here as failed: Temporal would run the same attempt again,
                # and the provider would be paid twice with one attempt on record.
                detail = FailureDetail(
                    outcome=Outcome.AMBIGUOUS,
                    next=NextStep.RETRY,
                    message="broken off by an operator's pause or reset",
                )
            except PartMissing as error:
                detail = unbilled(error, NextStep.RETRY)
            except NotAdmitted as error:
                detail = not_admitted(error)
            except (ConfigError, UnknownName) as error:
                detail = unbilled(error, NextStep.FAIL)
            else:
                log.info("attempt.answered", **_usage(result))
                return result
        log.warning(
            "attempt.failed", outcome=detail.outcome.value, reason=detail.message
        )
        raise application_error(detail)

    async def _run(self, request: AgentRequest) -> AgentResult:
        schema = None
        if request.output is not None:
            schema = json.loads(await self._text(request.output))
        new: list[Said] = [(m.role, await self._message(m)) for m in request.messages]
        if not request.route.model:
            return await self._tool(request, new[0][1], schema)
        earlier, ref = await self._conversation(request, new)
        result = await self._model(request, [*earlier, *new], schema)
        if ref is not None and result.reply is not None:
            said = reply_text(result.reply, schema is not None)
            self._conversations.extend(_workflow_id(), ref, [("assistant", said)])
        return result

    async def _conversation(
        self, request: AgentRequest, new: list[Said]
    ) -> tuple[list[Said], ConversationRef | None]:
        """Return the earlier messages, and what the reply will go on from if it is kept.

        Later attempts refer to the whole conversation: their own messages are
        invalid replies and what was wrong with them, which do not stay in it.
        """
        ref = request.conversation
        if ref is None:
            return [], None
        fetch = partial(ask_messages, ref.name)
        earlier = await self._conversations.get(_workflow_id(), ref, fetch)
        lasting = new if request.attempt == 1 else []
        return earlier, self._conversations.extend(_workflow_id(), ref, lasting)

    async def _model(
        self, request: AgentRequest, messages: list[Said], schema: dict[str, Any] | None
    ) -> AgentResult:
        system = await self._text(request.prompt) if request.prompt else None
        if schema is not None:
            check_schema(schema)
        ask = asked(request, activity.info().task_queue, len(messages) + bool(system))
        async with self._admit(ask.queue, ask) as admitted:
            provider, model = admitted.agent.provider_for(request.route.model)
            call = ProviderCall(
                model=model,
                system=system,
                messages=tuple(messages),
                schema=schema,
                schema_name=request.role,
                max_output_tokens=request.max_output_tokens,
                temperature=request.temperature,
                timeout=request.timeout,
                base_url=request.base_url,
                api_key_env=request.api_key_env,
            )
            try:
                check_estimate(request, provider.input_bytes(call))
                with model_call(request, call) as measured:
                    answer = await provider.complete(call)
                    measured.answered(answer)
            except ProviderError as error:
                settle(admitted, error.detail)
                error.detail = told(admitted, error.detail)
                raise
            admitted.settle(answer.usage)
            admitted.answered(answer.headroom)
        compare_usage(request, call, answer.usage)
        if len(answer.text) > _READ_AT_ONCE:  # in a thread: heartbeats go on
            result = await asyncio.to_thread(read_answer, answer, schema)
        else:
            result = read_answer(answer, schema)
        return await fitting(result, answer)

    async def _tool(
        self, request: AgentRequest, body: str, schema: dict[str, Any] | None
    ) -> AgentResult:
        async with self._admit(activity.info().task_queue, asked(request, "", 0)):
            if request.run:
                result = await run_command(request, body, self._workdir)
            else:
                result = await run_python(request, body, self._import_from)
        reply = result.reply
        if schema is not None and reply is not None and not _refused(reply):
            problem = validate_reply(reply, schema)
            if problem:  # a tool cannot repair its reply: asking again is no use
                raise ToolError(
                    FailureDetail(
                        outcome=Outcome.UNBILLED,
                        next=NextStep.FAIL,
                        message=f"its reply breaks the role's output: {problem}",
                    )
                )
        return result

    async def _message(self, message: Message) -> str:
        if message.part is not None:
            return await self._text(message.part)
        text = message.text or ""
        self._parts.put(text)  # a later attempt may refer to it
        return text

    async def _text(self, ref: PartRef) -> str:
        return await self._parts.get(ref, ask_item)


def _workflow_id() -> str:
    return activity.info().workflow_id or ""


def _broken_off_by_operator() -> bool:
    details = activity.cancellation_details()
    return details is not None and (details.paused or details.reset)


def _refused(reply: Reply) -> bool:
    """Tell whether a program refused: that reply is ours, not the role's output."""
    return reply.get("accept") is False and bool(reply.get("exit_code"))


def _read_request(args: Sequence[RawValue]) -> AgentRequest:
    try:
        return activity.payload_converter().from_payload(args[0].payload, AgentRequest)
    except (IndexError, ValidationError, ValueError, RuntimeError) as error:
        info = activity.info()
        raise ApplicationError(
            f"activity {info.activity_type!r} on {info.task_queue!r} is no agent call: "
            "tier queues run tierpool's agent calls only",
            type="NotAnAgentCall",
            non_retryable=True,
        ) from error


def _without_secrets(text: str) -> str:
    """Take out the values of variables that are named like secrets."""
    for name, value in os.environ.items():
        if name.endswith(_SECRET_NAMES) and len(value.strip()) >= _SHORTEST_SECRET:
            text = text.replace(value.strip(), f"[{name}]")
    return text


def _usage(result: AgentResult) -> dict[str, int]:
    return result.usage.model_dump() if result.usage else {}


@asynccontextmanager
async def _heartbeats() -> AsyncIterator[None]:
    """Tell the server that the attempt lives; it learns of a cancel in return."""

    async def beat() -> None:
        while True:
            await asyncio.sleep(_BEAT_SECONDS)
            activity.heartbeat()

    beating = asyncio.create_task(beat())
    try:
        yield
    finally:
        beating.cancel()
        with suppress(asyncio.CancelledError):
            await beating
