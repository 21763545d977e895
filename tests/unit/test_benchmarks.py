"""The benchmarks are programs that start: nothing else imports their modules."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAMS = sorted((Path(__file__).parents[2] / "benchmarks").glob("[a-z]*.py"))


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_benchmark_explains_itself(program: Path) -> None:
    """`--help` imports all that the program needs and names its options."""
    said = subprocess.run(
        [sys.executable, str(program), "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert 0 == said.returncode, said.stderr
    assert "--quick" in said.stdout
