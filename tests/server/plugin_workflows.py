"""Workflows of a user's own for the tests of the plugin; run in the sandbox."""

from collections.abc import Sequence
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.common import RawValue

from tierpool.errors import TierpoolError
from tierpool.workflows import call_agent

seen_by = "the sandbox"
"""A test sets this; who imports the module anew does not see it."""


class QuotaReached(TierpoolError):
    pass


@activity.defn
async def measure(text: str) -> int:
    return len(text)


@workflow.defn
class MeasuredReview:
    """Uses another plugin's activity beside an agent."""

    @workflow.run
    async def run(self, text: str) -> str:
        size = await workflow.execute_activity(
            "other_plugins_measure", text, start_to_close_timeout=timedelta(seconds=5)
        )
        reply = await call_agent("reviewer", text, output=str)
        return f"{size} {reply}"


@workflow.defn
class SeesTheModule:
    """Tells whether its module is the one of the process."""

    @workflow.run
    async def run(self) -> str:
        await call_agent("reviewer", "text")
        return seen_by


@workflow.defn
class Raises:
    @workflow.run
    async def run(self, kind: str) -> None:
        raise {"ours": QuotaReached, "theirs": KeyError}[kind]("on purpose")


@workflow.defn(dynamic=True)
class TheirDynamic:
    @workflow.run
    async def run(self, args: Sequence[RawValue]) -> str:
        return f"theirs: {workflow.info().workflow_type}"
