"""docs/agents-yaml.md tells the truth: its file loads, and no key is missing."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tierpool.config.json_schema import json_schema
from tierpool.config.output import resolve_output
from tierpool.config.report import Report
from tierpool.config.yaml_nodes import parse_yaml

TEXT = (Path(__file__).parents[3] / "docs" / "agents-yaml.md").read_text("utf-8")
BLOCKS = re.findall(r"^```yaml\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def test_the_whole_file_of_the_page_loads(
    check: Callable[..., Any], folder: Path
) -> None:
    """A reader may copy it."""
    for role in ("planner", "implementer"):
        (folder / "prompts" / f"{role}.md").write_text("Do it.\n")
    (text,) = [block for block in BLOCKS if block.startswith("version:")]

    loaded, problems = check(text)

    assert loaded is not None, [str(p) for p in problems]
    assert ["acme-standard", "acme-standard--1"] == list(loaded.queues["standard"])


def test_the_output_of_the_page_is_a_short_form() -> None:
    """Every form in it is understood."""
    (text,) = [block for block in BLOCKS if block.startswith("output:")]
    root = parse_yaml(text, Report("docs"))
    assert root is not None
    problems: list[str] = []

    schema = resolve_output(
        root.plain()["output"],  # type: ignore[index, call-overload, arg-type]
        Path(),
        lambda _path, message, _hint: problems.append(message),
    )

    assert [] == problems
    assert schema is not None
    assert ["verdict", "labels", "lines", "where", "findings"] == schema["required"]


def test_every_key_is_on_the_page() -> None:
    """A key that the models know stands somewhere in backticks."""
    schema = json_schema()
    models = {"": schema, **schema["$defs"]}

    missing = [
        f"{name}.{key}"
        for name, model in models.items()
        for form in (model, *model.get("anyOf", ()))
        for key in form.get("properties", {})
        if f"`{key}`" not in TEXT
    ]

    allowed = {"TierPolicy.min", "TierPolicy.max", "TierPolicy.fixed"}
    assert [] == [key for key in missing if key not in allowed]


def test_every_setting_has_its_default_on_the_page() -> None:
    """The numbers of the tables are those of the models."""
    schema = json_schema()["$defs"]

    for model, keys in {
        "PoolSpec": [k for k in schema["PoolSpec"]["properties"] if k != "scaling"],
        "Scaling": list(schema["Scaling"]["properties"]),
        "Blueprint": ["max_attempts"],
        "Tier": ["max_output_tokens", "timeout"],
        "Guardrails": ["on_exhausted"],
    }.items():
        for key in keys:
            default = schema[model]["properties"][key]["default"]
            row = rf"^\| `{key}` \| `?{default}`? \|"
            assert re.search(row, TEXT, re.MULTILINE), (key, default)
