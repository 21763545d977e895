"""A pydantic-ai agent, durable by pydantic-ai's own plugin, under a tierpool budget."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import NoReturn
from uuid import uuid4

from openai import AsyncOpenAI, RateLimitError
from pydantic_ai import Agent, ModelSettings
from pydantic_ai.durable_exec.temporal import PydanticAIPlugin, TemporalDurability
from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.providers.openai import OpenAIProvider
from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError
from temporalio.worker import Worker

from tierpool import TierpoolPlugin, connect, governed

HERE = Path(__file__).parent
QUEUE = "pydantic-ai"


class GovernedModel(WrapperModel):
    """Reserves the worst case of every request, and settles what it used."""

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        settings = ModelSettings(**(model_settings or {}))
        async with governed(
            model=f"{self.wrapped.system}:{self.wrapped.model_name}",
            max_output_tokens=settings.get("max_tokens", 500),
            # more than what is sent, never less: pydantic-ai's own form of it
            input=[*messages, model_request_parameters],
        ) as call:
            settings["max_tokens"] = call.max_output_tokens
            try:
                response = await self.wrapped.request(
                    messages, settings, model_request_parameters
                )
            except Exception as error:
                if isinstance(error.__cause__, RateLimitError):
                    call.release()  # refused before any work
                raise
            call.settle(response.usage)
            return response

    def request_stream(self, *args: object, **options: object) -> NoReturn:
        raise NotImplementedError("a stream would not be under the budget")


def model() -> GovernedModel:
    # one reservation is one request: Temporal retries, the client does not
    client = AsyncOpenAI(max_retries=0)  # OPENAI_API_KEY, OPENAI_BASE_URL
    provider = OpenAIProvider(openai_client=client)
    return GovernedModel(OpenAIChatModel("gpt-5-mini", provider=provider))


agent = Agent(
    model(),
    name="writer",
    instructions="Answer in one sentence.",
    capabilities=[
        TemporalDurability(
            model_activity_config={
                "start_to_close_timeout": timedelta(minutes=2),
                "retry_policy": RetryPolicy(maximum_attempts=5),
            }
        )
    ],
)


@workflow.defn
class Questions:
    """Asks one question after the other until the budget is used up."""

    __pydantic_ai_agents__ = [agent]

    @workflow.run
    async def run(self, questions: list[str]) -> list[str]:
        answers = []
        for question in questions:
            try:
                answers.append((await agent.run(question)).output)
            except ActivityError as error:
                cause = error.cause
                if not isinstance(cause, ApplicationError):
                    raise
                if cause.type != "BudgetDenied":
                    raise
                answers.append(f"denied: {cause.message}")
        return answers


async def main() -> None:
    plugins = [PydanticAIPlugin(), TierpoolPlugin(HERE / "agents.yaml")]
    client = await connect(plugins)
    async with Worker(client, task_queue=QUEUE, workflows=[Questions]):
        questions = ["What is a saga?", "Summarise: " + "words, words, " * 4000]
        answers = await client.execute_workflow(
            Questions.run, questions, id=f"questions-{uuid4()}", task_queue=QUEUE
        )
    print("\n".join(answers))


if __name__ == "__main__":
    asyncio.run(main())
