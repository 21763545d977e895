"""Estimates of complexity and the policy that turns them into routes.

`features` measures a text, `classifier` estimates its complexity, `policy`
decides on a tier, `llm` words the question to an LLM classifier. Nothing here
knows Temporal or a provider's SDK, and no workflow imports it: a new
classifier must not change a replay.
"""

__all__: list[str] = []
