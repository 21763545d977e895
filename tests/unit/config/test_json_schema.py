"""The published JSON Schema of agents.yaml and the loader agree."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tierpool.config.json_schema import json_schema, schema_text
from tierpool.config.report import Report
from tierpool.config.yaml_nodes import parse_yaml

PUBLISHED = Path(__file__).parents[3] / "docs" / "agents.schema.json"


def data(text: str) -> Any:
    """Read YAML as the loader does."""
    root = parse_yaml(text, Report("agents.yaml"))
    assert root is not None
    return root.plain()


def test_the_published_schema_is_the_generated_one() -> None:
    """A change of the models has to be published: see the module's docstring."""
    assert schema_text() == PUBLISHED.read_text(encoding="utf-8")


def test_the_module_prints_the_schema() -> None:
    """`python -m tierpool.config.json_schema` writes the file's text."""
    run = subprocess.run(
        [sys.executable, "-m", "tierpool.config.json_schema"],
        capture_output=True,
        check=True,
    )

    assert schema_text() == run.stdout.decode()


def test_the_schema_is_valid_and_every_key_is_described() -> None:
    """Editors show the descriptions, so none may be missing."""
    schema = json_schema()

    Draft202012Validator.check_schema(schema)

    undescribed = [
        f"{name}.{key}"
        for name, model in {"Fleet": schema, **schema["$defs"]}.items()
        for key, value in model.get("properties", {}).items()
        if "description" not in value
    ]
    assert [] == undescribed


def test_the_good_file_fits_the_schema(good: str) -> None:
    """What the loader takes, an editor does not underline."""
    Draft202012Validator(json_schema()).validate(data(good))


@pytest.mark.parametrize(
    "tier", ["auto", "nano", "{min: nano}", "{min: nano, max: standard}"]
)
def test_every_form_of_a_tier_fits_the_schema(
    good: str, check: Callable[..., Any], tier: str
) -> None:
    """The short forms that the loader reads are in the schema."""
    text = good.replace("prompts/reviewer.md", f"prompts/reviewer.md\n    tier: {tier}")

    assert check(text)[0] is not None
    Draft202012Validator(json_schema()).validate(data(text))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("version: 1", "version: 2"),
        ("tiers:", "teirs:"),
        ("nano:", "n o:"),
        ("openai:gpt-5-nano", "gpt-5-nano"),
        ("max_output_tokens: 4096", "max_output_tokens: '4096'"),
        ("max_visits: 3", "max_visits: true"),
        ("written -> abandoned", "written => abandoned"),
        ("timeout: 2d", "timout: 2d"),
    ],
)
def test_the_schema_and_the_loader_refuse_the_same(
    good: str, check: Callable[..., Any], old: str, new: str
) -> None:
    """A mistake within one place is seen by both."""
    text = good.replace(old, new, 1)

    valid = Draft202012Validator(json_schema()).is_valid(data(text))

    assert not valid
    assert check(text)[0] is None


def test_the_schema_is_json(good: str) -> None:
    """Nothing in it is lost when it is written."""
    assert json_schema() == json.loads(schema_text())
