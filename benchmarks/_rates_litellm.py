"""LiteLLM's side of `rate_limits.py`: one Router, told the limits of the model.

Runs in an environment of its own. One process has all callers, because a Router
counts in memory (several share their counts over Redis): its best case. A caller
has a slot while `acompletion` works on its part, with the Router's own retries; a
part that fails all the same goes back to its caller, who waits outside the slot.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm
from _rates_load import MAX_OUTPUT_TOKENS, MODEL, PROMPT, Occupied, Order, text_of
from litellm import Router

RETRIES = 3
PAUSE_S = 1.0
"""Of a caller whose part failed."""


def router_of(order: Order) -> Router:
    """Return the Router, with the limits of the model and routing by usage."""
    return Router(
        model_list=[
            {
                "model_name": MODEL,
                "litellm_params": {
                    "model": f"openai/{MODEL}",
                    "api_base": f"{order.base_url}/v1",
                    "api_key": "none",
                    "rpm": order.rpm,
                    "tpm": order.tpm,
                },
            }
        ],
        routing_strategy="usage-based-routing-v2",
        optional_pre_call_checks=["enforce_model_rate_limits"],
        num_retries=RETRIES,
        # the only deployment must not be left alone for what its limit says
        disable_cooldowns=True,
    )


class Callers:
    """All callers, their slots, and what they have done."""

    def __init__(self, order: Order) -> None:
        """Make the Router."""
        self._order, self._router = order, router_of(order)
        self._slots = asyncio.Semaphore(order.processes * order.slots)
        self._numbers = itertools.count(1)
        self._end = time.time() + order.seconds
        self._file = Path(order.folder) / "occupied-litellm.jsonl"
        self.errors: dict[str, int] = {}

    async def run(self) -> None:
        """Make calls until the time is over."""
        await asyncio.gather(*(self._caller() for _ in range(self._order.lanes)))

    async def _caller(self) -> None:
        while time.time() < self._end:
            number = next(self._numbers)
            while not await self._part(number) and time.time() < self._end:  # noqa: ASYNC110
                await asyncio.sleep(PAUSE_S)

    async def _part(self, number: int) -> bool:
        messages: list[Any] = [
            {"role": "system", "content": PROMPT},
            {"role": "user", "content": text_of(number)},
        ]
        async with self._slots:
            begin = time.time()
            try:
                await asyncio.wait_for(
                    self._router.acompletion(
                        model=MODEL, messages=messages, max_tokens=MAX_OUTPUT_TOKENS
                    ),
                    max(1.0, self._end - time.time()),
                )
            except Exception as error:  # noqa: BLE001 - a foreign program's, counted
                name = type(error).__name__
                self.errors[name] = self.errors.get(name, 0) + 1
                return False
            finally:
                Occupied(f"part {number}", begin, time.time()).write(self._file)
        return True


async def main(order: Order) -> None:
    """Make calls and say how it went."""
    litellm.suppress_debug_info = True
    callers = Callers(order)
    await callers.run()
    said = {"version": version("litellm"), "errors": callers.errors}
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    asyncio.run(main(Order.read(sys.argv[1])))
    sys.stdout.flush()
    os._exit(0)  # connections that the Router keeps are not waited for
