"""The local activity that decides on a call's route.

The decision itself is pure and lives in `routing`; here are only its name on
the wire and what happens to errors. It does no I/O, so it runs as a local
activity, and its answer is recorded: a later classifier changes no replay.
"""

from __future__ import annotations

import structlog
from temporalio import activity

from tierpool.contracts import RouteAnswer, RouteRequest
from tierpool.errors import TierpoolError
from tierpool.fleet import FleetSnapshot
from tierpool.routing.classifier import Classifier, Estimate, RulesClassifier
from tierpool.routing.policy import decide

__all__ = ["route"]

_log = structlog.get_logger()


class _Reported:
    """A classifier whose failures are logged; they then mean the standard tier."""

    def __init__(self, inner: Classifier) -> None:
        self._inner = inner
        self.name, self.version = inner.name, inner.version

    def classify(self, role: str, text: str) -> Estimate:
        try:
            return self._inner.classify(role, text)
        except Exception as error:
            # No message and no traceback: they could quote the text.
            _log.warning(
                "classifier.failed",
                role=role,
                classifier=f"{self.name}@{self.version}",
                error=type(error).__name__,
            )
            raise


_CLASSIFIER = _Reported(RulesClassifier())


@activity.defn(name="tierpool_route")
async def route(request: RouteRequest) -> RouteAnswer:
    """Decide where a call goes; see `tierpool.routing.policy.decide`.

    A role or tier that is unknown or not allowed is an answer, not a failure: it
    is recorded as such, and nothing is tried again.
    """
    try:
        return decide(request, FleetSnapshot.unpack(request.fleet), _CLASSIFIER)
    except TierpoolError as error:
        return RouteAnswer(refused=str(error))
