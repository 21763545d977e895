"""Invented traces: Poisson, bursts, a day and its night; pure, by a seed.

A spec is `KIND:RATE[,key=value…]`, the rate in calls per second. Arrivals are
Poisson with a rate that may change in time; token counts are lognormal.
"""

from __future__ import annotations

import math
import random
import re
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from tierpool.errors import UsageError, nearest
from tierpool.scaling.traces import MOST_CALLS, Trace

__all__ = ["KINDS", "is_spec", "synthetic_trace"]

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_TIME = re.compile(r"(\d+(?:\.\d+)?)([smhd])")

Options: TypeAlias = Mapping[str, float]
Rate: TypeAlias = Callable[[float], float]
"""Calls per second at a second of the trace."""


@dataclass(frozen=True, slots=True)
class _Option:
    """A key of a spec."""

    default: float
    low: float
    high: float
    time: bool = False
    """Whether it is written as a time, such as 90s, 15m or 24h."""
    whole: bool = False

    def read(self, text: str) -> float | None:
        """Return the value, or None for what it cannot be."""
        found = _TIME.fullmatch(text) if self.time else None
        if found is not None:
            value = float(found[1]) * _UNITS[found[2]]
        else:
            try:
                value = math.nan if self.time else float(text)
            except ValueError:
                return None
        if self.whole and value % 1 != 0:
            return None
        return value if self.low <= value <= self.high else None

    @property
    def right(self) -> str:
        """Say what may stand there."""
        if self.time:
            return f"a time from {self.low:g}s to {self.high / 86_400:g}d, such as 15m"
        kind = "whole number" if self.whole else "number"
        return f"a {kind} from {self.low:g} to {self.high:g}"


_RATE = _Option(0, 0.0001, 10_000)
_COMMON = {
    "duration": _Option(3600, 1, 30 * 86_400, time=True),
    "input": _Option(1000, 0, 10_000_000),
    "output": _Option(200, 0, 10_000_000),
    "cv": _Option(1, 0, 10),
    "seed": _Option(0, 0, 10**9, whole=True),
}
_OWN: dict[str, dict[str, _Option]] = {
    "poisson": {},
    "bursts": {
        "times": _Option(10, 1, 10_000),
        "every": _Option(600, 1, 30 * 86_400, time=True),
        "length": _Option(60, 1, 30 * 86_400, time=True),
    },
    "diurnal": {
        "peak": _Option(1.8, 1, 2),
        "period": _Option(86_400, 60, 30 * 86_400, time=True),
    },
}
KINDS = {
    "poisson": "poisson:RATE",
    "bursts": "bursts:RATE,times=10,every=10m,length=60s",
    "diurnal": "diurnal:RATE,peak=1.8,period=24h",
}
"""Kinds of specs and how they are written; the values are the defaults."""


def is_spec(text: str) -> bool:
    """Tell whether a text is meant as a spec and not as a path."""
    return re.match(r"[a-z]\w+:", text) is not None


def synthetic_trace(spec: str, *, seed: int | None = None) -> Trace:
    """Make a trace; the same spec and seed make the same trace.

    Args:
        spec: See `KINDS`; also `duration=1h`, `input=1000`, `output=200` (mean
            tokens), `cv=1` (standard deviation of the tokens over their mean),
            `seed=0`.
        seed: Goes before the spec's own default.

    Raises:
        UsageError: with all that is wrong with the spec.
    """
    kind, rate, options = _read(spec)
    at = _rate_of(kind, rate, options)
    top = rate * _top(kind, options)
    if top * options["duration"] > MOST_CALLS:
        raise UsageError(
            f"trace {spec!r}: up to {top * options['duration']:,.0f} calls; at most "
            f"{MOST_CALLS:,} are replayed: take a lower rate or a shorter duration"
        )
    own = "seed=" in spec
    chosen = options["seed"] if own or seed is None else seed
    dice = random.Random(int(chosen))
    seconds = _arrivals(dice, at, top, options["duration"])
    if not seconds:
        raise UsageError(
            f"trace {spec!r} has no call: take a higher rate or a longer duration"
        )
    inputs = _tokens(dice, len(seconds), options["input"], options["cv"])
    outputs = _tokens(dice, len(seconds), options["output"], options["cv"])
    first = seconds[0]
    return Trace(spec, array("d", (s - first for s in seconds)), inputs, outputs)


def _read(spec: str) -> tuple[str, float, dict[str, float]]:
    kind, _, rest = spec.partition(":")
    if kind not in KINDS:
        hint = nearest(kind, KINDS)
        meant = f"; did you mean {hint!r}?" if hint else ""
        forms = ", ".join(KINDS.values())
        raise UsageError(
            f"trace {spec!r}: unknown kind {kind!r}{meant} (known: {forms}; or the "
            "name of a .csv or an .npz file)"
        )
    known = _COMMON | _OWN[kind]
    values = {key: option.default for key, option in known.items()}
    rate_text, *pairs = [part.strip() for part in rest.split(",")]
    problems, given = [], set()
    rate = _RATE.read(rate_text)
    if rate is None:
        problems.append(
            f"the rate is {rate_text!r}; right is {_RATE.right}, in calls per second"
        )
    for pair in pairs:
        key, equals, text = pair.partition("=")
        option = known.get(key)
        if option is None or not equals:
            hint = nearest(key, known)
            meant = f", did you mean {hint}=?" if hint else ""
            problems.append(f"{pair!r} is no option{meant} (known: {', '.join(known)})")
            continue
        if key in given:
            problems.append(f"{key} is there twice")
        given.add(key)
        value = option.read(text)
        if value is None:
            problems.append(f"{key} is {text!r}; right is {option.right}")
        else:
            values[key] = value
    if not problems and kind == "bursts" and values["length"] > values["every"]:
        problems.append("length is longer than every: bursts would overlap")
    if problems or rate is None:
        raise UsageError(f"trace {spec!r}: {'; '.join(problems)}")
    return kind, rate, values


def _rate_of(kind: str, rate: float, options: Options) -> Rate:
    if kind == "bursts":
        every, length, times = (options[key] for key in ("every", "length", "times"))
        # a burst ends each period, so that the trace begins with the base rate
        return lambda at: rate * (times if at % every >= every - length else 1.0)
    if kind == "diurnal":
        swing, period = options["peak"] - 1.0, options["period"]
        # begins at the lowest rate: the night
        return lambda at: rate * (1.0 - swing * math.cos(2 * math.pi * at / period))
    return lambda at: rate


def _top(kind: str, options: Options) -> float:
    """Return the highest rate over the given one."""
    return {"bursts": options.get("times", 1), "diurnal": options.get("peak", 1)}.get(
        kind, 1.0
    )


def _arrivals(
    dice: random.Random, at: Rate, top: float, duration: float
) -> list[float]:
    """Draw arrivals at the highest rate and keep each by its moment's share of it."""
    found: list[float] = []
    now = 0.0
    while True:
        now += dice.expovariate(top)
        if now >= duration:
            return found
        if dice.random() * top < at(now):
            found.append(now)


def _tokens(dice: random.Random, count: int, mean: float, cv: float) -> array[int]:
    """Draw token counts with this mean, one at least unless the mean is 0."""
    if mean <= 0:
        return array("q", [0]) * count
    width = math.sqrt(math.log1p(cv * cv))
    middle = math.log(mean) - width * width / 2
    return array(
        "q", (max(1, round(dice.lognormvariate(middle, width))) for _ in range(count))
    )
