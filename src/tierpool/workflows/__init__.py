"""What runs inside Temporal workflows: deterministic, no I/O, no provider SDK.

`call_agent` is for any user's own workflow; `FlowWorkflow` is built on it.
"""

from tierpool.workflows.agent import Refusal, call_agent

__all__ = ["Refusal", "call_agent"]
