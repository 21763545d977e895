"""What `history.py` found, as tables for people and as figures with targets.

Nothing here measures.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from _history_load import Run
from _history_sides import SIDES, Said, Side
from _program import Target
from rich.markup import escape
from rich.table import Table

__all__ = ["Found", "longest_table", "notes", "size_table", "verdict"]

_LINEAR, _MEGABYTES = 1.2, 0.5
_KEY = tuple[int, int]
"""Start bytes and turns."""


@dataclass
class Found:
    """All that was measured, by the side's name."""

    runs: dict[str, dict[_KEY, Run]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)

    def add(self, side: Side, said: Said) -> None:
        """Take up what a side said."""
        self.runs[side.name] = {(r.start_bytes, r.turns): r for r in said.runs}
        if said.version:
            self.versions[side.name] = said.version
        if said.absent:
            self.absent[side.name] = said.absent

    @property
    def own(self) -> dict[_KEY, Run]:
        """Return the runs that count: tierpool's as it comes."""
        return self.runs[SIDES[0].name]

    @property
    def starts(self) -> list[int]:
        """Return the sizes of the start conversations."""
        return sorted({start for start, _ in self.own})

    @property
    def turns(self) -> list[int]:
        """Return the lengths of the conversations."""
        return sorted({turns for runs in self.runs.values() for _, turns in runs})


def size_table(found: Found) -> Table:
    """Make the table of megabytes of history."""
    table = Table(
        title="MB of history, by turns of 5 KB", title_justify="left", box=None
    )
    table.add_column("")
    table.add_column("start")
    for turns in found.turns:
        table.add_column(str(turns), justify="right")
    for start in found.starts:
        for name, runs in found.runs.items():
            cells = [_cell(runs.get((start, turns))) for turns in found.turns]
            if runs:
                table.add_row(name, f"{start // 1000} KB", *cells)
    return table


def _cell(run: Run | None) -> str:
    if run is None:
        return "-"
    size = f"{run.bytes / 1e6:.2f}"
    return size if run.outcome == "completed" else f"{run.outcome} at {size}"


def longest_table(found: Found) -> Table:
    """Make the table of what the longest run of each side took."""
    table = Table(
        title="The longest run of each, for each call",
        title_justify="left",
        box=None,
    )
    table.add_column("")
    table.add_column("start")
    columns = ("turns", "calls", "events", "KB of history", "KB beside it",
               "KB sent", "ms", "linear")  # fmt: skip
    for column in columns:
        table.add_column(column, justify="right")
    for start in found.starts:
        for name, runs in found.runs.items():
            mine = [run for key, run in sorted(runs.items()) if key[0] == start]
            if mine:
                table.add_row(name, f"{start // 1000} KB", *_longest(mine))
    return table


def _longest(runs: list[Run]) -> list[str]:
    run = runs[-1]
    calls = run.calls or 1
    growth = _growth(runs)
    return [
        str(run.turns),
        str(run.calls),
        f"{run.events / calls:.1f}",
        f"{run.bytes / calls / 1000:.1f}",
        f"{run.stored_bytes / calls / 1000:.0f}" if run.stored_bytes else "-",
        f"{run.input_tokens * 4 / calls / 1000:.0f}",
        f"{1000 * run.seconds / calls:.0f}",
        "-" if growth is None else f"{growth:.2f}",
    ]


def _growth(runs: list[Run]) -> float | None:
    """Compare the bytes of a later turn with those of an earlier one.

    1 is linear. The earlier turns are those from the shortest run to the last but
    one, the later ones those from there to the longest.
    """
    done = [run for run in runs if run.outcome == "completed"]
    if len(done) < 3:
        return None
    first, middle, last = done[0], done[-2], done[-1]
    early = (middle.bytes - first.bytes) / (middle.turns - first.turns)
    late = (last.bytes - middle.bytes) / (last.turns - middle.turns)
    return late / early


def verdict(found: Found) -> dict[str, Target]:
    """Compare the figures that have a target with it, where they were measured."""
    targets: dict[str, Target] = {}
    ratios = [
        _growth([run for key, run in sorted(found.own.items()) if key[0] == start])
        for start in found.starts
    ]
    # a run that did not complete has no slope, which is worse than any
    worst = max(float("inf") if ratio is None else ratio for ratio in ratios)
    targets["bytes_per_turn_late_to_early"] = Target(min(worst, 999.0), _LINEAR)
    eighty = found.own.get((0, 80))
    if eighty is not None:
        size = eighty.bytes / 1e6 if eighty.outcome == "completed" else 999.0
        targets["mb_at_80_turns"] = Target(size, _MEGABYTES)
    longest = found.own.get((800_000, 200))
    if longest is not None:
        done = longest.outcome == "completed" and longest.calls == longest.turns
        targets["completes_200_turns_on_800_kb"] = Target(int(done), 1, at_least=True)
    return targets


def notes(found: Found) -> list[str]:
    """Say what stands in no table."""
    versions = sorted(set(found.versions.values()))
    lines = [f"the peer is temporalio-openai-agents {one}" for one in versions]
    lines += [f"{name} is absent: {why}" for name, why in found.absent.items()]
    for name, runs in found.runs.items():
        lines += [
            f"{name}, {run.turns} turns on {run.start_bytes // 1000} KB: {run.outcome} "
            f"in call {run.calls}: {run.reason}"
            for run in runs.values()
            if run.outcome != "completed"
        ]
    return [escape(line) for line in lines]
