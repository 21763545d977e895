"""The command line as a user types it: output, exit codes, nothing half-started."""

from pathlib import Path

import pytest

from tierpool.testing import Reply, ScriptedProvider
from tierpool.worker import Served

from .conftest import Command, Running, Start

FLEET = """
agents:
  planner: {prompt: "Plan.\\n", tier: nano}
flows:
  change:
    initial: incoming
    transitions:
      "incoming -> done": {agent: planner}
"""


@pytest.fixture
async def fleet(running: Start, provider: ScriptedProvider) -> Running:
    provider.default(Reply("fine"))
    return await running(FLEET)


async def test_run_follows_items_to_their_end(
    fleet: Running, tierpool: Command
) -> None:
    """Files of a folder become items named after them; each row says how it ended."""
    folder = fleet.fleet.path.parent / "items"
    folder.mkdir()
    prefix = fleet.fleet.name
    (folder / f"{prefix}-a.md").write_text("# Title A\nDo a.")
    (folder / f"{prefix}-b.json").write_text('{"title": "B", "data": {"n": 1}}')

    ran = await tierpool("run", "change", "--item", "items", "--json", "--explain")

    assert 0 == ran.status
    assert isinstance(ran.json, list)
    ended = {one["result"]["item_id"]: one for one in ran.json}
    assert {f"{prefix}-a", f"{prefix}-b"} == set(ended)
    assert {"done"} == {one["result"]["state"] for one in ended.values()}
    assert "nano" == ended[f"{prefix}-a"]["costs"]["attempts"][0]["tier"]


async def test_duplicate_id_says_what_is_known(
    fleet: Running, tierpool: Command
) -> None:
    """A taken ID is refused with the item's state, or followed if that is asked for."""
    args = ("run", "change", "--text", "x", "--id", f"{fleet.fleet.name}-dup")

    first = await tierpool(*args)
    second = await tierpool(*args)
    third = await tierpool(*args, "--id-conflict", "use")

    assert (0, 1, 0) == (first.status, second.status, third.status)
    assert "has ended (flow change, state done" in second.err
    assert "--id-conflict use" in second.err
    assert 1 == fleet.provider.accounting.calls


@pytest.mark.parametrize(
    ("status", "words", "args"),
    [
        (2, "did you mean 'change'?", ["run", "chang", "--text", "x"]),
        (2, "there is no item", ["run", "change"]),
        (2, "no such file or folder", ["run", "change", "--item", "nowhere.md"]),
        (2, "not JSON", ["run", "change", "--item", "bad.json"]),
        (2, "not UTF-8", ["run", "change", "--item", "binary.txt"]),
        (2, "is empty", ["run", "change", "--item", "empty.md"]),
        (2, "Extra inputs", ["run", "change", "--item", "misspelt.json"]),
        (2, "names one item", ["run", "change", "--text", "a", "--text", "b", "--id", "x"]),
        (2, "does not exist", ["check", "nowhere.yaml"]),
        (2, "invalid choice", ["runn"]),
        (2, "nothing to run", ["worker"]),
        (2, "did you mean 'nano'?", ["worker", "--pool", "nan"]),
    ],
)  # fmt: skip
async def test_bad_usage_exits_2_and_starts_nothing(
    fleet: Running,
    tierpool: Command,
    tmp_path: Path,
    status: int,
    words: str,
    args: list[str],
) -> None:
    """What is wrong is named; no call is made."""
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "empty.md").write_text(" \n")
    (tmp_path / "misspelt.json").write_text('{"titel": "x"}')

    ran = await tierpool(*args)

    assert status == ran.status
    assert words in ran.err.replace("\n", " ")
    assert 0 == fleet.provider.accounting.calls


async def test_items_come_from_standard_input(
    fleet: Running, tierpool: Command
) -> None:
    """`--item -` reads one text."""
    ran = await tierpool(
        "run", "change", "--item", "-", "--json", stdin="# T\nsome text"
    )

    assert 0 == ran.status
    assert "# T\n\nsome text" == fleet.provider.requests[0].messages[-1][1]


async def test_failed_items_exit_1(fleet: Running, tierpool: Command) -> None:
    """An item that ends in `failed` is a failure of the command, with its reason."""
    from tierpool.testing import Fail

    fleet.provider.script(Fail(400, "no"))

    ran = await tierpool("run", "change", "--text", "x")

    assert 1 == ran.status
    assert "planner" in ran.out


async def test_no_server_exits_3(fleet: Running, tierpool: Command) -> None:
    """A server that is down is named, with what to do."""
    ran = await tierpool("status", TEMPORAL_ADDRESS="127.0.0.1:1")

    assert 3 == ran.status
    assert "no Temporal server at 127.0.0.1:1: connection refused" in ran.err
    assert "tierpool dev" in ran.err


async def test_errors_are_json_too(fleet: Running, tierpool: Command) -> None:
    """With --json there is one document on standard output, whatever happens."""
    ran = await tierpool("run", "chang", "--text", "x", "--json")

    assert 2 == ran.status
    assert isinstance(ran.json, dict)
    assert "UnknownName" == ran.json["type"]


async def test_status_shows_pools_and_how_to_start_missing_ones(
    running: Start, provider: ScriptedProvider, tierpool: Command
) -> None:
    """A pool without a worker says so and names the command."""
    await running(FLEET, served=Served(pools=("nano",)))

    ran = await tierpool("status")

    assert 0 == ran.status
    assert "tierpool worker --flows" in ran.out
    assert "tierpool worker --pool premium" in ran.out
    assert "tierpool worker --pool nano" not in ran.out


async def test_init_writes_a_fleet_that_checks(
    tierpool: Command, tmp_path: Path
) -> None:
    """What `init` writes is valid, and it overwrites nothing."""
    made = await tierpool("init", "new", "--provider", "openai", fresh=True)
    checked = await tierpool("check", "new/agents.yaml", "--json")
    again = await tierpool("init", "new")

    assert (0, 0, 2) == (made.status, checked.status, again.status)
    assert isinstance(checked.json, list)
    assert {"warning"} == {problem["severity"] for problem in checked.json}
    assert "exists already; nothing was written" in again.err


async def test_doctor_finds_the_server(fleet: Running, tierpool: Command) -> None:
    """The findings name the server, its abilities and the fleet file."""
    ran = await tierpool("doctor", "--json")

    assert 0 == ran.status
    assert isinstance(ran.json, list)
    states = {finding["what"]: finding["state"] for finding in ran.json}
    assert "ok" == states["Temporal server"]
    assert "ok" == states["search attributes"]
    assert "ok" == states["fleet file"]
