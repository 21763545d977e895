"""Test kit for flows and agents: a scripted model provider and real servers.

`ScriptedProvider` is an HTTP server on this machine that speaks the wire
formats of OpenAI and Anthropic and answers what a test tells it to;
`dev_server` and `time_skipping_server` start Temporal's own servers. It needs
the extra `tierpool[testing]`. Names are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tierpool.testing.provider import ScriptedProvider, fitting_reply
    from tierpool.testing.records import Abort, Accounting, CallRecord, SeenRequest
    from tierpool.testing.script import ScriptExhausted
    from tierpool.testing.servers import dev_server, time_skipping_server
    from tierpool.testing.steps import (
        CutConnection,
        Fail,
        Garbage,
        NoUsage,
        Overloaded,
        QuotaExceeded,
        RateLimited,
        Reply,
        ServerError,
        SlowFirstByte,
        Stall,
        Step,
    )

__all__ = [
    "Abort",
    "Accounting",
    "CallRecord",
    "CutConnection",
    "Fail",
    "Garbage",
    "NoUsage",
    "Overloaded",
    "QuotaExceeded",
    "RateLimited",
    "Reply",
    "ScriptExhausted",
    "ScriptedProvider",
    "SeenRequest",
    "ServerError",
    "SlowFirstByte",
    "Stall",
    "Step",
    "dev_server",
    "fitting_reply",
    "time_skipping_server",
]

_HOME = {
    "ScriptedProvider": "provider",
    "fitting_reply": "provider",
    "Abort": "records",
    "Accounting": "records",
    "CallRecord": "records",
    "SeenRequest": "records",
    "ScriptExhausted": "script",
    "dev_server": "servers",
    "time_skipping_server": "servers",
}


def __getattr__(name: str) -> Any:
    """Load a public name from the module that has it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME.get(name, 'steps')}"), name)
