"""The examples with other frameworks, run as their reader would run them."""

import asyncio
import os
import sys
from pathlib import Path

import pytest
from temporalio.testing import WorkflowEnvironment

from tierpool.testing import Reply, ScriptedProvider

EXAMPLES = Path(__file__).parents[2] / "examples" / "frameworks"


@pytest.mark.parametrize("example", ["pydantic_ai_agent", "openai_agents_agent"])
async def test_frameworks_agent_stays_within_the_budget(
    example: str, server: WorkflowEnvironment, provider: ScriptedProvider
) -> None:
    """The first question is answered and paid for, the second denied before anything is sent."""
    provider.script(Reply("A saga is a long story."))

    printed = await output_of(
        EXAMPLES / f"{example}.py",
        TEMPORAL_ADDRESS=server.client.service_client.config.target_host,
        OPENAI_BASE_URL=f"{provider.base_url}/v1",
        OPENAI_API_KEY="sk-none",
    )

    answer, denial = printed.splitlines()
    assert answer == "A saga is a long story."
    assert denial.startswith("denied: ")
    (request,) = provider.requests
    assert request.max_tokens == 500
    assert "What is a saga?" in request.text


async def output_of(program: Path, **env: str) -> str:
    """Run a program and return what it printed.

    Raises:
        AssertionError: with what it wrote, if it fails.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(program)),
        env=os.environ | env,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(90):
            printed, log = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, log.decode()[-4000:]
    return printed.decode()
