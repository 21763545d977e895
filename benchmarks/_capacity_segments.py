"""Which parts of traces slots are predicted for: by rules, the same for all traces."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np

from tierpool.scaling.synthetic import synthetic_trace
from tierpool.scaling.trace_files import read_trace
from tierpool.scaling.traces import Trace, service_seconds

__all__ = ["Segment", "of_folder", "of_random_arrivals", "of_specs"]

_HOUR = 3600.0
_LENGTHS = (24, 2)
"""Hours of the parts that are taken of a longer trace."""
_LONG_EVERY = 8
_LONG_SECONDS, _LONG_SEED = 60.0, 5
_SPECS = (
    "poisson:3,duration=1h",
    "bursts:1,duration=2h,times=8,every=10m,length=60s",
    "diurnal:2,duration=6h,period=6h",
)


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a trace."""

    trace: str
    part: str
    arrivals: Sequence[float]
    services: Sequence[float]


def of_folder(folder: Path, *, long: bool) -> Iterator[Segment]:
    """Yield the parts of all traces of a folder.

    Each trace as a whole; of longer ones the busiest day, the busiest two hours,
    and the two hours that are in the middle by their work.

    Args:
        folder: With `.npz` or `.csv` files.
        long: Also every 8th call with durations of a minute (lognormal, CV 1).
    """
    for path in sorted(folder.iterdir()):
        if path.suffix in (".npz", ".csv"):
            trace = read_trace(path)
            yield from _parts(trace.name, trace.seconds, service_seconds(trace)[0])
            if long:
                yield from _parts(f"{trace.name} long", *_long(trace))


def of_specs() -> Iterator[Segment]:
    """Yield invented traces, for a smoke test."""
    for spec in _SPECS:
        trace = synthetic_trace(spec, seed=1)
        yield Segment(spec, "whole", trace.seconds, service_seconds(trace)[0])


def of_random_arrivals() -> Iterator[Segment]:
    """Yield M/M/c at some loads, where Erlang-C is exact."""
    for load in (3.0, 20.0, 60.0):
        dice = random.Random(f"capacity {load}")
        mean = 5.0
        calls = 100_000
        arrivals = list(accumulate(dice.expovariate(load / mean) for _ in range(calls)))
        services = [dice.expovariate(1 / mean) for _ in range(calls)]
        yield Segment("M/M/c", f"load {load:g}", arrivals, services)


def _long(trace: Trace) -> tuple[Sequence[float], Sequence[float]]:
    """Return every 8th call, with durations of a minute."""
    arrivals = trace.seconds[::_LONG_EVERY]
    sigma2 = np.log(2.0)  # CV 1
    dice = np.random.default_rng(_LONG_SEED)
    made = dice.lognormal(
        np.log(_LONG_SECONDS) - sigma2 / 2, np.sqrt(sigma2), len(arrivals)
    )
    return arrivals, [float(one) for one in made]


def _parts(
    name: str, arrivals: Sequence[float], services: Sequence[float]
) -> Iterator[Segment]:
    yield Segment(name, "whole", arrivals, services)
    span = arrivals[-1] - arrivals[0]
    for hours in _LENGTHS:
        if span <= 1.05 * hours * _HOUR:
            continue
        spans = _by_work(arrivals, services, hours * _HOUR)
        yield _cut(name, f"busiest {hours} h", arrivals, services, spans[-1])
        if hours == _LENGTHS[-1]:
            middle = spans[len(spans) // 2]
            yield _cut(name, f"usual {hours} h", arrivals, services, middle)


def _cut(
    name: str,
    part: str,
    arrivals: Sequence[float],
    services: Sequence[float],
    where: tuple[int, int],
) -> Segment:
    first, end = where
    return Segment(name, part, arrivals[first:end], services[first:end])


def _by_work(
    arrivals: Sequence[float], services: Sequence[float], seconds: float
) -> list[tuple[int, int]]:
    """Return spans that begin every half hour, those with least work in front."""
    begins = np.arange(arrivals[0], arrivals[-1] - seconds + 1, _HOUR / 2)
    cuts = np.searchsorted(arrivals, [begins, begins + seconds])
    done = [0.0, *accumulate(services)]
    spans = [(int(first), int(end)) for first, end in cuts.T]
    return sorted(spans, key=lambda one: done[one[1]] - done[one[0]])
