"""`tierpool plan`: what it reads, prints and refuses."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tierpool.cli.main import main
from tierpool.cli.plan import demands_of_record
from tierpool.config import load_fleet
from tierpool.scaling.recorded import RecordedCall

FLEET = """
version: 1
fleet: acme
max_concurrent: 500
guardrails: {max_cost_per_hour_usd: 100}
tiers:
  nano:
    model: openai:small
    price: {input_usd_per_mtok: 1, output_usd_per_mtok: 10}
    pool: {max_instances: 50, scaling: {max_workers: 4, wait_target_secs: 5}}
    rate_limit: {requests_per_minute: 600, tokens_per_minute: 2000000}
  premium:
    model: openai:large
    price: {input_usd_per_mtok: 10, output_usd_per_mtok: 100}
agents:
  writer: {prompt: "Write.\\n", tier: nano}
  judge: {prompt: "Judge.\\n", tier: premium}
"""


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    """A fleet of two tiers."""
    path = tmp_path / "agents.yaml"
    path.write_text(FLEET)
    return path


def planned(
    fleet: Path, *options: str, capsys: pytest.CaptureFixture[str]
) -> tuple[int, dict[str, Any]]:
    """Run the command; its status and its document."""
    status = main(["plan", "--file", str(fleet), "--json", *options])
    return status, json.loads(capsys.readouterr().out)


def test_command_plans_a_trace_file(fleet: Path, tmp_path: Path) -> None:
    """As a program: a table, the bounds, lines to paste that are right in the file."""
    dice, at, rows = random.Random(1), 0.0, ["seconds,input_tokens,output_tokens"]
    for _ in range(3000):
        at += dice.expovariate(2.0)
        rows.append(f"{at:.3f},1000,{dice.randint(50, 400)}")
    trace = tmp_path / "calls.csv"
    trace.write_text("\n".join(rows))
    options = ["--trace", str(trace), "--tier", "nano", "--calls-per-item", "5"]

    said = subprocess.run(
        [sys.executable, "-m", "tierpool", "plan", "--file", str(fleet), *options],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert 0 == said.returncode, said.stderr
    assert "first bound" in said.stdout
    assert "requests_per_minute 600" in said.stdout
    assert "deployment: " in said.stdout
    line = next(one for one in said.stdout.splitlines() if one.strip()[:5] == "pool:")
    old = next(one for one in FLEET.splitlines() if "pool:" in one)
    fleet.write_text(FLEET.replace(old, f"    {line.strip()}"))
    assert 5 == load_fleet(fleet).fleet.tiers["nano"].pool.scaling.wait_target_secs


def test_given_rate_is_planned(fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Dollars are exact: 18,000 calls of 1,000 and 100 tokens at $1 and $10."""
    options = "--tier nano --rate 5 --mean-seconds 4 --input-tokens 1000"
    status, said = planned(
        fleet, *options.split(), "--output-tokens", "100", capsys=capsys
    )

    assert 0 == status
    (tier,) = said["tiers"]
    assert "36.000000" == tier["usd_per_hour"]
    assert "requests_per_minute" == tier["first_bound"]
    assert "estimate" == tier["p95_is"]
    assert tier["possible"]
    assert "cluster" == said["pattern"]


def test_impossible_target_names_the_nearest(
    fleet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 0: the plan is what was asked for, and it says so."""
    options = ["--tier", "nano", "--trace", "poisson:11,duration=20m,output=10"]
    status, said = planned(fleet, *options, capsys=capsys)

    assert 0 == status
    (tier,) = said["tiers"]
    assert not tier["possible"]
    assert 5 < tier["nearest_possible_seconds"]
    assert "the nearest possible is" in tier["notes"][0]
    assert "requests_per_minute" == tier["first_bound"]


def test_few_samples_are_refused(
    fleet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is guessed: status 1."""
    options = ["--tier", "nano", "--trace", "poisson:0.1,duration=20m"]
    status, said = planned(fleet, *options, capsys=capsys)

    assert 1 == status
    assert "TooFewCalls" == said["type"]
    assert "200 calls within 600 s at least are needed" in said["error"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--rate 3 --mean-seconds 2", "name it: --tier nano|premium"),
        ("--rate 3 --tier nano", "--rate needs --mean-seconds"),
        ("--tier nanu --trace poisson:3", "unknown tier 'nanu'; did you mean 'nano'?"),
        ("--tier nano --trace poisson:3 --cv 2", "--cv: only together with --rate"),
        ("--seed 2 --calls-per-item 3", "--seed: only together with --trace; --calls"),
        ("--tier nano --trace nowhere.csv", "no such file"),
        ("--tier nano --trace poisso:3", "poisso"),
        ("--tier nano --rate -3 --mean-seconds 2", "--rate -3.0 must be above 0"),
        ("--rate 3 --trace poisson:3", "not allowed with argument"),
        ("--since soon", "'soon' is no time"),
        ("--workers 0", "'0' must be a whole number from 1 to 1000"),
        ("--wait-target 0", "'0' must be a number from 0.001 to 86400"),
        ("--tier nano --trace recorded:2h", "is planned with --since 2h"),
    ],
)
def test_bad_usage_is_told(
    fleet: Path, options: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With status 2, before anything is read or asked."""
    status = main(["plan", "--file", str(fleet), *options.split()])

    assert 2 == status
    told = " ".join(capsys.readouterr().err.split())
    assert said in told


@pytest.mark.parametrize("spec", ["poisson:3", "bursts:1,times=6,every=5m,length=30s"])
def test_simulate_agrees_with_the_plan(
    fleet: Path, spec: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same trace through a pool of as many instances as slots were planned."""
    common = ["--file", str(fleet), "--trace", f"{spec},duration=30m", "--json"]
    assert 0 == main(["plan", *common, "--tier", "nano", "--wait-target", "2"])
    (tier,) = json.loads(capsys.readouterr().out)["tiers"]
    size = f"{tier['slots']}..{tier['slots']}"

    args = ["--tier", "nano", "--policy", "fixed", "--instances", size, "--step", "1"]
    assert 0 == main(["simulate", *common, *args])

    (pool,) = json.loads(capsys.readouterr().out)["pools"]
    (policy,) = pool["policies"]
    assert tier["possible"]
    assert policy["wait_p95_seconds"] <= 2.0
    assert (
        pytest.approx(tier["p95_wait_seconds"], abs=1e-6)
        == (policy["wait_p95_seconds"])
    )


def test_recorded_tiers_are_planned_or_refused_each(fleet: Path) -> None:
    """Those with too few calls by name; items of a day are those of all tiers."""
    dice, calls, at = random.Random(7), [], 1.7e9
    for number in range(2000):
        at += dice.expovariate(1.0)
        tier, role = ("nano", "writer") if number % 20 else ("premium", "judge")
        calls.append(
            RecordedCall(
                tier, role, at, 0.1, dice.expovariate(0.2), 1000, 100,
                item=f"ITEM-{number // 4}",
            )
        )  # fmt: skip
    loaded = load_fleet(fleet)
    targets = {"nano": 5.0, "premium": 5.0}

    asked = demands_of_record(calls, loaded, ["nano", "premium"], targets)

    assert ["nano"] == list(asked.demands)
    assert ["premium"] == list(asked.refused)
    assert "100 calls" in asked.refused["premium"]
    nano = asked.demands["nano"]
    assert 1900 == nano.calls
    expected = 500 / (calls[-1].seconds - calls[0].seconds) * 86_400
    assert pytest.approx(expected) == nano.items_per_day
    assert 0.002 == float(nano.usd_per_call or 0)
