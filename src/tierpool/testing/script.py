"""Which step answers a request: rules first, then the script, then the default."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from tierpool.testing.records import SeenRequest
from tierpool.testing.steps import Step

__all__ = ["Script", "ScriptExhausted", "StepOrFunction"]

StepOrFunction: TypeAlias = Step | Callable[[SeenRequest], Step]
"""A step, or what makes one for a request."""


class ScriptExhausted(AssertionError):
    """More requests came than the script has steps for."""


@dataclass
class _Rule:
    holds: Callable[[SeenRequest], bool]
    step: StepOrFunction
    left: int | None


class Script:
    """The steps of one provider; a step of the queue answers one request."""

    def __init__(self) -> None:
        self._queue: deque[StepOrFunction] = deque()
        self._rules: list[_Rule] = []
        self._default: StepOrFunction | None = None

    @property
    def left(self) -> int:
        """Return how many steps of the queue are still to come."""
        return len(self._queue)

    def append(self, *steps: StepOrFunction) -> None:
        """Queue steps."""
        self._queue.extend(steps)

    def add_rule(
        self,
        holds: Callable[[SeenRequest], bool],
        step: StepOrFunction,
        times: int | None,
    ) -> None:
        """Answer matching requests with a step, `times` times or always."""
        self._rules.append(_Rule(holds, step, times))

    def set_default(self, step: StepOrFunction) -> None:
        """Answer with this step whatever nothing else answers."""
        self._default = step

    def choose(self, request: SeenRequest) -> Step:
        """Take the step for a request.

        Raises:
            ScriptExhausted: if there is none.
        """
        step = self._take(request)
        return step(request) if callable(step) else step

    def _take(self, request: SeenRequest) -> StepOrFunction:
        for rule in self._rules:
            if rule.left != 0 and rule.holds(request):
                if rule.left is not None:
                    rule.left -= 1
                return rule.step
        if self._queue:
            return self._queue.popleft()
        if self._default is not None:
            return self._default
        raise ScriptExhausted(
            f"request {request.number} ({request.wire}, model {request.model!r}): "
            "no rule matches, the script is used up and there is no default"
        )
