"""The README's code works as it stands there."""

import re
import sys
from pathlib import Path
from textwrap import dedent

import pytest
from temporalio.client import Client

from tierpool import TierpoolPlugin, load_fleet
from tierpool.testing import Reply, ScriptedProvider

from .conftest import working

README = (Path(__file__).parents[2] / "README.md").read_text()


def block(language: str, containing: str) -> str:
    found = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    (one,) = [text for text in found if containing in text]
    return dedent(one)


async def test_yaml_and_python_of_the_readme_run(
    server, provider: ScriptedProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]
    """The fleet of the README moves the item that its script starts."""
    text = block("yaml", "version: 1")
    text = re.sub(
        r"(model: openai:[\w-]+)", rf"\1, base_url: {provider.base_url}/v1", text
    )
    (tmp_path / "agents.yaml").write_text(text)
    script = block("python", "asyncio.run(main())")
    script = script.replace(
        "localhost:7233", server.client.service_client.config.target_host
    )
    script = script.replace("asyncio.run(main())", "")
    script = script.replace("print(", "print(result.reason, ")
    monkeypatch.chdir(tmp_path)
    provider.script(Reply("1. Add it."), Reply(json={"verdict": "approve"}))
    fleet = load_fleet("agents.yaml")
    config = server.client.config()
    config["plugins"] = [TierpoolPlugin(fleet)]
    printed: list[object] = []
    names = {"print": lambda *words: printed.extend(words)}
    exec(compile(script, "README.md", "exec"), names)

    async with working(Client(**config), fleet):
        await names["main"]()  # type: ignore[operator]

    assert ["", "done"] == printed[:2]
    assert {"verdict": "approve"} == printed[4]


def test_every_linked_file_exists() -> None:
    """No link of the README is dangling."""
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)

    missing = [
        link for link in links if not (Path(__file__).parents[2] / link).exists()
    ]

    assert [] == missing
    assert links


def test_the_workflow_of_the_readme_is_a_workflow(tmp_path: Path) -> None:
    """The README's own workflow is accepted by Temporal."""
    module = tmp_path / "readme_workflow.py"
    module.write_text(block("python", "@workflow.defn"))
    sys.path.insert(0, str(tmp_path))
    try:
        from temporalio.workflow import _Definition

        loaded = __import__("readme_workflow")
        definition = _Definition.from_class(loaded.MergeRequest)
    finally:
        sys.path.remove(str(tmp_path))

    assert definition is not None
    assert "MergeRequest" == definition.name
