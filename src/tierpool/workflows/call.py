"""One agent call on its way through its attempts.

Each attempt is one activity; between attempts the workflow waits in durable
timers, so a wait holds no slot.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeAlias, cast

from pydantic import BaseModel, ValidationError
from temporalio import workflow

from tierpool.blueprint import Reply
from tierpool.contracts import (
    AgentRequest,
    AgentResult,
    Attempt,
    FailureDetail,
    Message,
    Outcome,
    PartRef,
    Route,
    RouteRequest,
)
from tierpool.errors import AgentCallFailed, NoTierAbove
from tierpool.fleet import FleetSnapshot, RoleSnapshot
from tierpool.replies import validate_reply
from tierpool.workflows import attempts as step
from tierpool.workflows.account import perform
from tierpool.workflows.render import (
    attempt_summary,
    decision_hint,
    escape_markdown,
    shorten,
)
from tierpool.workflows.routes import route_for
from tierpool.workflows.run import RunState

__all__ = ["Call", "Output", "Typed"]

Output: TypeAlias = type[BaseModel] | type[str] | None
Typed: TypeAlias = BaseModel | str | Reply

INLINE_BYTES = 32 * 1024
"""Messages up to this size stand in the activity's input; others go by hash."""

_REFER_BYTES = 256
"""From the second attempt on, texts above this size go by hash."""
_TOOL_TIMEOUT = timedelta(minutes=10)


@dataclass
class Call:
    """A role, what it reads, and what was tried so far."""

    run: RunState
    snapshot: FleetSnapshot
    role: str
    output: Output
    made: list[Attempt]
    messages: list[str]
    """User's and assistant's messages in turn; the first is the user's."""
    tries: int = 0
    kept: list[PartRef] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.spec: RoleSnapshot = self.snapshot.role(self.role)
        self.schema = self._schema()

    def _schema(self) -> PartRef | None:
        if self.output is None:
            return self.spec.output
        if self.output is str:
            return None
        schema = cast(type[BaseModel], self.output).model_json_schema()
        return self._keep(json.dumps(schema, sort_keys=True, separators=(",", ":")))

    def _keep(self, text: str) -> PartRef:
        ref = self.run.keep(text)
        self.kept.append(ref)
        return ref

    async def reply(self, request: RouteRequest) -> Typed:
        """Route the call and make attempts until one of them settles it.

        Raises:
            AgentCallFailed: when no attempt gave a usable reply.
        """
        try:
            return await self._attempts(await route_for(self.run, request, self.made))
        finally:
            self.run.forget(self.kept)

    async def ask_human(self) -> Typed:
        """Wait for the `decide` update.

        Raises:
            AgentCallFailed: when nobody decided within the role's timeout.
        """
        limit = self.spec.timeout
        schema = self.run.text(self.schema) if self.schema else None
        try:
            with self.run.waits_for(decision_hint(self.role, schema)):
                reply = await self.run.decisions.wait(self.role, self._problem, limit)
        except TimeoutError:
            raise AgentCallFailed(self.role, f"nobody decided within {limit}") from None
        finally:
            self.run.forget(self.kept)
        return self._typed(reply)

    async def _attempts(self, route: Route) -> Typed:
        progress = self._progress(route, paid=0)
        while True:
            last = await self._attempt(route, progress)
            decision = step.decide(progress, last, workflow.random().random())
            match decision:
                case step.Done(reply):
                    return self._typed(reply)
                case step.GiveUp(reason):
                    raise AgentCallFailed(self.role, reason, attempts=self.tries)
                case step.Wait(delay, reason):
                    await self._sleep(delay, reason, route)
                case step.Repair(text, problem):
                    progress.repaired = True
                    self.messages += [text or "(no text)", _invalid(problem)]
                case step.Failover(reason):
                    reason = f"failover: {shorten(reason, 80)}"
                    route = self.snapshot.route_to(
                        route.tier, reason, route.fallback + 1
                    )
                    progress.fallbacks_left -= 1
                    progress.turned_away = 0
                case step.Escalate(reason):
                    route = await self._escalate(route, reason)
                    progress = self._progress(route, paid=progress.paid)

    async def _attempt(
        self, route: Route, progress: step.Progress
    ) -> AgentResult | FailureDetail:
        self.tries += 1
        if self.run.on_attempt is not None:
            self.run.on_attempt(self.role, route.tier)
        note = "repair of an invalid reply" if progress.repaired else ""
        summary = attempt_summary(self.role, route, note, self.tries)
        last = await perform(self.run, self._request(route), summary, self.made)
        if isinstance(last, FailureDetail):
            progress.count(last.outcome)
            return last
        progress.count(Outcome.BILLED)
        return self._checked(last)

    def _progress(self, route: Route, paid: int) -> step.Progress:
        tier = self.snapshot.tiers.get(route.tier)
        left = len(tier.models) - 1 - route.fallback if tier and route.model else 0
        return step.Progress(self.spec.max_attempts, paid=paid, fallbacks_left=left)

    async def _escalate(self, route: Route, reason: str) -> Route:
        """Go a tier higher if the role may; else the call ends with the reason."""
        failed = AgentCallFailed(self.role, reason, attempts=self.tries)
        if not route.model or self.snapshot.fixed_route(self.role) is not None:
            raise failed
        request = RouteRequest(
            role=self.role, fleet=self.run.packed, above=route.tier, why=reason
        )
        try:
            return await route_for(self.run, request, self.made)
        except NoTierAbove:
            raise failed from None

    def _request(self, route: Route) -> AgentRequest:
        shared: dict[str, Any] = {
            "role": self.role,
            "item_id": self.run.item_id,
            "route": route,
            "messages": self._wire_messages(),
            "output": self.schema,
            "attempt": self.tries,
        }
        if not route.model:
            return AgentRequest(
                **shared,
                timeout=self.spec.timeout or _TOOL_TIMEOUT,
                run=self.spec.run,
                pass_env=self.spec.pass_env,
                call=self.spec.call,
            )
        tier = self.snapshot.tiers[route.tier]
        model = tier.models[route.fallback]
        limit = tier.max_output_tokens
        return AgentRequest(
            **shared,
            prompt=self.spec.prompt,
            max_output_tokens=min(self.spec.max_output_tokens or limit, limit),
            temperature=tier.temperature,
            base_url=model.base_url,
            api_key_env=model.api_key_env,
            timeout=self.spec.timeout or tier.timeout,
        )

    def _wire_messages(self) -> tuple[Message, ...]:
        """Send each text once; later attempts refer to it."""
        limit = INLINE_BYTES if self.tries == 1 else _REFER_BYTES
        return tuple(
            self._wire(text, "assistant" if index % 2 else "user", limit)
            for index, text in enumerate(self.messages)
        )

    def _wire(self, text: str, who: Any, limit: int) -> Message:
        if len(text) <= limit and len(text.encode()) <= limit:
            return Message(role=who, text=text)
        return Message(role=who, part=self._keep(text))

    async def _sleep(self, delay: timedelta, reason: str, route: Route) -> None:
        """Wait in a durable timer that says for whom and until when."""
        until = (workflow.now() + delay).strftime("%H:%M:%S")
        who = route.model.partition(":")[0] or route.queue
        why = reason.removeprefix(f"{who}: ")
        summary = shorten(f"waits for {who} until {until} UTC · {why}", 130)
        with self.run.waits_for(escape_markdown(summary)):
            await workflow.sleep(delay, summary=summary)

    def _checked(self, last: AgentResult) -> AgentResult:
        """Let the caller's own model judge a reply that fits the schema."""
        problem = "" if last.reply is None else self._misfit(last.reply)
        if not problem:
            return last
        text = json.dumps(last.reply, ensure_ascii=False)
        invalid = {"reply": None, "problem": problem, "text": text}
        return last.model_copy(update=invalid)

    def _problem(self, reply: Reply) -> str:
        """Say what is wrong with a reply that no worker has validated."""
        schema = self.run.text(self.schema) if self.schema else None
        problem = validate_reply(reply, json.loads(schema)) if schema else ""
        return problem or self._misfit(reply)

    def _misfit(self, reply: Reply) -> str:
        """Say what the caller's own model has against a reply."""
        try:
            self._typed(reply)
        except ValidationError as error:
            return "; ".join(
                f"{'.'.join(map(str, e['loc'])) or 'reply'}: {e['msg']}"
                for e in error.errors(include_url=False, include_input=False)[:5]
            )
        return ""

    def _typed(self, reply: Reply) -> Typed:
        if self.output is None:
            return reply
        if self.output is str:
            text = reply.get("text")
            return text if isinstance(text, str) else json.dumps(reply)
        return cast(type[BaseModel], self.output).model_validate(reply)


def _invalid(problem: str) -> str:
    return (
        f"This reply is not valid: {problem}\n"
        "Reply again with nothing but a valid reply."
    )
