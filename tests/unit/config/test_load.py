"""A good agents.yaml: the snapshot that comes of it, and the warnings."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import tierpool.config
from tierpool.blueprint import Price
from tierpool.config import check_fleet, load_fleet
from tierpool.config.credentials import missing_credentials
from tierpool.contracts import PartRef
from tierpool.fleet import FleetSnapshot

Check = Callable[..., Any]

FULL = """\
version: 1
fleet: acme
max_concurrent: 24
backpressure: {max_open_prs: 8}

guardrails:
  max_cost_per_workflow_usd: 1.00
  max_cost_per_hour_usd: 50.00
  alert_threshold_usd: 40.00
  on_exhausted: wait

tiers:
  nano:
    model: openai:gpt-5-nano
    pool: {min_instances: 2, max_instances: 16, scale_up_threshold: 4, scale_down_idle_secs: 300, max_requests_per_agent: 1000}
    rate_limit: {requests_per_minute: 500, tokens_per_minute: 200000, burst: 20}
  standard: {model: anthropic:claude-sonnet-4-6, fallback: [{model: openai:gpt-5}], max_output_tokens: 4096, pool: {max_instances: 4}}
  premium:
    model: anthropic:claude-opus-4-6
    base_url: http://127.0.0.1:8099
    price: {input_usd_per_mtok: 15.00, cached_input_usd_per_mtok: 1.50, output_usd_per_mtok: 75.00}
    pool: {max_instances: 2}

agents:
  planner:     {prompt: prompts/planner.md, tier: standard}
  implementer: {prompt: prompts/implementer.md, tier: {min: standard, max: premium}, max_instances: 3,
                rate_limit: {requests_per_minute: 60, tokens_per_minute: 100000, burst: 10}}
  reviewer:    {prompt: prompts/reviewer.md, tier: auto, output: {verdict: [approve, reject], notes: string}}
  tests:       {type: command, run: ["make", "check"], max_instances: 2}
  gatekeeper:  {type: python, call: "acme.gates:sanity", max_instances: 1}

flows:
  feature:
    initial: incoming
    transitions:
      "incoming -> planned":    {agent: planner}
      "planned -> in_review":   {agent: implementer, verify: tests, escalate: true}
      "in_review -> done":      {agent: reviewer, when: {verdict: approve}}
      "in_review -> planned":   {when: {verdict: reject}, max_visits: 3}
      "in_review -> abandoned": {}
    states:
      in_review: {holds: max_open_prs}
"""


@pytest.fixture
def full(folder: Path) -> str:
    """Return a file with every kind of key, with the prompts it needs."""
    for role in ("planner", "implementer"):
        (folder / "prompts" / f"{role}.md").write_text(f"You are the {role}.\n")
    return FULL


def test_the_full_example_becomes_a_snapshot(check: Check, full: str) -> None:
    """Queues, prices, tools and texts are what the file says."""
    loaded, _ = check(full)

    assert loaded is not None
    snapshot = loaded.snapshot
    assert ["nano", "standard", "premium"] == list(snapshot.tiers)
    assert {
        "nano": ("acme-nano",),
        "standard": ("acme-standard", "acme-standard--1"),
        "premium": ("acme-premium",),
    } == loaded.queues
    premium = snapshot.tiers["premium"].models[0]
    assert "http://127.0.0.1:8099" == premium.base_url
    assert "15.00" == str(premium.price.input_usd_per_mtok)
    assert (
        Decimal("1.25") == snapshot.tiers["standard"].models[1].price.input_usd_per_mtok
    )
    assert "acme-tools" == snapshot.roles["tests"].queue
    assert ("make", "check") == snapshot.roles["tests"].run
    assert "acme.gates:sanity" == snapshot.roles["gatekeeper"].call
    assert "" == snapshot.roles["planner"].queue
    assert "standard" == snapshot.roles["planner"].tier.fixed
    prompt = PartRef.of("You are the planner.\n")
    assert prompt == snapshot.roles["planner"].prompt
    assert "You are the planner.\n" == snapshot.parts[prompt.hash]


def test_a_snapshot_survives_packing(check: Check, full: str) -> None:
    """What a run unpacks is what was loaded, prices to the digit."""
    loaded, _ = check(full)

    assert loaded is not None
    packed = FleetSnapshot.unpack(loaded.packed_for("feature"))
    assert loaded.snapshot.for_flow("feature") == packed
    assert "15.00" == str(packed.tiers["premium"].models[0].price.input_usd_per_mtok)


def test_address_of_the_webhook_stays_out_of_what_items_know(
    check: Check, full: str
) -> None:
    """It often is a secret, and what items know stands in history."""
    hook = "alert_webhook: https://hooks.example/T0/secret\n  on_exhausted: wait"
    loaded, _ = check(full.replace("on_exhausted: wait", hook))

    assert loaded.fleet.guardrails.alert_webhook == "https://hooks.example/T0/secret"
    assert "secret" not in loaded.snapshot.model_dump_json()


def test_hourly_cap_that_pays_for_no_call_is_named(check: Check, full: str) -> None:
    """Such a fleet would never begin anything."""
    low = full.replace("max_cost_per_hour_usd: 50.00", "max_cost_per_hour_usd: 0.0001")
    low = low.replace("  alert_threshold_usd: 40.00\n", "")

    _, problems = check(low)

    named = [p for p in problems if p.path == "guardrails.max_cost_per_hour_usd"]
    assert named
    assert all("pays for no call of the role" in p.message for p in named)


@pytest.mark.parametrize(
    ("edits", "line", "path", "message"),
    [
        (
            {"boss: {type: human}": "boss: {type: human}\n  spare: {type: human}"},
            14,
            "agents.spare",
            "no flow names this role",
        ),
        (
            {
                "agents:": "  best: {model: openai:gpt-5}\nagents:",
                "prompts/writer.md": "prompts/writer.md, tier: {max: standard}",
                "prompts/reviewer.md": "prompts/reviewer.md\n    tier: standard",
            },
            7,
            "tiers.best",
            "no role may use this tier",
        ),
        (
            {
                "gpt-5-nano}": "gpt-5-nano, pool: {max_instances: 9}}",
                "agents:": "max_concurrent: 8\nagents:",
            },
            3,
            "tiers.nano.pool.max_instances",
            "a pool of 9 instances is larger than max_concurrent 8",
        ),
        (
            {
                "agents:": "max_concurrent: 8\nagents:",
                "make, check]": "make, check], max_instances: 9",
            },
            13,
            "agents.tests.max_instances",
            "9 is more than max_concurrent 8",
        ),
        (
            {"version: 1": "version: 1\nbackpressure: {prs: 3}"},
            2,
            "backpressure.prs",
            "no state holds this WIP limit",
        ),
        (
            {"prompts/writer.md": "prompts/writer.md, max_output_tokens: 3000"},
            8,
            "agents.writer.max_output_tokens",
            "bounded to less in tier nano (2048)",
        ),
    ],
)
def test_what_will_surprise_is_a_warning(
    check: Check, good: str, edits: dict[str, str], line: int, path: str, message: str
) -> None:
    """The fleet is usable, and the warning says where."""
    text = good
    for old, new in edits.items():
        assert old in text
        text = text.replace(old, new)

    loaded, problems = check(text)

    assert loaded is not None
    found = [p for p in problems if message in p.message]
    assert [("warning", path, line)] == [(p.severity, p.path, p.line) for p in found]


def test_a_missing_credential_is_a_warning_here_and_an_error_in_its_pool(
    check: Check, good: str
) -> None:
    """`check` may run anywhere; a worker cannot run without its key."""
    loaded, problems = check(good, environ={"OPENAI_API_KEY": "set"})

    assert loaded is not None
    (warning,) = problems
    assert ("warning", 5, "tiers.standard.model") == (
        warning.severity,
        warning.line,
        warning.path,
    )
    assert "ANTHROPIC_API_KEY is not set" in warning.message
    (error,) = missing_credentials(
        loaded, ["nano", "standard"], {"OPENAI_API_KEY": "x"}
    )
    assert ("error", "tiers.standard.model") == (error.severity, error.path)
    assert () == missing_credentials(loaded, ["nano"], {"OPENAI_API_KEY": "x"})


@pytest.mark.parametrize(
    ("keys", "variable"),
    [
        ("model: anthropic:claude-sonnet-4-6", "ANTHROPIC_API_KEY"),
        ("model: openai:gpt-5", "OPENAI_API_KEY"),
        ("model: openai:gpt-5\n    api_key_env: OUR_KEY", "OUR_KEY"),
        ("model: openai:gpt-5\n    base_url: http://x", None),
        ("model: openai:gpt-5\n    base_url: http://x\n    api_key_env: K", "K"),
        ("model: local:x\n    free: true", None),
        ("model: local:x\n    api_key_env: K\n    free: true", "K"),
    ],
)
def test_which_variable_a_model_needs(
    check: Check, good: str, keys: str, variable: str | None
) -> None:
    """A provider's own key never goes to another address by default."""
    text = good.replace("model: anthropic:claude-sonnet-4-6", keys)
    text = text.replace("openai:gpt-5-nano", "openai:gpt-5-nano, base_url: http://y")

    loaded, problems = check(text, environ={})

    assert loaded is not None
    named = [p.message.split()[3] for p in problems]
    assert ([variable] if variable else []) == named


def test_a_paused_pool_needs_no_credential(check: Check, good: str) -> None:
    """Nothing of it is polled."""
    text = good.replace(
        "gpt-5-nano}", "gpt-5-nano, pool: {min_instances: 0, max_instances: 0}}"
    )

    loaded, _ = check(text)

    assert loaded is not None
    assert () == missing_credentials(loaded, ["nano"], {})


def test_the_prompt_may_stand_in_the_file(check: Check, good: str) -> None:
    """Text with a line break is the prompt itself."""
    text = good.replace(
        "writer: {prompt: prompts/writer.md}",
        "writer:\n    prompt: |\n      Write well.\n      Be short.",
    )

    loaded, _ = check(text)

    assert loaded is not None
    ref = loaded.snapshot.roles["writer"].prompt
    assert ref is not None
    assert "Write well.\nBe short.\n" == loaded.snapshot.parts[ref.hash]


def test_a_verifier_without_output_gets_the_default_verdict(
    check: Check, good: str
) -> None:
    """An llm is asked for `accept` and a reason."""
    judge = "tests: {type: command, run: [make, check]}"
    text = good.replace(judge, "judge: {prompt: prompts/writer.md}")
    text = text.replace("verify: tests", "verify: judge")

    loaded, problems = check(text)

    assert loaded is not None, problems
    ref = loaded.snapshot.roles["judge"].output
    assert ref is not None
    schema = json.loads(loaded.snapshot.parts[ref.hash])
    assert {"accept", "reason"} == set(schema["properties"])
    assert loaded.snapshot.roles["writer"].output is None


def test_a_tool_with_a_tier_runs_on_that_tiers_queue(check: Check, good: str) -> None:
    """Without one it runs on the queue of tools."""
    text = good.replace("run: [make, check]", "run: [make, check], tier: standard")

    loaded, _ = check(text)

    assert loaded is not None
    assert "tierpool-standard" == loaded.snapshot.roles["tests"].queue


def test_equal_prompts_are_one_part(check: Check, good: str) -> None:
    """Texts are kept by hash."""
    loaded, _ = check(good.replace("prompts/reviewer.md", "prompts/writer.md"))

    assert loaded is not None
    roles = loaded.snapshot.roles
    assert roles["writer"].prompt == roles["reviewer"].prompt
    assert 2 == len(loaded.snapshot.parts)


def test_a_flow_that_no_item_could_carry_is_an_error(
    check: Check, good: str, folder: Path
) -> None:
    """Prompts that do not fit into an item's start are refused at once."""
    import random

    noise = random.Random(7)
    for name in ("writer", "reviewer"):
        text = "".join(chr(noise.randrange(33, 126)) for _ in range(60_000))
        (folder / "prompts" / f"{name}.md").write_text(text)

    loaded, problems = check(good)

    assert loaded is None
    (problem,) = problems
    assert ("flows.feature", 15) == (problem.path, problem.line)
    assert "writer" in problem.message
    assert "reviewer" in problem.message


def test_prices_are_found_for_what_has_none(folder: Path, good: str) -> None:
    """Each model without `price:` is asked for once, fallbacks too."""
    asked: list[str] = []

    def find(model: str) -> Price:
        asked.append(model)
        return Price(input_usd_per_mtok=Decimal(1), output_usd_per_mtok=Decimal(2))

    (folder / "agents.yaml").write_text(
        good.replace(
            "max_output_tokens: 4096",
            "fallback:\n      - {model: openai:new}\n      - model: openai:own\n"
            "        price: {input_usd_per_mtok: 1, output_usd_per_mtok: 1}",
        )
    )

    load_fleet(folder / "agents.yaml", find_price=find)

    assert ["openai:gpt-5-nano", "anthropic:claude-sonnet-4-6", "openai:new"] == asked


def test_the_bundled_prices_are_the_default(folder: Path, good: str) -> None:
    """A known model has a price, an invented one is an error at its place."""
    path = folder / "agents.yaml"
    path.write_text(good.replace("claude-sonnet-4-6", "claude-sonnett-99"))

    loaded, problems = check_fleet(path, environ={})

    assert loaded is None
    wrong = [p for p in problems if p.severity == "error"]
    assert [(5, "tiers.standard.model")] == [(p.line, p.path) for p in wrong]
    assert "claude-sonnett-99" in f"{wrong[0].message} {wrong[0].value}"


def test_importing_the_package_loads_no_parser() -> None:
    """`import tierpool` stays cheap: the parser comes with the first use."""
    code = (
        "import sys, tierpool, tierpool.config; "
        "print([m for m in ('ruamel', 'ruamel.yaml', 'jsonschema', 'genai_prices', "
        "'tierpool.config.load') if m in sys.modules])"
    )

    run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)

    assert "[]" == run.stdout.decode().strip()


def test_an_unknown_name_of_the_package_is_an_attribute_error() -> None:
    """The lazy names are the only ones."""
    with pytest.raises(AttributeError, match="no attribute 'load_flet'"):
        tierpool.config.load_flet  # noqa: B018 - the access is the test
