"""tierpool: a Temporal plugin for pools of LLM agents.

`TierpoolPlugin` joins a Temporal client and its workers to a fleet;
`start_flow` starts work items; `tierpool.workflows.call_agent` runs a role
from any workflow; `governed` puts the model calls of any activity under its
workflow's budget.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tierpool.activities.governed import governed
    from tierpool.client import connect, flow_result, start_flow
    from tierpool.config import load_fleet
    from tierpool.contracts import FlowResult, Usage, WorkItem
    from tierpool.errors import TierpoolError
    from tierpool.plugin import TierpoolPlugin

__version__ = "0.1.0"

__all__ = [
    "FlowResult",
    "TierpoolError",
    "TierpoolPlugin",
    "Usage",
    "WorkItem",
    "__version__",
    "connect",
    "flow_result",
    "governed",
    "load_fleet",
    "start_flow",
]

_HOMES = {
    "FlowResult": "tierpool.contracts",
    "TierpoolError": "tierpool.errors",
    "TierpoolPlugin": "tierpool.plugin",
    "Usage": "tierpool.contracts",
    "WorkItem": "tierpool.contracts",
    "connect": "tierpool.client",
    "flow_result": "tierpool.client",
    "governed": "tierpool.activities.governed",
    "load_fleet": "tierpool.config",
    "start_flow": "tierpool.client",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use: importing the package stays cheap."""
    try:
        home = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module 'tierpool' has no attribute {name!r}") from None
    return getattr(importlib.import_module(home), name)
