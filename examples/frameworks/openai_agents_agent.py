"""An OpenAI Agents SDK agent, durable by its official plugin, under a tierpool budget."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from agents import (
    Agent,
    AgentOutputSchemaBase,
    FunctionTool,
    Handoff,
    Model,
    ModelProvider,
    ModelResponse,
    ModelSettings,
    OpenAIChatCompletionsModel,
    RunConfig,
    Runner,
    Tool,
)
from openai import AsyncOpenAI, RateLimitError
from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError
from temporalio.openai_agents import (
    AgentsWorkflowError,
    ModelActivityParameters,
    OpenAIAgentsPlugin,
)
from temporalio.worker import Worker

from tierpool import TierpoolPlugin, connect, governed

HERE = Path(__file__).parent
QUEUE = "openai-agents"


class GovernedModel(Model):
    """Reserves the worst case of every request, and settles what it used."""

    def __init__(self, name: str, wrapped: Model) -> None:
        self.name, self.wrapped = name, wrapped

    async def get_response(
        self,
        system_instructions: str | None,
        input: str | list[Any],
        model_settings: ModelSettings,
        tools: list[Tool],
        output_schema: AgentOutputSchemaBase | None,
        handoffs: list[Handoff],
        *args: Any,
        **more: Any,
    ) -> ModelResponse:
        async with governed(
            model=f"openai:{self.name}",
            max_output_tokens=model_settings.max_tokens or 500,
            input=[
                system_instructions or "",
                *([input] if isinstance(input, str) else input),
                *map(described, [*tools, *handoffs]),
                schema_of(output_schema),
            ],
        ) as call:
            limit = ModelSettings(max_tokens=call.max_output_tokens)
            try:
                response = await self.wrapped.get_response(
                    system_instructions,
                    input,
                    model_settings.resolve(limit),
                    tools,
                    output_schema,
                    handoffs,
                    *args,
                    **more,
                )
            except RateLimitError:
                call.release()  # refused before any work
                raise
            call.settle(response.usage)
            return response

    def stream_response(self, *args: Any, **more: Any) -> Any:
        raise NotImplementedError("this example governs whole responses only")


def described(tool: Tool | Handoff) -> dict[str, Any]:
    """Return what a model is told of a tool or a handoff."""
    if isinstance(tool, FunctionTool):
        about, schema = tool.description, tool.params_json_schema
        return {"name": tool.name, "about": about, "schema": schema}
    if isinstance(tool, Handoff):
        about, schema = tool.tool_description, tool.input_json_schema
        return {"name": tool.tool_name, "about": about, "schema": schema}
    raise NotImplementedError(f"{tool.name} costs more than the tokens of this request")


def schema_of(output: AgentOutputSchemaBase | None) -> dict[str, Any]:
    return {} if output is None or output.is_plain_text() else output.json_schema()


class GovernedModels(ModelProvider):
    def __init__(self) -> None:
        # one reservation is one request: Temporal retries, the client does not
        self.client = AsyncOpenAI(max_retries=0)  # OPENAI_API_KEY, OPENAI_BASE_URL

    def get_model(self, model_name: str | None) -> Model:
        name = model_name or "gpt-5-mini"
        return GovernedModel(name, OpenAIChatCompletionsModel(name, self.client))


@workflow.defn
class Questions:
    """Asks one question after the other; says which ones the budget did not allow."""

    @workflow.run
    async def run(self, questions: list[str]) -> list[str]:
        agent = Agent(
            name="writer", instructions="Answer in one sentence.", model="gpt-5-mini"
        )
        quiet = RunConfig(tracing_disabled=True)  # traces would go to OpenAI
        answers = []
        for question in questions:
            try:
                result = await Runner.run(agent, question, run_config=quiet)
                answers.append(result.final_output)
            except (ActivityError, AgentsWorkflowError) as error:
                denial = denial_in(error)
                if denial is None:
                    raise
                answers.append(f"denied: {denial.message}")
        return answers


def denial_in(error: BaseException | None) -> ApplicationError | None:
    while error is not None:
        if isinstance(error, ApplicationError) and error.type == "BudgetDenied":
            return error
        error = error.__cause__
    return None


async def main() -> None:
    durable = OpenAIAgentsPlugin(
        model_provider=GovernedModels(),
        model_params=ModelActivityParameters(
            start_to_close_timeout=timedelta(minutes=2),
            heartbeat_timeout=timedelta(seconds=10),  # a cancel stops the spend
            retry_policy=RetryPolicy(maximum_attempts=5),
        ),
    )
    client = await connect([durable, TierpoolPlugin(HERE / "agents.yaml")])
    async with Worker(client, task_queue=QUEUE, workflows=[Questions]):
        questions = ["What is a saga?", "Summarise: " + "words, words, " * 4000]
        answers = await client.execute_workflow(
            Questions.run, questions, id=f"questions-{uuid4()}", task_queue=QUEUE
        )
    print("\n".join(answers))


if __name__ == "__main__":
    asyncio.run(main())
