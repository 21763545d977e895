"""Asks to lead: of all autoscalers of a fleet one does at a time."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Sequence
from datetime import timedelta

from temporalio.client import (
    Client,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.service import RPCError, RPCStatusCode

from tierpool.contracts.scaling import (
    LEAD_UPDATE,
    LeadAnswer,
    LeadRequest,
    PoolDecision,
    ScalingState,
    scaling_id,
)
from tierpool.errors import TierpoolError

__all__ = ["Candidate", "NobodyAnswers"]

_TIMEOUT = timedelta(seconds=10)
_RESIGN_TIMEOUT = timedelta(seconds=2)


class NobodyAnswers(TierpoolError):
    """Nobody tells who leads, so nobody does."""


class Candidate:
    """This process, which would like to lead."""

    def __init__(self, client: Client, fleet: str, act: str, seconds: float) -> None:
        """Take a client, the fleet's name, and what this process changes.

        Args:
            client: Of the fleet's server.
            fleet: Its name.
            act: Name of the target.
            seconds: For how long nobody else leads after this one has spoken.
        """
        self._patience = min(_TIMEOUT, timedelta(seconds=seconds / 3))
        self._client, self._fleet = client, fleet
        self._request = LeadRequest(
            who=uuid.uuid4().hex,
            where=f"{socket.gethostname()}:{os.getpid()}",
            act=act,
            seconds=seconds,
        )
        self._opened = False

    async def ask(
        self, decisions: Sequence[PoolDecision], trouble: str = ""
    ) -> LeadAnswer:
        """Lead for a while more, or learn who does.

        Raises:
            NobodyAnswers: if the server or the fleet's `--control` is silent.
        """
        request = self._request.model_copy(
            update={"decisions": tuple(decisions), "trouble": trouble[:1000]}
        )
        return await self._ask(request, self._patience)

    async def resign(self) -> None:
        """Let somebody else lead at once.

        Raises:
            NobodyAnswers: as for `ask`; then others wait for a while.
        """
        if self._opened:
            request = self._request.model_copy(update={"resigns": True})
            await self._ask(request, _RESIGN_TIMEOUT)

    async def _ask(self, request: LeadRequest, timeout: timedelta) -> LeadAnswer:
        try:
            if not self._opened:
                await self._open()
            handle = self._client.get_workflow_handle(scaling_id(self._fleet))
            answer: LeadAnswer = await handle.execute_update(
                LEAD_UPDATE, request, result_type=LeadAnswer, rpc_timeout=timeout
            )
        except WorkflowUpdateRPCTimeoutOrCancelledError:
            raise NobodyAnswers(
                "nobody says who leads: is there a `tierpool worker --control` of "
                f"the fleet {self._fleet}?"
            ) from None
        except WorkflowUpdateFailedError as error:
            raise NobodyAnswers(f"the lead was not given: {error.cause}") from error
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                self._opened = False  # somebody has ended it: open it again
            raise NobodyAnswers(f"the Temporal server says: {error.message}") from error
        return answer

    async def _open(self) -> None:
        """Start the workflow whose ID is the lock; that it runs already is fine."""
        await self._client.start_workflow(
            "ScalingWorkflow",
            ScalingState(fleet=self._fleet),
            id=scaling_id(self._fleet),
            task_queue=f"{self._fleet}-control",
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            static_summary="Who leads the scaling of pools",
            rpc_timeout=self._patience,
        )
        self._opened = True
