"""The workflow that walks one work item through one flow.

Dynamic: its type in the Web UI is the flow's name. All rules of walking are in
`tierpool.flow`; here is what acts on them: calls, records, waits.
"""

from __future__ import annotations

import asyncio
import zlib
from collections import Counter
from collections.abc import Coroutine, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from pydantic import JsonValue
from temporalio import workflow
from temporalio.common import RawValue, SearchAttributeKey
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    is_cancelled_exception,
)

from tierpool import telemetry
from tierpool.blueprint import Reply
from tierpool.contracts import (
    Attempt,
    ConversationChunk,
    ConversationRequest,
    FlowCarry,
    FlowResult,
    FlowStart,
    HumanDecision,
    ItemCosts,
    ItemStatus,
)
from tierpool.errors import NoTierAbove, TierpoolError
from tierpool.fleet import FleetSnapshot
from tierpool.flow import (
    CANCELLED,
    FAILED,
    RunRole,
    RunVerifier,
    Stuck,
    Take,
    Visit,
    refusal,
)
from tierpool.workflows.agent import Refusal, call_agent
from tierpool.workflows.handlers import check_raise, raise_budget
from tierpool.workflows.holding import Holding
from tierpool.workflows.run import RunState, attach

__all__ = ["FlowWorkflow"]

T = TypeVar("T")

_START_BYTES = 1_900_000
"""Most that is handed to the next run; Temporal refuses inputs above 2 MiB."""

_FLOW = SearchAttributeKey.for_keyword(telemetry.ATTRIBUTE_FLOW)
_STATE = SearchAttributeKey.for_keyword(telemetry.ATTRIBUTE_STATE)
_ROLE = SearchAttributeKey.for_keyword(telemetry.ATTRIBUTE_ROLE)
_TIER = SearchAttributeKey.for_keyword(telemetry.ATTRIBUTE_TIER)
_COST = SearchAttributeKey.for_float(telemetry.ATTRIBUTE_COST_USD)


class _TimeOver(Exception):
    """The time of a visit is over."""


@workflow.defn(dynamic=True, sandboxed=False)
class FlowWorkflow:
    """One run of one work item."""

    @workflow.init
    def __init__(self, args: Sequence[RawValue]) -> None:
        """Read the start input and take up what an earlier run handed over."""
        self._stranger: ApplicationError | None = None
        try:
            self._start = _read_start(args)
        except ApplicationError as error:
            # raised by `run`: were it raised here, the SDK would not await `run`
            self._stranger = error
            return
        carried = self._start.carried or FlowCarry(state="")
        self._run = RunState(
            packed=self._start.fleet,
            item_id=self._start.item.id,
            own_budget=self._start.budget_usd,
            on_attempt=self._show,
        )
        attach(self, self._run)
        # before `run`, since an update may come with the start
        self._run.take_up()
        self._run.budget.open(self._run.snapshot.guardrails, self._run.own_budget)
        self._flow = self._run.snapshot.flows[self._start.flow]
        self._state = carried.state or self._flow.initial
        self._holding = Holding(self._run, self._flow, carried.state)
        self._reply: Reply = dict(carried.last_reply)
        self._taken = Counter(carried.taken)
        self._path: list[str] = list(carried.path)
        self._role = self._reason = ""
        self._unshown = False
        self._cancel_reason: str | None = None
        self._walking: asyncio.Task[None] | None = None

    @workflow.run
    async def run(self, args: Sequence[RawValue]) -> FlowResult:
        """Walk from state to state until one is terminal."""
        if self._stranger is not None:
            raise self._stranger
        self._walking = asyncio.create_task(self._walk())
        if self._cancel_reason is not None:  # came with the start
            self._walking.cancel()
        try:
            await self._walking
        except (asyncio.CancelledError, ActivityError) as error:
            if not is_cancelled_exception(error):
                raise
            self._enter(CANCELLED, self._cancel_reason or "the workflow was cancelled")
            if self._cancel_reason is None:
                await self._close()
                raise
        await self._close()
        result = self._result()
        if self._state == FAILED:
            raise ApplicationError(
                f"{self._reason}", result, type="ItemFailed", non_retryable=True
            )
        return result

    async def _walk(self) -> None:
        if not self._path:
            await self._holding.before(self._state)
            self._enter(self._state)
        while self._flow.leaving(self._state):
            await self._run.resumed()
            self._continue_if_long()
            try:
                taken = await self._visit()
            except TierpoolError as error:
                self._enter(FAILED, str(error))
                return
            if isinstance(taken, Stuck):
                self._enter(FAILED, "no transition holds: " + "; ".join(taken.reasons))
                return
            self._taken[taken.transition] += 1
            by = f"by the transition {taken.transition!r}"
            await self._holding.before(taken.target)
            self._enter(taken.target, by if taken.target == FAILED else "")
            await self._holding.entered(taken.target)

    async def _visit(self) -> Take | Stuck:
        """Make the decisions of one visit come true, within the state's time."""
        visit = Visit(self._flow, self._state, self._taken, self._reply)
        spec = self._flow.states.get(self._state)
        deadline = workflow.now() + spec.timeout if spec and spec.timeout else None
        while True:
            decision = visit.decide()
            self._reply = visit.last_reply
            if isinstance(decision, Take | Stuck):
                self._role = ""
                return decision
            left = deadline - workflow.now() if deadline else None
            try:
                await self._within(left, self._act(visit, decision))
            except _TimeOver:
                visit.timed_out()

    async def _act(self, visit: Visit, decision: RunRole | RunVerifier) -> None:
        if isinstance(decision, RunRole):
            with self._holding.expected(decision.transition):
                reply = await self._call(decision.role, visit.last_reply)
            visit.replied(decision.role, reply)
            return
        last = visit.last_reply
        tier = self._last_tier(decision.role)
        verdict = await self._call(decision.verifier, last)
        if verdict.get("accept") is not True and decision.escalate and tier:
            refused = Refusal(tier, last, f"{decision.verifier}: {refusal(verdict)}")
            try:
                again = await self._call(
                    decision.role, visit.before(decision.role), refused
                )
            except NoTierAbove:
                pass  # the refusal stands: the transition does not hold
            else:
                visit.replied(decision.role, again)
                return
        visit.verified(decision.transition, verdict)

    async def _call(
        self, role: str, last: Reply, refused: Refusal | None = None
    ) -> Reply:
        self._role = role
        if self._run.snapshot.role(role).type == "human":
            self._show(role, "")  # a human makes no attempt that would show it
        return await call_agent(
            role, item=self._start.item, last_reply=last, refusal=refused
        )

    async def _within(self, left: timedelta | None, work: Coroutine[Any, Any, T]) -> T:
        """Run with a visible deadline; what is under way is cancelled at its end."""
        if left is None:
            return await work
        task = asyncio.create_task(work)
        timer = asyncio.create_task(
            workflow.sleep(max(left, timedelta()), summary=f"timeout of {self._state}")
        )
        try:
            await workflow.wait([task, timer], return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
            expired = task.cancel()  # False if it is done already
            await workflow.wait([task])
        failed = None if task.cancelled() else task.exception()
        stopped = task.cancelled() or (
            failed is not None and is_cancelled_exception(failed)
        )
        if expired and stopped:
            raise _TimeOver
        return task.result()

    def _last_tier(self, role: str) -> str:
        mine = [a.tier for a in self._run.attempts if a.role == role]
        return mine[-1] if mine else ""

    def _enter(self, state: str, reason: str = "") -> None:
        """Enter a state; it is in history before anything runs in it."""
        self._state = self._run.state = state
        self._reason, self._role = reason, ""
        self._path.append(state)
        self._unshown = True
        self._run.show()
        workflow.logger.info("state.entered", extra={"state": state, "reason": reason})

    def _show(self, role: str, tier: str) -> None:
        """Upsert the visit's state, role and tier: once a visit, before its first attempt.

        One command for all three: an upsert for each call costs throughput.
        """
        if self._unshown:
            self._unshown = False
            workflow.upsert_search_attributes(
                [
                    _STATE.value_set(self._state),
                    _ROLE.value_set(role),
                    _TIER.value_set(tier) if tier else _TIER.value_unset(),
                ]
            )

    async def _close(self) -> None:
        """Write what the item cost, give all holds back, let late handlers finish."""
        await self._holding.entered("")
        costs = self._run.costs()
        workflow.upsert_search_attributes(
            [_STATE.value_set(self._state), _COST.value_set(float(costs.cost_usd))]
        )
        await workflow.wait_condition(workflow.all_handlers_finished)

    def _continue_if_long(self) -> None:
        if not workflow.info().is_continue_as_new_suggested():
            return
        carried = FlowCarry(
            state=self._state,
            last_reply=self._reply,
            taken=dict(self._taken),
            path=tuple(self._path),
        )
        start = self._start.model_copy(update={"carried": carried})
        size = workflow.payload_converter().to_payload(start).ByteSize()
        size += sum(p.ByteSize() for p in self._run.hand_over().values())
        # a next run that does not fit would fail its workflow task for ever
        if size <= _START_BYTES:
            workflow.continue_as_new(start)

    def _result(self) -> FlowResult:
        costs = self._run.costs()
        return FlowResult(
            item_id=self._start.item.id,
            state=self._state,
            reason=self._reason,
            reply=self._reply,
            attempts=costs.made,
            usage=costs.usage,
            cost_usd=costs.cost_usd,
            unknown_cost_attempts=costs.unknown_cost_attempts,
            budget_usd=costs.budget_usd,
            path=tuple(self._path),
        )

    @workflow.query(description="Where the item is, what works on it, what it cost")
    def status(self) -> ItemStatus:
        """Answer the `status` query."""
        costs = self._run.costs()
        last: Attempt | None = costs.attempts[-1] if costs.attempts else None
        return ItemStatus(
            item_id=self._start.item.id,
            flow=self._start.flow,
            state=self._state,
            reason=self._reason,
            role=self._role,
            tier=last.tier if last and last.role == self._role else "",
            paused=self._run.paused,
            terminal=not self._flow.leaving(self._state),
            waiting_for=next(iter(self._run.decisions.waiting), ""),
            attempts=costs.made,
            cost_usd=costs.cost_usd,
            budget_usd=costs.budget_usd,
        )

    @workflow.query(description="Every attempt with its usage and cost")
    def costs(self) -> ItemCosts:
        """Answer the `costs` query."""
        return self._run.costs()

    @workflow.query(description="Messages of the roles that keep a conversation")
    def conversation(
        self, request: ConversationRequest | None = None
    ) -> ConversationChunk:
        """Answer the `conversation` query."""
        return self._run.conversation(request)

    @workflow.update(
        description='Reply for the human role that waits: {"reply": {…}, "by": "name"}'
    )
    def decide(self, decision: HumanDecision) -> None:
        """Take a human role's reply."""
        self._run.decisions.take(decision)

    @decide.validator
    def _check_decision(self, decision: HumanDecision) -> None:
        self._run.decisions.check(decision)

    @workflow.update(
        description='End the item in the state cancelled; data: "the reason", or none'
    )
    def cancel_item(self, reason: str = "") -> None:
        """Stop what is under way and end the item."""
        self._cancel_reason = f"cancelled: {reason}" if reason else "cancelled"
        if self._walking is not None:
            self._walking.cancel()

    @workflow.update(
        description='Break off what is under way and start nothing; "finish" lets it end'
    )
    def pause(self, mode: str = "abort") -> None:
        """Stop the spending: what is broken off is charged and made again later."""
        self._run.pause(abort=mode == "abort")

    @pause.validator
    def _check_pause(self, mode: str = "abort") -> None:
        if mode not in ("abort", "finish"):
            raise ApplicationError(
                f'{mode!r} is no way to pause; known: "abort", "finish"',
                type="UnknownName",
                non_retryable=True,
            )

    @workflow.update(description='Raise the budget; data: the new total, as "2.50" USD')
    def raise_budget(self, usd: JsonValue) -> None:
        """Let the item spend more."""
        raise_budget(self._run, usd)

    @raise_budget.validator
    def _check_raise(self, usd: JsonValue) -> None:
        check_raise(self._run, usd)

    @workflow.update(description="Go on after a pause")
    def resume(self) -> None:
        """Go on after `pause`."""
        self._run.paused = False


def _read_start(args: Sequence[RawValue]) -> FlowStart:
    """Read a flow's input, or fail by name: any type lands on a dynamic workflow."""
    kind = workflow.info().workflow_type
    try:
        converter = workflow.payload_converter()
        start: FlowStart = converter.from_payload(args[0].payload, FlowStart)
        FleetSnapshot.unpack(start.fleet).flows[start.flow]
        return start  # noqa: TRY300 - what is looked up may be missing
    except (LookupError, ValueError, RuntimeError, zlib.error) as error:
        raise ApplicationError(
            f"{kind!r} was not started as a tierpool flow: its input is no FlowStart. "
            "Start flows with tierpool.start_flow or `tierpool run`; for a workflow of "
            "your own use a task queue of your own.",
            type="NotAFlow",
            non_retryable=True,
        ) from error
