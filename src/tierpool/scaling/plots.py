"""Draws what policies did: in the terminal, and as a PNG.

plotext and matplotlib come with the extra `scaling` and are imported on use.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from tierpool.errors import UsageError
from tierpool.scaling.simulator import Outcome, Workload

__all__ = ["Curve", "curve", "draw_png", "draw_terminal", "need", "offered"]

_POINTS = 1500
"""Points of a line in a PNG: more cannot be told apart."""
_PNG_INCHES = (12.0, 3.0)
_DPI = 100
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True, slots=True)
class Curve:
    """One policy over time, in equal pieces; lists of one length."""

    unit: str
    at: list[float]
    """Begin of each piece, in `unit` since the first call."""
    instances: list[float]
    """Most that were paid for and took calls, or were starting."""
    demand: list[float]
    """Calls that would be under way if none had to wait, mean."""
    backlog: list[float]
    """Most calls that waited at a decision."""


def need(library: str, what: str) -> None:
    """Check that an optional library is there.

    Raises:
        UsageError: says how to install it.
    """
    if importlib.util.find_spec(library) is None:
        raise UsageError(f"{what} needs {library}: pip install 'tierpool[scaling]'")


def offered(load: Workload, pieces: int) -> list[float]:
    """Return the calls that would be under way if none had to wait, mean by piece.

    Args:
        load: Calls; the time from the first to the last arrival is divided.
        pieces: How many.
    """
    begin, last = load.arrivals[0], load.arrivals[-1]
    width = max(last - begin, 1e-9) / pieces
    # each call adds a ramp of work that begins at its arrival and stops at its end;
    # its second difference is kept, shared between the two edges around either
    steps = [0.0] * (pieces + 2)
    for arrival, service in zip(load.arrivals, load.services, strict=True):
        for at, sign in ((arrival - begin, 1.0), (arrival - begin + service, -1.0)):
            place = int(at / width)
            if place < pieces:
                part = at / width - place
                steps[place] += sign * (1.0 - part)
                steps[place + 1] += sign * part
    return list(accumulate(steps[:pieces]))


def curve(load: Workload, outcome: Outcome, pieces: int) -> Curve:
    """Put a run into pieces of equal time; a peak within a piece is kept."""
    begin, last = load.arrivals[0], load.arrivals[-1]
    span = max(last - begin, 1e-9)
    pieces = max(1, min(pieces, len(outcome.timeline)))
    unit, scale = _unit(span)

    def peaks(value: Callable[[Any], float]) -> list[float]:
        found: list[float | None] = [None] * pieces
        for moment in outcome.timeline:
            place = min(pieces - 1, int((moment.at - begin) / span * pieces))
            found[place] = max(value(moment), found[place] or 0.0)
        return list(_filled(found))

    return Curve(
        unit=unit,
        at=[n * span / pieces / scale for n in range(pieces)],
        instances=peaks(lambda moment: moment.instances + moment.starting),
        demand=offered(load, pieces),
        backlog=peaks(lambda moment: moment.backlog),
    )


def draw_terminal(
    load: Workload, outcome: Outcome, *, width: int = 100, colour: bool = False
) -> str:
    """Draw instances against demand, and the backlog below, as text.

    Raises:
        UsageError: if plotext is not installed.
    """
    need("plotext", "a plot in the terminal")
    shape = curve(load, outcome, 2 * width)
    mark = "braille" if colour else "="  # two lines of dots cannot be told apart
    above = _panel(
        f"{outcome.policy}: instances and demand",
        shape.at,
        (
            _Line(shape.demand, "blue", label="demand"),
            _Line(shape.instances, "orange", mark, "instances"),
        ),
        (width, 15),
    )
    below = _panel(
        f"calls waiting, by {shape.unit} since the first call",
        shape.at,
        (_Line(shape.backlog, "red"),),
        (width, 9),
    )
    text = f"{above}\n{below}"
    if not colour:
        text = _COLOUR.sub("", text)
    return "\n".join(line.rstrip() for line in text.splitlines())


def draw_png(path: Path, load: Workload, outcomes: Sequence[Outcome]) -> None:
    """Draw all policies, one below the other, as a PNG of 1200 by 300 pixels each.

    Raises:
        UsageError: if matplotlib is not installed or the file cannot be written.
    """
    need("matplotlib", "a PNG")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    wide, high = _PNG_INCHES
    figure: Any = Figure(figsize=(wide, high * len(outcomes)), layout="constrained")
    canvas: Any = FigureCanvasAgg(figure)
    rows = figure.subplots(len(outcomes), 1, squeeze=False, sharex=True)
    for row, outcome in zip(rows, outcomes, strict=True):
        _row(row[0], curve(load, outcome, _POINTS), outcome)
    rows[-1][0].set_xlabel(f"{_unit(load.arrivals[-1] - load.arrivals[0])[0]} of trace")
    try:
        with path.open("wb") as file:
            canvas.print_png(file)
    except OSError as error:
        raise UsageError(
            f"--plot: {path} cannot be written: {error.strerror}"
        ) from error


def _row(axes: Any, shape: Curve, outcome: Outcome) -> None:
    """Draw one policy; the backlog has a scale of its own on the right."""
    at = shape.at
    axes.fill_between(at, shape.demand, color="tab:blue", alpha=0.35, label="demand")
    axes.step(at, shape.instances, where="post", color="tab:orange", label="instances")
    axes.set_ylim(bottom=0)
    axes.set_ylabel("instances")
    waiting = axes.twinx()
    waiting.plot(at, shape.backlog, color="tab:red", linewidth=0.8, label="backlog")
    waiting.set_ylim(0, max(4.0, 2.0 * max(shape.backlog)))
    waiting.set_ylabel("calls waiting", color="tab:red")
    handles = [*axes.get_legend_handles_labels()[0], waiting.get_lines()[0]]
    axes.legend(handles=handles, loc="upper left", ncols=3, fontsize="small")
    axes.set_title(
        f"{outcome.policy}: wait p95 {outcome.p95:.1f} s, "
        f"{outcome.instance_hours:,.1f} instance-hours, {outcome.changes} changes",
        fontsize="medium",
    )


@dataclass(frozen=True, slots=True)
class _Line:
    values: Sequence[float]
    colour: str
    mark: str = "braille"
    label: str = ""


def _panel(
    title: str, at: Sequence[float], lines: Iterable[_Line], size: tuple[int, int]
) -> str:
    import plotext  # type: ignore[import-untyped, unused-ignore]

    figure = plotext.figure
    figure.clear()
    figure.theme("simple")
    figure.plot_size(*size)
    figure.title(title)
    top = 1.0
    for line in lines:
        marker = plotext.marker(line.mark, line.colour)
        signal = figure.signal(list(at), list(line.values), marker=marker)
        signal.lines()
        if line.label:
            signal.label(line.label)
        figure.draw(signal)
        top = max(top, *line.values)
    figure.ruler("y").lim(0, top * 1.05)
    return str(figure.build())


def _unit(span: float) -> tuple[str, float]:
    """Return the unit of the time axis and its seconds."""
    if span > 3 * 3600:
        return "hours", 3600.0
    return ("minutes", 60.0) if span > 300 else ("seconds", 1.0)


def _filled(values: Iterable[float | None]) -> Iterable[float]:
    """Let a piece without a decision be as the one before."""
    last = 0.0
    for value in values:
        last = last if value is None else value
        yield last
