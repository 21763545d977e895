"""One agent call on its way through its attempts.

Each attempt is one activity; between attempts the workflow waits in durable
timers, so a wait holds no slot.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from temporalio import workflow

from tierpool.blueprint import Reply
from tierpool.budget.estimate import Quote
from tierpool.contracts import (
    AgentRequest,
    AgentResult,
    Attempt,
    ConversationRef,
    FailureDetail,
    Message,
    Outcome,
    PartRef,
    Route,
    RouteRequest,
    Speaker,
)
from tierpool.errors import AgentCallFailed, NoTierAbove
from tierpool.fleet import FleetSnapshot, RoleSnapshot
from tierpool.replies import reply_text, validate_reply
from tierpool.workflows import attempts as step
from tierpool.workflows.account import denied, perform, quote_of, reserved
from tierpool.workflows.budget import Denied, Held
from tierpool.workflows.output import Output, Typed, misfit, schema_of, typed
from tierpool.workflows.render import (
    attempt_summary,
    decision_hint,
    escape_markdown,
    invalid_reply,
    shorten,
    waits_for_raise,
)
from tierpool.workflows.routes import route_for
from tierpool.workflows.run import RunState
from tierpool.workflows.threads import Thread, size_of

__all__ = ["Call", "make_call"]

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
    messages: list[tuple[Speaker, str]]
    """What is new to the model."""
    thread: Thread | None = None
    """The conversation that `messages` are the end of."""
    lowest: int = 0
    """Position of the lowest tier that this call may be downgraded to."""
    tries: int = 0
    kept: list[PartRef] = field(default_factory=list)
    repairs: list[tuple[Speaker, str]] = field(default_factory=list)
    """Invalid replies and what is wrong with them."""
    more_bytes: int = 0
    """By how much the estimate was too low when a worker counted."""

    def __post_init__(self) -> None:
        self.spec: RoleSnapshot = self.snapshot.role(self.role)
        for _, text in self.messages:
            size_of(text, f"the input of the role {self.role!r}")
        self.schema = self._schema()
        self.whole = self.thread.ref() if self.thread else None
        self.seen = self.thread.seen() if self.thread else None

    def _schema(self) -> PartRef | None:
        if self.output is None:
            return self.spec.output
        schema = schema_of(self.output)
        return self._keep(schema) if schema else None

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
            route = await route_for(self.run, request, self.made)
            reply = await self._attempts(self._around(route))
        finally:
            self.run.forget(self.kept)
        if self.thread is not None:
            self.thread.reply(reply_text(reply, self.schema is not None))
        return typed(self.output, reply)

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
        return typed(self.output, reply)

    async def _attempts(self, route: Route) -> Reply:
        progress = self._progress(route, paid=0)
        while True:
            request, held = await self._reserve(route)
            if request.route.tier != route.tier:  # downgraded
                progress = self._progress(request.route, paid=progress.paid)
            route = request.route.model_copy(update={"max_output_tokens": 0})
            last = await self._attempt(request, held, progress)
            if last is None:
                continue
            decision = step.decide(progress, last, workflow.random().random())
            match decision:
                case step.Done(reply):
                    return reply
                case step.GiveUp(reason):
                    raise AgentCallFailed(self.role, reason, attempts=self.tries)
                case step.Failover(failure):
                    self.run.unavailable.note(route.queue, failure, workflow.now())
                    route = self._fail_over(route, failure.message)
                    progress.failed_over()
                case step.Escalate(reason):
                    route = self._around(await self._escalate(route, reason))
                    progress = self._progress(route, paid=progress.paid)
                case step.Wait():
                    route = await self._wait(decision, route, last, progress)
                case _:
                    self._same_again(decision, request, progress)

    async def _wait(
        self,
        wait: step.Wait,
        route: Route,
        last: AgentResult | FailureDetail,
        progress: step.Progress,
    ) -> Route:
        """Wait for the model of the tier that can be used again first."""
        delay = wait.delay
        if isinstance(last, FailureDetail) and last.free and route.fallback:
            known = self.run.unavailable
            other, back = known.next(self.snapshot, route, last, workflow.now())
            if back is not None:
                known.note(route.queue, last, workflow.now())
                progress.returned(other.fallback)
                route, delay = other, max(back, step.backoff(1, 0))
        await self._sleep(delay, wait.reason, route)
        return route

    def _same_again(
        self,
        decision: step.Reserve | step.Repair,
        sent: AgentRequest,
        progress: step.Progress,
    ) -> None:
        """Do what has to be done before the next attempt on the same model."""
        match decision:
            case step.Reserve(counted):
                progress.reserved_anew = True
                self.more_bytes += max(0, counted - sent.input_bytes)
            case step.Repair(text, problem):
                progress.repaired = True
                self.repairs.append(("assistant", text or "(no text)"))
                self.repairs.append(("user", invalid_reply(problem)))

    async def _reserve(self, route: Route) -> tuple[AgentRequest, Held | None]:
        """Take the money for the next attempt, on a cheaper tier if need be.

        Raises:
            BudgetDenied: if there is not enough for any tier that is open to it.
        """
        self.tries += 1
        asked = route
        while True:
            if not route.model:
                await self.run.resumed()
                return self._request(route), None
            quote = self._quote(route)
            held = await self.run.budget.reserve(quote)
            if isinstance(held, Held):
                return reserved(self._request(route), held), held
            cheaper = self._cheaper(route, held)
            if cheaper is not None:
                route = cheaper
                continue
            with self.run.waits_for(
                waits_for_raise(self.role, route.tier, held.needs, held.why)
            ):
                raised = await self.run.budget.raised(quote)
            if not raised:
                raise await denied(self.run, self.role, route.tier, held)
            route = asked

    def _cheaper(self, route: Route, denial: Denied) -> Route | None:
        """Return the route to the next lower tier that the role may use."""
        below = list(self.snapshot.tiers).index(route.tier) - 1
        if below < self.lowest or self.snapshot.fixed_route(self.role) is not None:
            return None
        reason = f"downgraded from {route.tier}: {shorten(denial.why, 80)}"
        return self.snapshot.route_to(list(self.snapshot.tiers)[below], reason)

    async def _attempt(
        self, request: AgentRequest, held: Held | None, progress: step.Progress
    ) -> AgentResult | FailureDetail | None:
        route = request.route
        if self.run.on_attempt is not None:
            self.run.on_attempt(self.role, route.tier)
        note = "repair of an invalid reply" if progress.repaired else ""
        usd = held.usd if held else None
        summary = attempt_summary(self.role, route, note, self.tries, usd)
        last = await perform(self.run, request, held, summary, self.made)
        if last is None:
            return None
        if isinstance(last, FailureDetail):
            progress.count(last.outcome, admitted=last.admitted)
            self.tries -= not last.admitted
            return last
        progress.count(Outcome.BILLED)
        return self._checked(last)

    def _around(self, route: Route) -> Route:
        """Pass by a model that this run has found unavailable a moment ago."""
        return self.run.unavailable.around(self.snapshot, route, workflow.now())

    def _fail_over(self, route: Route, reason: str) -> Route:
        reason = f"failover: {shorten(reason, 80)}"
        return self.snapshot.route_to(route.tier, reason, route.fallback + 1)

    def _progress(self, route: Route, paid: int) -> step.Progress:
        tier = self.snapshot.tiers.get(route.tier)
        left = len(tier.models) - 1 - route.fallback if tier and route.model else 0
        return step.Progress(
            self.spec.max_attempts, paid, fallbacks_left=left, passed_by=route.fallback
        )

    async def _escalate(self, route: Route, reason: str) -> Route:
        """Go a tier higher if the role may; else the call ends with the reason."""
        failed = AgentCallFailed(self.role, reason, attempts=self.tries)
        if not route.model or self.snapshot.fixed_route(self.role) is not None:
            raise failed
        request = RouteRequest(
            role=self.role, fleet=self.run.packed, above=route.tier, why=reason
        )
        self.lowest = list(self.snapshot.tiers).index(route.tier) + 1
        try:
            return await route_for(self.run, request, self.made)
        except NoTierAbove:
            raise failed from None

    def _quote(self, route: Route) -> Quote:
        texts = [len(t.encode(errors="surrogatepass")) for _, t in self.repairs]
        if self.whole is not None:
            texts += [self.whole.bytes, *[0] * (self.whole.length - 1)]
        else:
            texts += [len(t.encode(errors="surrogatepass")) for _, t in self.messages]
        texts.append(self.spec.prompt.bytes if self.spec.prompt else 0)
        limit = self._limit(route)
        quote = quote_of(self.snapshot, route, texts, self.schema, limit)
        return replace(quote, input_bytes=quote.input_bytes + self.more_bytes)

    def _limit(self, route: Route) -> int:
        """Return the output tokens that the role may have on a tier."""
        limit = self.snapshot.tiers[route.tier].max_output_tokens
        return min(self.spec.max_output_tokens or limit, limit)

    def _request(self, route: Route) -> AgentRequest:
        conversation, messages = self._wire_messages()
        shared: dict[str, Any] = {
            "role": self.role,
            "item_id": self.run.item_id,
            "route": route,
            "conversation": conversation,
            "messages": messages,
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
        return AgentRequest(
            **shared,
            prompt=self.spec.prompt,
            max_output_tokens=self._limit(route),
            temperature=tier.temperature,
            base_url=model.base_url,
            api_key_env=model.api_key_env,
            timeout=self.spec.timeout or tier.timeout,
        )

    def _wire_messages(self) -> tuple[ConversationRef | None, tuple[Message, ...]]:
        """Send each text once; later attempts refer to it.

        In a conversation, what is not sent is covered by the reference.
        """
        first = self.tries == 1
        new = [*self.messages, *self.repairs]
        if self.whole is None:
            limit = INLINE_BYTES if first else _REFER_BYTES
            return None, tuple(self._wire(who, text, limit) for who, text in new)
        size = self.whole.bytes - (self.seen.bytes if self.seen else 0)
        if first and size <= INLINE_BYTES and self.run.room_for(size):
            return self.seen, tuple(Message(role=w, text=text) for w, text in new)
        return self.whole, tuple(
            self._wire(who, text, _REFER_BYTES) for who, text in self.repairs
        )

    def _wire(self, who: Speaker, text: str, limit: int) -> Message:
        size = len(text.encode(errors="surrogatepass"))
        if size <= limit and self.run.room_for(size):
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
        problem = "" if last.reply is None else misfit(self.output, last.reply)
        if not problem:
            return last
        text = json.dumps(last.reply, ensure_ascii=False)
        invalid = {"reply": None, "problem": problem, "text": text}
        return last.model_copy(update=invalid)

    def _problem(self, reply: Reply) -> str:
        """Say what is wrong with a reply that no worker has validated."""
        schema = self.run.text(self.schema) if self.schema else None
        problem = validate_reply(reply, json.loads(schema)) if schema else ""
        return problem or misfit(self.output, reply)


async def make_call(
    call: Call, *, tier: str | None = None, above: str | None = None, why: str = ""
) -> Typed:
    """Let a call come to its end, on this tier or (an escalation) above another one."""
    if call.spec.type == "human":
        return await call.ask_human()
    names = list(call.snapshot.tiers)
    if above is not None:
        call.lowest = names.index(above) + 1
    elif tier in names:
        call.lowest = names.index(tier)
    elif call.spec.tier.min:
        call.lowest = names.index(call.spec.tier.min)
    text = next((text for who, text in call.messages if who == "user"), "")
    request = RouteRequest(
        role=call.role,
        fleet=call.run.packed,
        text=text,
        wanted=tier,
        above=above,
        why=why,
    )
    return await call.reply(request)
