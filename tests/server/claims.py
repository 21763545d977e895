"""A fleet with limits on roles and states, for the tests of claims."""

import asyncio
from collections.abc import Callable

from temporalio.client import WorkflowHandle
from temporalio.service import RPCError

from tierpool.contracts.claims import CLAIMS_QUERY, ClaimsState, claims_id

from .conftest import FLEET, Running

BASE = FLEET.replace("pool: {max_instances: 4}", "pool: {max_instances: 16}")
WORKED = """
agents:
  worker: {prompt: "Work.\\n", tier: nano, LIMITS}
flows:
  work:
    initial: incoming
    transitions:
      "incoming -> done": {agent: worker}
"""
REVIEWED = """
backpressure: {prs: 2}
agents:
  worker: {prompt: "Work.\\n", tier: nano, max_instances: 4}
  reviewer: {prompt: "Review.\\n", tier: nano, output: {verdict: [approve, reject]}}
flows:
  work:
    initial: incoming
    transitions:
      "incoming -> in_review": {agent: worker}
      "in_review -> checked": {agent: reviewer, when: {verdict: approve}}
      "in_review -> incoming": {when: {verdict: reject}, max_visits: 2}
      "in_review -> abandoned": {}
      "checked -> done": {agent: worker}
    states:
      in_review: {holds: prs}
      checked: {holds: prs}
"""


def worked(limits: str) -> str:
    return WORKED.replace("LIMITS", limits)


def entity(fleet: Running) -> WorkflowHandle[object, None]:
    return fleet.client.get_workflow_handle(claims_id(fleet.fleet.name))


async def claims_of(fleet: Running) -> ClaimsState:
    return await entity(fleet).query(CLAIMS_QUERY, result_type=ClaimsState)


async def until_claims(
    fleet: Running, holds: Callable[[ClaimsState], bool], seconds: float = 40
) -> ClaimsState:
    """Wait until the claims are as they should be."""
    state = ClaimsState()
    try:
        async with asyncio.timeout(seconds):
            while True:
                try:
                    state = await claims_of(fleet)
                except RPCError:  # not there yet
                    state = ClaimsState()
                if holds(state):
                    return state
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"the claims stay at {state}") from None


def waits(count: int) -> Callable[[ClaimsState], bool]:
    return lambda state: len(state.waiting) == count


def held(count: int) -> Callable[[ClaimsState], bool]:
    return lambda state: len(state.held) == count
