"""Human roles: decisions that arrive by the `decide` update."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeAlias

from temporalio import workflow
from temporalio.exceptions import ApplicationError

from tierpool.blueprint import Reply
from tierpool.contracts import HumanDecision

__all__ = ["Decisions", "Judge"]

Judge: TypeAlias = Callable[[Reply], str]
"""Says what is wrong with a reply; empty if nothing is."""


@dataclass
class Decisions:
    """Human roles that wait, and what was decided."""

    waiting: dict[str, Judge] = field(default_factory=dict)
    """Role → what tells a valid reply, in the order of asking."""
    decided: dict[str, Reply] = field(default_factory=dict)

    def check(self, decision: HumanDecision) -> None:
        """Refuse a decision that nobody waits for or that is no valid reply.

        Runs as the update's validator: a refused decision leaves no trace.
        """
        role = self._role(decision)
        problem = self.waiting[role](decision.reply)
        if problem:
            raise ApplicationError(
                f"the decision is not a valid reply of {role}: {problem}",
                type="InvalidDecision",
                non_retryable=True,
            )

    def take(self, decision: HumanDecision) -> None:
        """Record a decision that `check` let pass."""
        role = self._role(decision)
        del self.waiting[role]
        self.decided[role] = decision.reply

    async def wait(self, role: str, judge: Judge, timeout: timedelta | None) -> Reply:
        """Wait for the decision of a role.

        Raises:
            TimeoutError: when nobody decided in time.
        """
        await workflow.wait_condition(lambda: role not in self.waiting)
        self.waiting[role] = judge
        try:
            await workflow.wait_condition(
                lambda: role in self.decided,
                timeout=timeout,
                timeout_summary=f"waits for {role} to decide",
            )
            return self.decided[role]
        finally:
            self.waiting.pop(role, None)
            self.decided.pop(role, None)  # one that came too late is for nobody else

    def _role(self, decision: HumanDecision) -> str:
        waiting = list(self.waiting)
        if decision.role in waiting:
            return decision.role
        if decision.role is None and len(waiting) == 1:
            return waiting[0]
        asked = (
            f"no decision of {decision.role!r} is awaited"
            if decision.role
            else (
                "several decisions are awaited: name the role"
                if waiting
                else "no decision is awaited"
            )
        )
        raise ApplicationError(
            f"{asked}; waiting: {', '.join(waiting) or 'nobody'}",
            type="InvalidDecision",
            non_retryable=True,
        )
