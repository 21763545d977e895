"""A user's own workflow whose activities call models themselves; run in the sandbox."""

import asyncio
from datetime import timedelta

from pydantic import BaseModel
from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError


class Ask(BaseModel):
    """One call of a model, by the official client of its wire."""

    base_url: str
    text: str = "x" * 200
    model: str = "openai:small"
    limit: int = 1000
    wire: str = "openai"
    ends: str = "settled"
    """settled, silent, released, or broken: the activity's first attempt fails."""
    queue: str | None = None
    attempts: int = 0
    id: str | None = None
    """Activity ID of the user's own."""


class Told(BaseModel):
    """How one ask ended."""

    text: str = ""
    error: str = ""
    """Type of the error."""
    why: str = ""
    retryable: bool = True


@workflow.defn
class Asking:
    """Asks all at the same time, and stays for questions until it is let go."""

    def __init__(self) -> None:
        self.free = False
        self.asked: list[asyncio.Task[Told]] = []

    @workflow.signal
    def let_go(self) -> None:
        self.free = True

    @workflow.signal
    def stop(self) -> None:
        for task in self.asked:
            task.cancel()

    @workflow.run
    async def run(self, asks: list[Ask]) -> list[Told]:
        self.asked = [asyncio.create_task(self.ask(ask)) for ask in asks]
        told = [await task for task in self.asked]
        await workflow.wait_condition(lambda: self.free)
        return told

    async def ask(self, ask: Ask) -> Told:
        try:
            text: str = await workflow.execute_activity(
                "ask",
                ask,
                task_queue=ask.queue,
                activity_id=ask.id,
                start_to_close_timeout=timedelta(seconds=60),
                heartbeat_timeout=timedelta(seconds=3),
                cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
                retry_policy=RetryPolicy(
                    initial_interval=timedelta(milliseconds=50),
                    maximum_attempts=ask.attempts,
                ),
                result_type=str,
            )
        except ActivityError as error:
            cause = error.cause
            if not isinstance(cause, ApplicationError):
                return Told(error=type(cause).__name__)
            return Told(
                error=cause.type or "",
                why=cause.message,
                retryable=not cause.non_retryable,
            )
        return Told(text=text)


@workflow.defn
class AskingAgain:
    """Runs one activity after the other, all under one ID."""

    @workflow.run
    async def run(self, asks: list[Ask]) -> list[Told]:
        return [await Asking().ask(ask) for ask in asks]


@workflow.defn
class AskingLocally:
    """Runs the same activity as a local one."""

    @workflow.run
    async def run(self, ask: Ask) -> str:
        return await workflow.execute_local_activity(
            "ask", ask, start_to_close_timeout=timedelta(seconds=9), result_type=str
        )
