"""Parents and children whose lives do not go as planned."""

import asyncio
from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import (
    ActivityError,
    ChildWorkflowError,
    WorkflowAlreadyStartedError,
)
from temporalio.workflow import ParentClosePolicy

from tierpool.errors import AgentCallFailed, BudgetDenied
from tierpool.workflows import call_agent, child_budget, limit_budget


def _name(what: str) -> str:
    return f"{workflow.info().workflow_id}-{what}"


async def _ask(text: str) -> str:
    try:
        return await call_agent("reviewer", text, output=str)
    except BudgetDenied as error:
        return f"denied: {error.why}"


@workflow.defn
class Leaf:
    """Makes calls one after the other until it is denied."""

    @workflow.run
    async def run(self, calls: int) -> list[str]:
        return [await _ask(f"text {n}") for n in range(calls)]


@workflow.defn
class Middle:
    """Makes no call of its own."""

    @workflow.run
    async def run(self, calls: int) -> list[str]:
        return await workflow.execute_child_workflow(Leaf.run, calls, id=_name("leaf"))


@workflow.defn
class Renewed:
    """Continues as new before its first call."""

    @workflow.run
    async def run(self, calls: int) -> list[str]:
        if not workflow.info().continued_run_id:
            workflow.continue_as_new(calls)
        return [await _ask(f"text {n}") for n in range(calls)]


@workflow.defn
class Root:
    """Has a budget and one child, of the kind that it is told."""

    @workflow.run
    async def run(self, usd: str, kind: str, calls: int) -> list[str]:
        await limit_budget(usd)
        replies: list[str] = await workflow.execute_child_workflow(
            kind, calls, id=_name(kind.lower())
        )
        return replies


@workflow.defn
class Stuck:
    """Hangs in its first call, and is started anew when its time is over."""

    @workflow.run
    async def run(self, _: int) -> list[str]:
        return [await _ask("hangs")]


@workflow.defn
class Persistent:
    """Tries its child twice."""

    @workflow.run
    async def run(self) -> list[str]:
        return await workflow.execute_child_workflow(
            Stuck.run,
            1,
            id=_name("stuck"),
            run_timeout=timedelta(seconds=4),
            retry_policy=RetryPolicy(
                maximum_attempts=2, initial_interval=timedelta(milliseconds=10)
            ),
        )


@workflow.defn
class Forgetful:
    """Continues as new while its child is at work, then calls itself."""

    @workflow.run
    async def run(self, first: bool) -> str:
        if first:
            with child_budget("0.0027"):
                await workflow.start_child_workflow(
                    Stuck.run,
                    1,
                    id=_name("stuck"),
                    parent_close_policy=ParentClosePolicy.TERMINATE,
                )
            await _ask("mine")
            await workflow.sleep(1)
            workflow.continue_as_new(False)
        return await _ask("after")


@workflow.defn
class Doubled:
    """Starts a child a second time while it runs."""

    @workflow.run
    async def run(self) -> str:
        with child_budget("0.0054"):
            child = await workflow.start_child_workflow(Leaf.run, 4, id=_name("leaf"))
            try:
                await workflow.start_child_workflow(Leaf.run, 4, id=_name("leaf"))
            except WorkflowAlreadyStartedError:
                return str((await child).count("fine"))
        return "started twice"


@workflow.defn
class Hasty:
    """Cancels calls of a child while they ask for money."""

    @workflow.run
    async def run(self, number: int) -> int:
        cancelled = 0
        for n in range(number):
            task = asyncio.create_task(_ask(f"text {n}"))
            if n % 2:
                await workflow.sleep(0.001)
            else:
                for _ in range(9):  # until the ask has been sent, but not delivered
                    await asyncio.sleep(0)
            if task.cancel():
                cancelled += 1
            try:
                await task
            except (asyncio.CancelledError, AgentCallFailed, ActivityError):
                continue
        return cancelled


@workflow.defn
class Twice:
    """Cancels a call in the moment in which it goes on after a wait."""

    @workflow.run
    async def run(self) -> str:
        attempts: list[object] = []
        task = asyncio.create_task(
            call_agent("reviewer", "waits", output=str, attempts=attempts)  # type: ignore[arg-type]
        )
        await workflow.wait_condition(lambda: bool(attempts))
        await workflow.sleep(1)
        task.cancel()
        await workflow.wait([task])
        return await _ask("another")


@workflow.defn
class Mixed:
    """Has a large call that nobody can pay for, and a small one."""

    @workflow.run
    async def run(self, _: int) -> list[str]:
        large = asyncio.create_task(_ask("x" * 9000))
        await workflow.sleep(0.5)
        begun = workflow.time()
        small = await _ask("small")
        took = workflow.time() - begun
        large.cancel()
        await workflow.wait([large])
        return [small, "at once" if took < 5 else f"after {took} s"]


@workflow.defn
class Uneven:
    """Makes a small call, and a large one while the small one is under way."""

    @workflow.run
    async def run(self) -> list[str]:
        small = asyncio.create_task(_ask("small"))
        await workflow.sleep(0.5)
        large = await _ask("x" * 3000)
        return [await small, large]


@workflow.defn
class Rivals:
    """Has two children that each could use what the other one holds."""

    @workflow.run
    async def run(self) -> list[list[str]]:
        rivals = (
            workflow.execute_child_workflow(Uneven.run, id=_name(f"rival-{n}"))
            for n in range(2)
        )
        return list(await asyncio.gather(*rivals))


@workflow.defn
class Buggy:
    """Has a bug between two calls, until it is mended."""

    mended = False

    @workflow.run
    async def run(self, _: int) -> list[str]:
        first = await _ask("one")
        if not self.mended:
            raise TypeError("a bug")
        return [first, await _ask("two")]


@workflow.defn
class Parent:
    """Waits for a child, whatever becomes of it."""

    @workflow.run
    async def run(self, kind: str, number: int) -> str:
        try:
            return str(
                await workflow.execute_child_workflow(
                    kind, number, id=_name("c"), task_timeout=timedelta(seconds=2)
                )
            )
        except ChildWorkflowError as error:
            return str(error)


WORKFLOWS = (
    *(
        Buggy,
        Doubled,
        Forgetful,
        Hasty,
        Leaf,
        Middle,
        Mixed,
        Parent,
        Persistent,
        Renewed,
    ),
    *(Rivals, Root, Stuck, Twice, Uneven),
)
