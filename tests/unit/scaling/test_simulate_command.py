"""`tierpool simulate`: as a command, its numbers, its pictures, its refusals."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tierpool.blueprint import LongContextPrice, Price
from tierpool.budget.cost import cost_usd
from tierpool.cli import parser
from tierpool.cli.simulated import cost_of_trace
from tierpool.config import load_fleet
from tierpool.contracts import Usage
from tierpool.errors import TierpoolError, UnknownName, UsageError
from tierpool.scaling.file_limits import limits_of_file
from tierpool.scaling.plots import curve, draw_terminal, offered
from tierpool.scaling.policies import NAMES, by_name
from tierpool.scaling.policy import Limits
from tierpool.scaling.simulator import Setup, Workload, simulate
from tierpool.scaling.synthetic import synthetic_trace
from tierpool.scaling.traces import Trace

FLEET = """
version: 1
fleet: acme
max_concurrent: 100
guardrails: {max_cost_per_hour_usd: 50}
tiers:
  nano:
    model: openai:small
    base_url: http://127.0.0.1:1/v1
    price: {input_usd_per_mtok: 1, output_usd_per_mtok: 2}
    pool:
      max_instances: 4
      scale_up_threshold: 7
      scale_down_idle_secs: 120
      scaling: {policy: threshold, min_workers: 2, max_workers: 10, wait_target_secs: 3}
    rate_limit: {requests_per_minute: 6000, tokens_per_minute: 2000000}
  standard:
    model: openai:middle
    base_url: http://127.0.0.1:1/v1
    price: {input_usd_per_mtok: 10, output_usd_per_mtok: 20}
agents:
  clerk: {prompt: "Work.\\n", tier: nano, max_instances: 30}
  judge: {prompt: "Judge.\\n", tier: {max: nano}, max_instances: 5}
  poet: {prompt: "Rhyme.\\n", tier: standard}
"""
CALLS = "seconds,input_tokens,output_tokens,duration_seconds\n" + "".join(
    f"{second},100,10,2\n" for second in range(600)
)
"""One call a second, each 2 s long: two instances are busy, and nobody waits."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "agents.yaml").write_text(FLEET)
    (tmp_path / "calls.csv").write_text(CALLS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def simulated(*args: str) -> int:
    parsed = parser().parse_args(["simulate", *args])
    return int(asyncio.run(parsed.command(parsed)))


def document(capsys: pytest.CaptureFixture[str], *args: str) -> Any:
    assert 0 == simulated(*args, "--json")
    (line,) = capsys.readouterr().out.splitlines()
    return json.loads(line)


def test_command_compares_policies_and_draws(folder: Path) -> None:
    """As users run it: a table, what is assumed, a drawing, a PNG."""
    ran = subprocess.run(
        [sys.executable, "-m", "tierpool", "simulate", "--trace", "calls.csv",
         "--tier", "nano", "--compare", "--plot", "out.png"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert (0, "") == (ran.returncode, ran.stderr)
    lines = ran.stdout.splitlines()
    assert lines[0].startswith("calls: 600 calls in 10.0 minutes, pool nano")
    assert [*NAMES, "oracle"] == [
        line.split()[0] for line in lines[2:][: len(NAMES) + 1]
    ]
    assert "cost of the calls: $0.072000, 0.000120 a call" in ran.stdout
    assert "durations: measured durations of the trace" in ran.stdout
    assert "limits: 8 to 40 instances by 4, requests_per_minute 6,000" in ran.stdout
    assert "predictive: instances and demand" in ran.stdout
    assert "drawn: out.png" in ran.stdout
    assert (1200, 300 * (len(NAMES) + 1)) == size_of_png(folder / "out.png")


def size_of_png(path: Path) -> tuple[int, int]:
    """Read width and height from the header of a PNG."""
    raw = path.read_bytes()
    assert raw.startswith(b"\x89PNG\r\n\x1a\n")
    assert raw.rstrip().endswith(b"IEND\xaeB`\x82")
    return int.from_bytes(raw[16:20], "big"), int.from_bytes(raw[20:24], "big")


@pytest.mark.parametrize(
    ("args", "status", "said"),
    [
        (["--trace", "none.csv", "--tier", "nano"], 2, "none.csv: error: no such file"),
        (["--trace", "poisson:2,x=1", "--tier", "nano"], 2, "'x=1' is no option"),
    ],
)
def test_bad_usage_exits_with_2(
    folder: Path, args: list[str], status: int, said: str
) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "tierpool", "simulate", *args],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert status == ran.returncode
    assert said in ran.stderr


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "nothing to simulate: pass --trace"),
        (["--trace", "x", "--record", "y.csv"], "pass one of them"),
        (["--record", "y.txt"], "--record y.txt: a name that ends in .csv is right"),
        (["--record", "no/y.csv"], "there is no folder no"),
        (["--tier", "nano", "--trace", "calls.csv", "--plot", "x.pdf"], "ends in .png"),
        (["--tier", "nano", "--trace", "recorded:soon"], "'soon' is no time within"),
        (["--tier", "nano", "--trace", "calls.csv", "--policy", "hpx"], "'hpx'"),
        (
            [
                "--tier",
                "nano",
                "--trace",
                "poisson:0.001,duration=30d",
                "--every",
                "0.1",
            ],
            "decide every 2.6 s at least",
        ),
        (["--trace", "calls.csv"], "which pool? pass --tier with one of nano, "),
        (["--trace", "calls.csv", "--tier", "nan"], "did you mean 'nano'?"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    folder: Path, args: list[str], said: str
) -> None:
    with pytest.raises(TierpoolError) as raised:
        simulated(*args)

    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("option", "text", "said"),
    [
        ("--instances", "4-8", "'4-8' is no range of instances; write it like 2..40"),
        ("--instances", "8..4", "is no range of instances"),
        ("--instances", "0..0", "is no range of instances"),
        ("--step", "0", "'0' is no whole number above 0"),
        ("--instances", "0..999999", "write it like 2..40, 100000 at most"),
        ("--seconds-per-call", "0", "'0' must be a number from 0.001 to 86400"),
        ("--seconds-per-call", "1e8", "'1e8' must be a number from 0.001 to 86400"),
        ("--tokens-per-second", "nan", "'nan' must be a number from 0.001 to 1000000"),
        ("--lead", "-1", "'-1' must be a number from 0 to 86400"),
        ("--every", "1e300", "'1e300' must be a number from 0.1 to 86400"),
        ("--since", "1y", "'1y' is no time within 30 days"),
    ],
)
def test_options_without_a_meaning_are_refused(
    option: str, text: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["simulate", "--trace", "x.csv", option, text])

    assert said in capsys.readouterr().err


def test_an_idle_pool_makes_no_call_wait(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file's policy decides if none is named; all is in one document."""
    told = document(capsys, "--trace", "calls.csv", "--tier", "nano")

    (pool,) = told["pools"]
    (policy,) = pool["policies"]
    assert ("acme", "nano", 600) == (told["fleet"], pool["tier"], pool["calls"])
    assert "threshold" == policy["policy"]
    assert (0.0, 1.0) == (policy["wait_longest_seconds"], policy["share_within_target"])
    assert pytest.approx(2, rel=0.01) == pool["mean_load"]
    assert Decimal("0.072") == Decimal(pool["cost_usd"])
    assert 8 == policy["most_instances"]
    assert 8 / 2 * 0.98 < policy["over_ideal"] < 8 / 2 * 1.02
    assert [] == told["pictures"]


def test_every_pool_gets_the_trace_and_a_picture(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = document(
        capsys, "--trace", "calls.csv", "--all", "--policy", "keda", "hpa",
        "--policy", "keda", "--plot", "x.png",
    )  # fmt: skip

    assert ["nano", "standard"] == [pool["tier"] for pool in told["pools"]]
    assert ["keda", "hpa"] == [p["policy"] for p in told["pools"][0]["policies"]]
    assert "the same calls were replayed through each pool" in told["notes"]
    assert ["x-nano.png", "x-standard.png"] == told["pictures"]
    assert (1200, 600) == size_of_png(folder / "x-standard.png")


def test_options_stand_for_what_the_file_and_the_trace_say(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One instance of 3 s a call cannot serve one call a second."""
    told = document(
        capsys, "--trace", "calls.csv", "--tier", "nano", "--instances", "1..1",
        "--step", "1", "--seconds-per-call", "3", "--lead", "45",
    )  # fmt: skip

    (pool,) = told["pools"]
    (policy,) = pool["policies"]
    assert (1, 1, 1) == tuple(
        pool["limits"][key] for key in ("min_instances", "max_instances", "step")
    )
    assert 45.0 == pool["limits"]["lead_seconds"]
    assert pytest.approx(599 * 2) == policy["wait_longest_seconds"]
    assert any("every call takes 3 s, as given" in line for line in pool["assumed"])
    assert any("the pool is too small" in line for line in pool["assumed"])
    assert pytest.approx(1) == policy["over_ideal"]


def test_a_gap_is_told_and_no_error(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "torn.csv").write_text(CALLS + "9000,100,10,2\n")

    told = document(capsys, "--trace", "torn.csv", "--tier", "nano")

    assert told["notes"] == [
        "gaps without any call: 8,401 s after second 599; replayed as they are"
    ]


def test_a_trace_shorter_than_a_decision_is_told(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "one.csv").write_text(CALLS.splitlines()[0] + "\n7,1,1,1\n")

    assert 0 == simulated("--trace", "one.csv", "--tier", "nano", "--plot", "one.png")

    shown = capsys.readouterr().out
    assert "one: 1 call in 0 seconds, pool nano" in shown
    assert "the trace is over before the first decision" in shown
    assert "instances and demand" not in shown
    assert (1200, 300) == size_of_png(folder / "one.png")


def test_same_seed_same_numbers(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["--trace", "poisson:2,duration=10m", "--tier", "nano", "--seed"]

    one = document(capsys, *args, "3")
    same = document(capsys, *args, "3")
    other = document(capsys, *args, "4")

    assert one == same
    assert one["pools"][0]["calls"] != other["pools"][0]["calls"]


def test_limits_are_those_of_the_file(folder: Path) -> None:
    """Instances of all workers; roles that may come to the tier cap it together."""
    fleet = load_fleet(folder / "agents.yaml")

    nano = limits_of_file(fleet, "nano", lead_seconds=45.0)
    standard = limits_of_file(fleet, "standard")

    assert nano == Limits(
        min_instances=8,
        max_instances=40,
        step=4,
        lead_seconds=45.0,
        wait_target_seconds=3.0,
        scale_up_threshold=7,
        scale_down_idle_seconds=120.0,
        requests_per_minute=6000,
        tokens_per_minute=2_000_000,
        usd_per_hour=Decimal(50),
        role_caps=35,
        max_concurrent=100,
    )
    assert (None, None) == (standard.role_caps, standard.tokens_per_minute)
    with pytest.raises(UnknownName):
        limits_of_file(fleet, "premium")


def test_cost_is_the_sum_of_the_calls_also_in_long_context() -> None:
    price = Price(
        input_usd_per_mtok=Decimal("1.25"),
        output_usd_per_mtok=Decimal(10),
        long_context=(
            LongContextPrice(
                above_input_tokens=500,
                input_usd_per_mtok=Decimal("2.5"),
                output_usd_per_mtok=Decimal(15),
            ),
        ),
    )
    trace = Trace("made", [0.0, 1.0, 2.0], [499, 500, 501], [7, 11, 13])

    single = (
        cost_usd(Usage(input_tokens=i, output_tokens=o), price)
        for i, o in zip(trace.input_tokens, trace.output_tokens, strict=True)
    )
    assert sum(single, Decimal(0)) == cost_of_trace(trace, price)


def load_of(spec: str, seconds: float) -> Workload:
    trace = synthetic_trace(spec)
    return Workload(trace.seconds, [seconds] * len(trace), [100] * len(trace))


def test_demand_of_a_plot_is_the_offered_load() -> None:
    """Its mean is the load; a burst stands where it is."""
    load = load_of("bursts:1,times=10,every=10m,length=1m,duration=1h", 4.0)

    shape = offered(load, 60)

    assert pytest.approx(load.mean_load, rel=0.02) == sum(shape) / 60
    assert {9, 19, 29, 39, 49, 59} == {n for n, value in enumerate(shape) if value > 20}


def test_a_curve_keeps_its_peaks() -> None:
    load = load_of("bursts:1,duration=1h", 4.0)
    outcome = simulate(load, by_name("keda"), Setup(limits=Limits(max_instances=60)))

    shape = curve(load, outcome, 20)

    assert "minutes" == shape.unit
    assert 20 == len(shape.at) == len(shape.demand)
    most = max(moment.backlog for moment in outcome.timeline)
    assert most == max(shape.backlog)
    assert max(m.instances + m.starting for m in outcome.timeline) == max(
        shape.instances
    )


def test_a_drawing_without_colours_has_no_control_characters() -> None:
    load = load_of("poisson:1,duration=20m", 4.0)
    outcome = simulate(load, by_name("keda"), Setup(limits=Limits(max_instances=20)))

    text = draw_terminal(load, outcome, width=70)

    assert "keda: instances and demand" in text
    assert "\x1b" not in text
    assert all(len(line) <= 70 for line in text.splitlines())
    assert "\x1b" in draw_terminal(load, outcome, width=70, colour=True)


def test_without_the_extra_the_numbers_are_still_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only what needs a library that is missing is refused, and says how to get it."""
    for library in ("numpy", "matplotlib", "plotext"):
        monkeypatch.setitem(sys.modules, library, None)
    right = "pip install 'tierpool[scaling]'"

    assert 0 == simulated("--trace", "calls.csv", "--tier", "nano")
    shown = capsys.readouterr()
    with pytest.raises(UsageError, match="--plot needs matplotlib") as no_png:
        simulated("--trace", "calls.csv", "--tier", "nano", "--plot", "x.png")
    (folder / "calls.npz").write_bytes(b"")
    with pytest.raises(UsageError, match="npz needs numpy") as no_npz:
        simulated("--trace", "calls.npz", "--tier", "nano")

    assert "threshold" in shown.out
    assert right in " ".join(shown.err.split())
    assert right in str(no_png.value)
    assert right in str(no_npz.value)


def test_commands_start_without_the_libraries_for_plots() -> None:
    """They are imported by what draws, not by the command line."""
    code = (
        "import sys, tierpool.cli.main as m; m.build_parser();"
        "print({'numpy', 'scipy', 'matplotlib', 'plotext'} & set(sys.modules))"
    )

    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert "set()\n" == ran.stdout
