"""Fleet files: a small one, and one with everything that manifests may hold."""

from __future__ import annotations

from collections.abc import Callable

from tierpool.manifests import Manifests

Make = Callable[..., Manifests]

SMALL = """\
version: 1
fleet: acme
tiers:
  nano: {model: openai:gpt-5-nano, pool: {max_instances: 16}}
agents:
  writer: {prompt: prompts/writer.md}
"""

WIDE = """\
version: 1
fleet: acme
workdir: /var/lib/tierpool
tiers:
  Fast_1:
    model: openai:gpt-5-nano
    fallback: [{model: anthropic:claude-haiku-4-5}]
    pool: {max_instances: 100, scaling: {min_workers: 2, max_workers: 12}}
  "on": {model: openai:gpt-5, api_key_env: OTHER_KEY, pool: {max_instances: 3}}
  paused: {model: local:llama, price: {input_usd_per_mtok: 1, output_usd_per_mtok: 1},
           pool: {min_instances: 0, max_instances: 0}}
agents:
  writer: {prompt: prompts/writer.md, output: schemas/reply.json}
  inline:
    prompt: |
      Answer in one line.
  tests: {type: command, run: [make, check], pass_env: [GITHUB_TOKEN]}
  lint: {type: command, run: [ruff, check], tier: "on", pass_env: [OTHER_KEY, LINT_KEY]}
  gate: {type: python, call: "acme.gates:sanity"}
"""

MANY = (
    "version: 1\nfleet: 9-lives\ntiers:\n"
    + "".join(
        f"  Tier_{number}: {{model: openai:gpt-5-nano, fallback: [{{model: openai:gpt-5}}], "
        f"pool: {{max_instances: {number + 1}}}}}\n"
        for number in range(32)
    )
    + "agents:\n  writer: {prompt: prompts/writer.md}\n"
)
"""As many tiers as a fleet may have, and a name that begins with a digit."""
