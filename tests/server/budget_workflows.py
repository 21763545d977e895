"""Workflows that share a budget, with calls in parallel and with children."""

import asyncio
from itertools import chain

from temporalio import workflow
from temporalio.workflow import ParentClosePolicy

from tierpool.errors import BudgetDenied
from tierpool.workflows import call_agent, child_budget, limit_budget


async def _ask(role: str, text: str) -> str:
    try:
        return await call_agent(role, text, output=str)
    except BudgetDenied as error:
        return f"denied: {error.why}"


@workflow.defn
class GreedyWorkflow:
    """Makes as many calls at a time as it is told, each of them again and again."""

    @workflow.run
    async def run(self, at_a_time: int, rounds: int) -> list[str]:
        async def caller(n: int) -> list[str]:
            replies = []
            for turn in range(rounds):
                replies.append(await _ask("reviewer", f"text {n} {turn}"))
                if replies[-1].startswith("denied"):
                    break
            return replies

        done = await asyncio.gather(*(caller(n) for n in range(at_a_time)))
        return list(chain.from_iterable(done))


@workflow.defn
class FamilyWorkflow:
    """Lets children call agents, and calls agents itself."""

    @workflow.run
    async def run(self, children: int, calls: int, own: int) -> list[str]:
        mine = [_ask("reviewer", f"own {n}") for n in range(own)]
        theirs = [
            workflow.execute_child_workflow(
                GreedyWorkflow.run,
                args=[calls, 3],
                id=f"{workflow.info().workflow_id}-{n}",
            )
            for n in range(children)
        ]
        done = await asyncio.gather(asyncio.gather(*mine), asyncio.gather(*theirs))
        return [*done[0], *chain.from_iterable(done[1])]


@workflow.defn
class LimitedFamilyWorkflow:
    """Gives a child a part of its budget, and waits for its end."""

    @workflow.run
    async def run(self, usd: str) -> list[str]:
        with child_budget(usd):
            child = await workflow.start_child_workflow(
                GreedyWorkflow.run,
                args=[1, 9],
                id=f"{workflow.info().workflow_id}-limited",
            )
        return await child


@workflow.defn
class LimitWorkflow:
    """Sets its own budget, then calls until it is denied."""

    @workflow.run
    async def run(self, usd: str) -> list[str]:
        await limit_budget(usd)
        return [await _ask("reviewer", f"text {n}") for n in range(3)]


@workflow.defn
class SilentFamilyWorkflow:
    """Has a child that never comes to its end, and goes on after its termination."""

    @workflow.run
    async def run(self) -> list[str]:
        child = await workflow.start_child_workflow(
            GreedyWorkflow.run,
            args=[1, 1],
            id=f"{workflow.info().workflow_id}-silent",
            parent_close_policy=ParentClosePolicy.TERMINATE,
        )
        try:
            await child
        except Exception as error:  # noqa: BLE001 - however it ended
            workflow.logger.info("child ended: %s", error)
        return [await _ask("reviewer", "after the child")]


@workflow.defn
class LongRunWorkflow:
    """Continues as new after each call, until it is denied."""

    @workflow.run
    async def run(self, done: int) -> int:
        reply = await _ask("reviewer", f"text {done}")
        if reply.startswith("denied"):
            return done
        workflow.continue_as_new(done + 1)


@workflow.defn
class PairWorkflow:
    """Calls a role twice at a time."""

    @workflow.run
    async def run(self) -> list[str]:
        calls = (call_agent("clerk", {"n": n}, output=str) for n in range(2))
        return list(await asyncio.gather(*calls))


@workflow.defn
class ChangedWorkflow:
    """Does something else when it is replayed, as if its code had been changed.

    Until it is let go, what it answers comes from the worker's cache.
    """

    def __init__(self) -> None:
        self.free = False

    @workflow.signal
    def let_go(self) -> None:
        self.free = True

    @workflow.run
    async def run(self) -> None:
        if workflow.unsafe.is_replaying():
            await workflow.sleep(1)
        for n in range(3):
            await _ask("reviewer", f"text {n}")
        await workflow.wait_condition(lambda: self.free)


WORKFLOWS = (
    ChangedWorkflow,
    FamilyWorkflow,
    GreedyWorkflow,
    LimitWorkflow,
    LimitedFamilyWorkflow,
    LongRunWorkflow,
    SilentFamilyWorkflow,
)
