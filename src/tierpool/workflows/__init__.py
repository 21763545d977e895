"""What runs inside Temporal workflows: deterministic, no I/O, no provider SDK.

`call_agent` and `Conversation` are for any user's own workflow; `FlowWorkflow`
is built on the first. `child_budget` and `limit_budget` say what may be spent.
"""

from tierpool.workflows.agent import Refusal, call_agent
from tierpool.workflows.children import child_budget, limit_budget
from tierpool.workflows.conversation import Conversation

__all__ = ["Conversation", "Refusal", "call_agent", "child_budget", "limit_budget"]
