"""LiteLLM: its proxy with `max_budget_per_session`, one session for all callers.

The agent stands in the proxy's config file and a custom auth function names it,
so neither a database nor Redis is needed; the budget is counted in memory.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

import httpx
import openai
from _race import CALL_WITHIN_S, Order, Race, Refused, read_order, run

AGENT = "racer"
READY_WITHIN_S = 120

AUTH = f"""\
from litellm.proxy._types import UserAPIKeyAuth

async def user_api_key_auth(request, api_key):
    return UserAPIKeyAuth(api_key=api_key, agent_id="{hashlib.sha256(AGENT.encode()).hexdigest()}")
"""


def config_of(order: Order) -> dict[str, object]:
    """Return the proxy's config file."""
    card = {
        "name": AGENT,
        "description": "wants calls",
        "url": "http://127.0.0.1:9",
        "version": "1.0.0",
        "capabilities": {},
        "skills": [],
        "defaultInputModes": ["text"],
        "defaultOutputModes": ["text"],
        "protocolVersion": "1.0",
    }
    return {
        "model_list": [
            {
                "model_name": order.model,
                "litellm_params": {
                    "model": f"openai/{order.model}",
                    "api_base": f"{order.base_url}/v1",
                    "api_key": "none",
                },
            }
        ],
        "agents": [
            {
                "agent_name": AGENT,
                "agent_card_params": card,
                "litellm_params": {
                    "require_trace_id_on_calls_by_agent": True,
                    "max_budget_per_session": float(order.cap_usd),
                },
            }
        ],
        "litellm_settings": {"num_retries": 0},
        "router_settings": {"num_retries": 0, "disable_cooldowns": True},
        "general_settings": {
            "custom_auth": "race_auth.user_api_key_auth",
            # the proxy does not start without one; nobody uses it
            "master_key": f"sk-{secrets.token_hex(24)}",
        },
    }


@asynccontextmanager
async def proxy(order: Order) -> AsyncIterator[str]:
    """Run the proxy until the block ends; yield its address."""
    folder = Path(order.folder)
    (folder / "race_auth.py").write_text(AUTH)
    (folder / "config.yaml").write_text(json.dumps(config_of(order)))  # JSON is YAML
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (folder / "proxy.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).with_name("litellm")),
            *("--config", str(folder / "config.yaml")),
            *("--host", "127.0.0.1", "--port", str(port), "--telemetry", "False"),
            cwd=folder,
            stdout=log,
            stderr=log,
            env={**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        )
    address = f"http://127.0.0.1:{port}"
    try:
        await until_ready(process, address, folder / "proxy.log")
        yield address
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), 15)
        except TimeoutError:
            process.kill()
            await process.wait()


async def until_ready(
    process: asyncio.subprocess.Process, address: str, log: Path
) -> None:
    """Wait until the proxy answers.

    Raises:
        RuntimeError: with the end of its log, if it ends.
    """
    async with asyncio.timeout(READY_WITHIN_S), httpx.AsyncClient() as http:
        while True:
            if process.returncode is not None:
                raise RuntimeError(f"the proxy ended: {end_of(log)}")
            try:
                answer = await http.get(f"{address}/health/liveliness")
            except httpx.TransportError:
                answer = None
            if answer is not None and answer.status_code == 200:
                return
            await asyncio.sleep(0.3)


def end_of(log: Path) -> str:
    """Return what a process said last."""
    return log.read_text(errors="replace")[-500:]


async def main() -> None:
    """Run the races through one proxy; each race is a session of its own."""
    order = read_order()
    async with proxy(order) as address:

        async def prepare(order: Order, callers: int) -> Race:
            client = openai.AsyncOpenAI(
                api_key="sk-racer",
                base_url=f"{address}/v1",
                max_retries=0,
                timeout=CALL_WITHIN_S,
            )
            session = {"x-litellm-trace-id": f"race-{callers}"}

            async def ask(text: str) -> object:
                try:
                    return await client.chat.completions.create(
                        model=order.model,
                        max_tokens=order.max_output_tokens,
                        messages=[{"role": "user", "content": text}],
                        extra_headers=session,
                    )
                except openai.RateLimitError as error:
                    if "udget" not in str(error):
                        raise
                    raise Refused(str(error)) from error

            return Race(ask, client.close)

        await run(order, version("litellm"), prepare)


if __name__ == "__main__":
    asyncio.run(main())
