"""`tierpool manifests`, and the committed files that it wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.unit.manifests.fleets import SMALL

from tierpool import __version__
from tierpool.cli.main import main

ROOT = Path(__file__).parents[3]
EXAMPLE = ["--file", str(ROOT / "examples" / "support" / "agents.yaml")]


@pytest.fixture
def fleet(folder: Path) -> Path:
    """A fleet file."""
    path = folder / "agents.yaml"
    path.write_text(SMALL)
    return path


def _run(fleet: Path, out: Path, *more: str) -> int:
    return main(["manifests", "--file", str(fleet), "--out", str(out), *more])


def test_committed_manifests_are_those_of_the_example(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """deploy/k8s is what the command writes for examples/support/agents.yaml."""
    out = ["--out", str(ROOT / "deploy" / "k8s")]

    status = main(["manifests", *EXAMPLE, *out, "--check"])

    assert 0 == status, capsys.readouterr().out


def test_check_finds_every_difference(
    fleet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is missing, changed or no longer written is named; nothing is written."""
    out = tmp_path / "k8s"
    assert 1 == _run(fleet, out, "--check")
    assert not out.exists()
    assert 0 == _run(fleet, out)
    assert 0 == _run(fleet, out, "--check")
    (out / "base" / "flows.yaml").unlink()
    control = out / "base" / "control.yaml"
    control.write_text(control.read_text() + "# mine\n")
    (out / "base" / "pool-old.yaml").write_text(control.read_text())
    own = out / "overlays" / "mine" / "kustomization.yaml"
    own.parent.mkdir()
    own.write_text("resources: [../../base]\n")
    capsys.readouterr()

    status = _run(fleet, out, "--check", "--json")

    assert 1 == status
    assert {
        "base/control.yaml": "differs",
        "base/flows.yaml": "missing",
        "base/pool-old.yaml": "not written any more",
    } == json.loads(capsys.readouterr().out)["different"]
    assert not (out / "base" / "flows.yaml").exists()


def test_writing_again_keeps_what_is_not_ours(
    fleet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Own overlays stay, and files of a tier that went are named and left alone."""
    out = tmp_path / "k8s"
    _run(fleet, out)
    own = out / "overlays" / "mine.yaml"
    own.write_text("mine\n")
    fleet.write_text(SMALL.replace("nano:", "small:"))
    capsys.readouterr()

    status = _run(fleet, out, "--json")

    assert 0 == status
    assert ["base/pool-nano.yaml"] == json.loads(capsys.readouterr().out)["stale"]
    assert "mine\n" == own.read_text()
    assert (out / "base" / "pool-nano.yaml").exists()
    assert (out / "base" / "pool-small.yaml").exists()


def test_files_of_others_are_not_written_over(
    fleet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder with somebody's own base is refused as a whole."""
    sign = tmp_path / "k8s" / "base" / "kustomization.yaml"
    sign.parent.mkdir(parents=True)
    sign.write_text("resources: []\n")

    status = _run(fleet, tmp_path / "k8s", "--json")

    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert 2 == status
    assert str(sign) == problem["file"]
    assert "was not written by this command" in problem["message"]
    assert ["kustomization.yaml"] == [path.name for path in sign.parent.iterdir()]


def test_folders_that_cannot_be_written_are_named(
    fleet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file where a folder should be is a clear error."""
    (tmp_path / "taken").write_text("")

    status = _run(fleet, tmp_path / "taken")

    assert 2 == status
    assert "cannot be written" in capsys.readouterr().err


def test_folder_in_the_place_of_a_file_is_refused_before_anything_is_written(
    fleet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """So is a link that leads nowhere."""
    base = tmp_path / "k8s" / "base"
    (base / "flows.yaml").mkdir(parents=True)
    (base / "control.yaml").symlink_to(tmp_path / "nowhere")

    status = _run(fleet, tmp_path / "k8s", "--json")

    problems = json.loads(capsys.readouterr().out)["problems"]
    assert 2 == status
    assert {str(base / "flows.yaml"), str(base / "control.yaml")} == {
        problem["file"] for problem in problems
    }
    assert {"flows.yaml", "control.yaml"} == {path.name for path in base.iterdir()}


@pytest.mark.parametrize("more", [(), ("--check",)])
def test_name_of_a_folder_that_cannot_be_is_no_traceback(
    fleet: Path,
    tmp_path: Path,
    more: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Nothing is there, and nothing can be written."""
    status = _run(fleet, tmp_path / ("x" * 300), *more)

    said = capsys.readouterr()
    assert (1 if more else 2) == status
    assert ("missing" in said.out) if more else ("File name too long" in said.err)


def test_default_image_follows_the_version(fleet: Path, tmp_path: Path) -> None:
    """Pods of an installed tierpool run the same one."""
    _run(fleet, tmp_path / "k8s")

    text = (tmp_path / "k8s" / "base" / "pool-nano.yaml").read_text()
    assert f'image: "tierpool:{__version__}"' in text


def test_places_of_problems_are_not_taken_for_pictures(
    fleet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Line 100 of a file stays `:100:`."""
    fleet.write_text(SMALL + "\n" * (99 - SMALL.count("\n")) + "wrong: 1\n")

    assert 2 == _run(fleet, tmp_path / "k8s")

    assert "agents.yaml:100:1: error" in capsys.readouterr().err


def test_problems_end_with_status_2_and_nothing_written(
    fleet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bad options and bad files are bad usage."""
    status = _run(fleet, tmp_path / "k8s", "--image", "x:latest", "--namespace", "A")

    said = capsys.readouterr().err
    assert 2 == status
    assert "--image" in said
    assert "--namespace" in said
    assert not (tmp_path / "k8s").exists()


def test_options_reach_the_manifests(fleet: Path, tmp_path: Path) -> None:
    """Every option is written where it belongs."""
    out = tmp_path / "k8s"
    options = {
        "namespace": ("agents", "base/namespace.yaml"),
        "image": ("acme/tierpool:9", "base/pool-nano.yaml"),
        "temporal-address": ("t.example:7233", "base/kustomization.yaml"),
        "temporal-namespace": ("prod", "overlays/keda-temporal/pools.yaml"),
        "prometheus-url": ("http://p.example:9090", "overlays/keda/pools.yaml"),
    }

    _run(fleet, out, *(f"--{name}={value}" for name, (value, _) in options.items()))

    for name, (value, path) in options.items():
        assert value in (out / path).read_text(), name
