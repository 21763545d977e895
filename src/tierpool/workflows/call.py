"""One agent call on its way through its attempts.

Each attempt is one activity; between attempts the workflow waits in durable
timers, so a wait holds no slot.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal

from temporalio import workflow

from tierpool.blueprint import Reply
from tierpool.contracts import (
    AgentRequest,
    AgentResult,
    Attempt,
    FailureDetail,
    Outcome,
    Route,
    RouteRequest,
)
from tierpool.contracts.ledger import CALLS, USD
from tierpool.errors import AgentCallFailed, BudgetDenied, NoTierAbove
from tierpool.replies import reply_text, validate_reply
from tierpool.telemetry import ROUTE_DOWNGRADED, ROUTE_FAILOVER
from tierpool.workflows import attempts as step
from tierpool.workflows.account import denied, perform, reserved
from tierpool.workflows.budget import Denied, Held
from tierpool.workflows.counted import count_denied, count_routed, reason_of
from tierpool.workflows.drafts import Draft
from tierpool.workflows.output import Typed, misfit, typed
from tierpool.workflows.render import (
    attempt_summary,
    decision_hint,
    escape_markdown,
    shorten,
    waits_for_raise,
)
from tierpool.workflows.routes import route_for

__all__ = ["Call", "make_call"]

_LIMITS = {USD: "money of the hour", CALLS: "max_concurrent", "lease": "a lease"}


@dataclass
class Call:
    """A role, what it reads, and what was tried so far."""

    draft: Draft
    made: list[Attempt]
    lowest: int = 0
    """Position of the lowest tier that this call may be downgraded to."""
    tries: int = 0

    def __post_init__(self) -> None:
        self.run, self.snapshot = self.draft.run, self.draft.snapshot
        self.role, self.spec = self.draft.role, self.draft.spec

    async def reply(self, request: RouteRequest) -> Typed:
        """Route the call and make attempts until one of them settles it.

        Raises:
            AgentCallFailed: when no attempt gave a usable reply.
        """
        try:
            route = await route_for(self.run, request, self.made)
            count_routed(self.role, route, reason_of(request, route))
            reply = await self._attempts(self._around(route))
        finally:
            self.run.forget(self.draft.kept)
        if self.draft.thread is not None:
            self.draft.thread.reply(reply_text(reply, self.draft.schema is not None))
        return typed(self.draft.output, reply)

    async def ask_human(self) -> Typed:
        """Wait for the `decide` update.

        Raises:
            AgentCallFailed: when nobody decided within the role's timeout.
        """
        limit = self.spec.timeout
        schema = self.run.text(self.draft.schema) if self.draft.schema else None
        try:
            with self.run.waits_for(decision_hint(self.role, schema)):
                reply = await self.run.decisions.wait(self.role, self._problem, limit)
        except TimeoutError:
            raise AgentCallFailed(self.role, f"nobody decided within {limit}") from None
        finally:
            self.run.forget(self.draft.kept)
        return typed(self.draft.output, reply)

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
                case step.GiveUp() | step.Deny():
                    raise await self._ended(decision, route, request)
                case step.Failover(failure):
                    self.run.unavailable.note(route.queue, failure, workflow.now())
                    route = self._fail_over(route, failure.message)
                    progress.failed_over()
                case step.Escalate(reason):
                    route = self._around(await self._escalate(route, reason))
                    progress = self._progress(route, paid=progress.paid)
                case step.Wait():
                    route = await self._wait(decision, route, last, progress)
                case step.Cheaper(failure, wait):
                    route = await self._go_lower(route, failure, wait, request)
                    progress = self._progress(route, paid=progress.paid)
                case _:
                    self._same_again(decision, request, progress)

    async def _ended(
        self, end: step.GiveUp | step.Deny, route: Route, sent: AgentRequest
    ) -> AgentCallFailed:
        """Return the error by which the call ends."""
        if isinstance(end, step.GiveUp):
            return AgentCallFailed(self.role, end.reason, attempts=self.tries)
        return await self._denied_by_hour(route, _denial(sent, end.why))

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
        await self._sleep(delay, wait.reason, route, wait.whom)
        return route

    async def _go_lower(
        self, route: Route, failure: FailureDetail, wait: step.Wait, sent: AgentRequest
    ) -> Route:
        """Go a tier down for want of money, or wait on the lowest one.

        Raises:
            BudgetDenied: where waiting cannot help either.
        """
        denial = _denial(sent, failure.message)
        cheaper = self._cheaper(route, denial)
        if cheaper is not None:
            return cheaper
        if failure.never:
            raise await self._denied_by_hour(route, denial)
        await self._sleep(wait.delay, wait.reason, route, wait.whom)
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
                self.draft.more_bytes += max(0, counted - sent.input_bytes)
            case step.Repair(text, problem):
                progress.repaired = True
                self.draft.repair(text, problem)

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
                return self.draft.request(route, self.tries), None
            quote = self.draft.quote(route)
            held = await self.run.budget.reserve(quote)
            if isinstance(held, Held):
                return reserved(self.draft.request(route, self.tries), held), held
            cheaper = self._cheaper(route, held)
            if cheaper is not None:
                route = cheaper
                continue
            with self.run.waits_for(
                waits_for_raise(self.role, route.tier, held.needs, held.why)
            ):
                raised = await self.run.budget.raised(quote)
            if not raised:
                count_denied(self.role, route.tier, "max_cost_per_workflow_usd")
                raise await denied(self.run, self.role, route.tier, held)
            route = asked

    def _cheaper(self, route: Route, denial: Denied) -> Route | None:
        """Return the route to the next lower tier that the role may use."""
        below = list(self.snapshot.tiers).index(route.tier) - 1
        if below < self.lowest or self.snapshot.fixed_route(self.role) is not None:
            return None
        reason = f"downgraded from {route.tier}: {shorten(denial.why, 80)}"
        lower = self.snapshot.route_to(list(self.snapshot.tiers)[below], reason)
        count_routed(self.role, lower, ROUTE_DOWNGRADED)
        return lower

    async def _denied_by_hour(self, route: Route, denial: Denied) -> BudgetDenied:
        count_denied(self.role, route.tier, "max_cost_per_hour_usd")
        return await denied(self.run, self.role, route.tier, denial)

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
            limited = bool(last.limit)
            progress.count(last.outcome, admitted=last.admitted, limited=limited)
            self.tries -= not last.admitted
            return last
        progress.count(Outcome.BILLED)
        return self._checked(last)

    def _around(self, route: Route) -> Route:
        """Pass by a model that this run has found unavailable a moment ago."""
        found = self.run.unavailable.around(self.snapshot, route, workflow.now())
        if found.fallback != route.fallback:
            count_routed(self.role, found, ROUTE_FAILOVER)
        return found

    def _fail_over(self, route: Route, reason: str) -> Route:
        reason = f"failover: {shorten(reason, 80)}"
        found = self.snapshot.route_to(route.tier, reason, route.fallback + 1)
        count_routed(self.role, found, ROUTE_FAILOVER)
        return found

    def _progress(self, route: Route, paid: int) -> step.Progress:
        tier = self.snapshot.tiers.get(route.tier)
        left = len(tier.models) - 1 - route.fallback if tier and route.model else 0
        return step.Progress(
            self.spec.max_attempts,
            paid,
            fallbacks_left=left,
            passed_by=route.fallback,
            on_exhausted=self.snapshot.guardrails.on_exhausted,
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
            higher = await route_for(self.run, request, self.made)
        except NoTierAbove:
            raise failed from None
        count_routed(self.role, higher, reason_of(request, higher))
        return higher

    async def _sleep(
        self, delay: timedelta, reason: str, route: Route, whom: str = ""
    ) -> None:
        """Wait in a durable timer that says for whom and until when."""
        until = (workflow.now() + delay).strftime("%H:%M:%S")
        who = _LIMITS.get(whom, whom) or route.model.partition(":")[0] or route.queue
        why = reason.removeprefix(f"{who}: ")
        summary = shorten(f"waits for {who} until {until} UTC · {why}", 130)
        with self.run.waits_for(escape_markdown(summary)):
            await workflow.sleep(delay, summary=summary)

    def _checked(self, last: AgentResult) -> AgentResult:
        """Let the caller's own model judge a reply that fits the schema."""
        problem = "" if last.reply is None else misfit(self.draft.output, last.reply)
        if not problem:
            return last
        text = json.dumps(last.reply, ensure_ascii=False)
        invalid = {"reply": None, "problem": problem, "text": text}
        return last.model_copy(update=invalid)

    def _problem(self, reply: Reply) -> str:
        """Say what is wrong with a reply that no worker has validated."""
        schema = self.run.text(self.draft.schema) if self.draft.schema else None
        problem = validate_reply(reply, json.loads(schema)) if schema else ""
        return problem or misfit(self.draft.output, reply)


def _denial(sent: AgentRequest, why: str) -> Denied:
    return Denied(sent.reserved_usd or Decimal(0), why)


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
    text = next((text for who, text in call.draft.messages if who == "user"), "")
    request = RouteRequest(
        role=call.role,
        fleet=call.run.packed,
        text=text,
        wanted=tier,
        above=above,
        why=why,
    )
    return await call.reply(request)
