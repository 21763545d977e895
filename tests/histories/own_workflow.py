"""A user's own workflow whose history is recorded; runs in the sandbox."""

from pydantic import BaseModel
from temporalio import workflow

from tierpool.workflows import call_agent


class Essay(BaseModel):
    title: str
    words: int


@workflow.defn
class RoutedWriter:
    @workflow.run
    async def run(self, text: str) -> Essay:
        return await call_agent("writer", text, output=Essay)
