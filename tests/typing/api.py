"""The public API as users' type checkers see it; checked, never run."""

from typing import assert_type

from pydantic import BaseModel, JsonValue
from temporalio.client import Client

from tierpool import FlowResult, TierpoolPlugin, WorkItem, flow_result, start_flow
from tierpool.contracts import Attempt
from tierpool.workflows import Refusal, call_agent


class Review(BaseModel):
    verdict: str


async def typed_replies() -> None:
    attempts: list[Attempt] = []
    assert_type(await call_agent("reviewer", "diff", output=Review), Review)
    assert_type(await call_agent("reviewer", "diff", output=str), str)
    reply = await call_agent("reviewer", {"diff": "x"}, attempts=attempts, tier="nano")
    assert_type(reply, dict[str, JsonValue])
    refused = Refusal(above="nano", reply=reply, reason="too vague")
    await call_agent("reviewer", Review(verdict="x"), refusal=refused)
    await call_agent("reviewer", 5)  # type: ignore[call-overload]
    await call_agent("reviewer", "diff", output=int)  # type: ignore[type-var]


async def items(client: Client) -> None:
    handle = await start_flow(client, "feature", WorkItem(id="TASK-7", text="x"))
    assert_type(await flow_result(handle), FlowResult)
    await start_flow(client, "feature", "text", id="TASK-8", id_conflict="use")
    await start_flow(client, "feature", "text", id_conflict="maybe")  # type: ignore[arg-type]


async def connect() -> Client:
    return await Client.connect(
        "localhost:7233", plugins=[TierpoolPlugin("agents.yaml")]
    )
