"""Traces as workloads: the files of a folder, and one that is made up."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tierpool.scaling.simulator import Workload

__all__ = ["Case", "long_case", "read_case", "short_case", "synthetic", "traces"]

MOST_SECONDS = 600.0
LONG_MEAN = 60.0
LONG_EVERY = {"az23_conv": 8, "sg_large_d0_2": 10}
"""Which development traces are replayed with long calls too, and how thinned."""


@dataclass(frozen=True, slots=True)
class Case:
    """A workload by its name."""

    name: str
    load: Workload


def traces(folder: Path) -> list[Path]:
    """Return the trace files, by name.

    Raises:
        FileNotFoundError: There is no folder, or no trace within.
    """
    found = sorted(folder.glob("*.npz")) if folder.is_dir() else []
    if not found:
        raise FileNotFoundError(f"{folder}: no folder with traces (*.npz)")
    return found


def read_case(path: Path, thin: int) -> Iterator[Case]:
    """Yield a trace with calls of its own length, and for some with long calls.

    `thin` keeps every so-manieth request.
    """
    with np.load(path) as file:
        at = np.cumsum(file["dt_ms"].astype(np.int64)) / 1000.0
        read, written = file["inp"].astype(np.int64), file["out"].astype(np.int64)
    yield short_case(path.stem, at[::thin], read[::thin], written[::thin])
    if every := LONG_EVERY.get(path.stem):
        yield long_case(path.stem, at[::every], (read + written)[::every])


def short_case(
    name: str, at: np.ndarray, read: np.ndarray, written: np.ndarray
) -> Case:
    """Return calls of 0.5 s and 50 tokens a second, 600 s at most."""
    seconds = np.minimum(0.5 + written / 50.0, MOST_SECONDS)
    return Case(name, Workload(at, seconds, read + written))


def long_case(name: str, at: np.ndarray, tokens: np.ndarray) -> Case:
    """Return lognormal calls with a mean of 60 s and a coefficient of variation of 1."""
    variance = math.log(2.0)
    seconds = np.random.default_rng(5).lognormal(
        math.log(LONG_MEAN) - variance / 2, math.sqrt(variance), len(at)
    )
    return Case(f"{name}_long", Workload(at, seconds, tokens))


def synthetic(hours: float = 2.0, seed: int = 1) -> Case:
    """Return Poisson arrivals that swell within the hour, with bursts on top."""
    dice = np.random.default_rng(seed)
    steps = np.arange(0.0, 3600.0 * hours)
    rate = 2.0 + 1.5 * np.sin(2 * np.pi * steps / 3600.0)
    for begin in dice.uniform(0, 3600.0 * hours, int(3 * hours)):
        rate[(steps >= begin) & (steps < begin + 30.0)] += 8.0
    at = np.sort(np.repeat(steps, dice.poisson(rate)) + 0.0)
    at = np.sort(at + dice.uniform(0, 1, len(at)))
    written = dice.lognormal(5.0, 0.8, len(at)).astype(np.int64)
    return short_case("synthetic", at, np.full(len(at), 800), written)
