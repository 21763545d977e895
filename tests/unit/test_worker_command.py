"""Options of `tierpool worker`, and the systemd unit that uses them."""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tierpool.cli import parser
from tierpool.cli.worker import child_options
from tierpool.errors import TierpoolError
from tierpool.pools.processes.children import HTTP_FD, PARENT_FD

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "deploy" / "systemd" / "tierpool-worker@.service"
KILLED_AFTER = 20
"""Seconds above the grace when a supervisor kills what has not ended."""

FLEET = """
version: 1
tiers:
  standard: {model: "openai:small", free: true, price: {input_usd_per_mtok: 0, output_usd_per_mtok: 0}}
agents:
  reviewer: {prompt: "Review.\\n", tier: standard}
flows:
  review:
    initial: incoming
    transitions:
      "incoming -> done": {agent: reviewer}
"""

_VARIABLE = re.compile(r"\$\{(\w+)\}|\$(\w+)")


@pytest.mark.parametrize(
    ("given", "wanted"), [("1", (1, 1)), ("4", (4, 4)), ("1..4", (1, 4))]
)
def test_number_of_processes_is_read(given: str, wanted: tuple[int, int]) -> None:
    """One number is both limits."""
    args = parser().parse_args(["worker", "--flows", "--processes", given])

    assert wanted == args.processes


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--processes", "0"], "there is one process at least"),
        (["--processes", "0..4"], "there is one process at least"),
        (["--processes", "4..1"], "the least number comes first, as in 1..4"),
        (["--processes", "257"], "256 processes are the most"),
        (["--processes", "many"], "'many' is no number of processes; write N or A..B"),
        (["--processes", "1...4"], "'1...4' is no number of processes"),
        (["--recycle-requests", "0"], "'0' is no whole number above 0"),
        (["--recycle-memory", "1.5"], "'1.5' is no whole number above 0"),
        (["--recycle-age", "nan"], "'nan' is no number of seconds"),
        (["--recycle-age", "0"], "0 would replace a process all the time"),
        (["--grace", "soon"], "'soon' is no number of seconds"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_meant_is_an_error(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each says what is wrong, with status 2."""
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(["worker", "--flows", *arguments])

    assert 2 == ended.value.code
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--processes", "2"], "nothing to run: pass --flows, --tools"),
        (["--flows", "--recycle-age", "60"], "--recycle-age needs --processes"),
        (["--flows", "--http", "nowhere"], "cannot listen on 'nowhere'"),
        (
            ["--pool", "standart", "--processes", "2"],
            "unknown pool 'standart'; did you mean 'standard'?",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
async def test_unusable_commands_are_errors(
    arguments: list[str], said: str, tmp_path: Path
) -> None:
    """Before any process is started."""
    fleet = tmp_path / "agents.yaml"
    fleet.write_text(FLEET)
    args = parser().parse_args(["worker", "--file", str(fleet), *arguments])

    with pytest.raises(TierpoolError, match=re.escape(said)):
        await args.command(args)


def test_children_get_every_option_but_the_supervisors() -> None:
    """An option that is added later is either passed on or named here."""
    own = {"processes", "recycle_requests", "recycle_age", "recycle_memory", "http"}
    given = ["worker", "--file", "a b.yaml", "--grace", "7", "--verbose", "--flows"]
    given += [
        "--tools",
        "--control",
        "--pool",
        "nano",
        "standard",
        "--processes",
        "1..4",
    ]
    hidden = {name.strip("-").replace("-", "_") for name in (HTTP_FD, PARENT_FD)}
    args = parser().parse_args(given)

    child = parser().parse_args(["worker", *child_options(args)])

    passed = {name for name, value in vars(child).items() if value == vars(args)[name]}
    assert own - {"processes"} <= passed  # nobody gave them
    assert set(vars(args)) - own <= passed
    assert None is child.processes
    assert all(vars(child)[name] is None for name in hidden)


@pytest.fixture(scope="module")
def unit() -> dict[str, list[str]]:
    """Settings of the template unit."""
    settings: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            settings.setdefault(name, []).append(value)
    return settings


@pytest.fixture(scope="module")
def started(unit: dict[str, list[str]]) -> argparse.Namespace:
    """What the unit runs for the pool `standard`."""
    pairs = [value.strip('"').partition("=") for value in unit["Environment"]]
    values = {name: value for name, _, value in pairs}
    (command,) = unit["ExecStart"]
    filled = _VARIABLE.sub(lambda found: values[found[1] or found[2]], command)
    program, *arguments = shlex.split(filled.replace("%i", "standard"))
    assert "tierpool" == Path(program).name
    return parser().parse_args(arguments)


def test_unit_serves_the_pool_that_it_is_named_after(
    started: argparse.Namespace,
) -> None:
    """Its command line is one that the command knows."""
    assert (["standard"], (1, 4)) == (started.pool, started.processes)


def test_unit_lets_workers_drain(
    unit: dict[str, list[str]], started: argparse.Namespace
) -> None:
    """systemd waits longer than anything of ours, and signals the supervisor alone."""
    (patience,) = unit["TimeoutStopSec"]

    assert started.grace + KILLED_AFTER < float(patience)
    assert ["mixed"] == unit["KillMode"]
    assert ["SIGTERM"] == unit["KillSignal"]
    assert ["exec"] == unit["Type"]
    assert ["on-failure"] == unit["Restart"]
    assert ["continue"] == unit["OOMPolicy"]


def test_unit_has_no_secret(unit: dict[str, list[str]]) -> None:
    """Keys come from a file of root's."""
    assert "/etc/tierpool/worker.env" in unit["EnvironmentFile"]
    assert not [one for one in unit["Environment"] if re.search("KEY|TOKEN", one)]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd here")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    """systemd knows every setting; only the program is not installed here."""
    text = re.sub(
        r"^ExecStart=\S+", "ExecStart=/bin/true", UNIT.read_text(), flags=re.M
    )
    unit = tmp_path / "tierpool-worker@standard.service"
    unit.write_text(text)

    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert (0, "") == (done.returncode, done.stderr)
