"""What was found, as tables for people and as figures with targets.

Nothing here measures.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from _load import BARE, CALLS, DELAY_S, Variant
from _measure import History, Window
from _program import Target
from rich.table import Table

__all__ = ["Found", "notes", "size_table", "speed_table", "verdict"]


@dataclass
class Found:
    """All that was measured."""

    variants: Sequence[Variant]
    windows: dict[str, dict[int, Window]] = field(default_factory=dict)
    """By variant, then by round."""
    pairs: list[float] = field(default_factory=list)
    """Speed with pools against without, of windows one after the other."""
    latencies: dict[str, list[float]] = field(default_factory=dict)
    histories: dict[str, History] = field(default_factory=dict)
    dev_ready_s: list[float] = field(default_factory=list)
    pool_bytes: float = 0.0
    provider_calls_per_s: float = 0.0

    def throughput(self, name: str) -> float:
        """Return the median over rounds of the speed against the baseline's."""
        bare = self.windows[BARE.name]
        return median(
            window.speed / bare[number].speed
            for number, window in self.windows[name].items()
        )

    def pools(self) -> float:
        """Return the median over pairs of the speed with pools against without."""
        return median(self.pairs)

    def latency(self, name: str) -> float:
        """Return the median latency against the baseline's."""
        return median(self.latencies[name]) / median(self.latencies[BARE.name])

    def latency_cells(self, name: str) -> list[str]:
        """Return both figures as text."""
        if name not in self.latencies:
            return ["-", "-"]
        return [f"{median(self.latencies[name]):.3f}", f"{self.latency(name):.3f}"]

    def extra_events(self, name: str) -> float:
        """Return the events for each call that the baseline does not have."""
        mine, bare = self.histories[name], self.histories[BARE.name]
        return (mine.events - bare.events) / CALLS

    def bytes_ratio(self, name: str) -> float:
        """Return the bytes of history, without the start, against the baseline's."""
        return self.histories[name].bytes / self.histories[BARE.name].bytes


def speed_table(found: Found) -> Table:
    """Make the table of what an item's owner notices."""
    title = f"Speed ({CALLS} calls of {DELAY_S * 1000:.0f} ms per item)"
    table = Table(title=title, title_justify="left", box=None)
    columns = (
        "",
        "items/s",
        "of bare",
        "latency s",
        "of bare",
        "CPU ms/call",
        "of bare",
    )
    for name in columns:
        table.add_column(name, justify="right" if name else "left")
    bare_ms = median(w.total_ms for w in found.windows[BARE.name].values())
    for variant in found.variants:
        name = variant.name
        windows = found.windows[name].values()
        total_ms = median(w.total_ms for w in windows)
        table.add_row(
            name,
            f"{median(w.items_per_s for w in windows):.1f}",
            f"{found.throughput(name):.2f}",
            *found.latency_cells(name),
            f"{total_ms:.1f}",
            f"{total_ms / bare_ms:.2f}",
        )
    return table


def size_table(found: Found) -> Table:
    """Make the table of histories, and of who uses the CPU."""
    table = Table(title="History, and CPU ms of a call", title_justify="left", box=None)
    parts = ("server", "worker", "provider", "driver")
    columns = ("", "events/call", "bytes/call", "of bare", "start bytes", "with it",
               *parts)  # fmt: skip
    for name in columns:
        table.add_column(name, justify="right" if name else "left")
    bare = found.histories[BARE.name]
    for variant in found.variants:
        name = variant.name
        windows, history = found.windows[name].values(), found.histories[name]
        whole = (history.bytes + history.start_bytes) / (bare.bytes + bare.start_bytes)
        table.add_row(
            name,
            f"{history.events / CALLS:.1f}",
            f"{history.bytes / CALLS:.0f}",
            f"{found.bytes_ratio(name):.2f}",
            f"{history.start_bytes}",
            f"{whole:.2f}",
            *(f"{median(w.cpu_ms[part] for w in windows):.1f}" for part in parts),
        )
    return table


def verdict(found: Found) -> dict[str, Target]:
    """Compare the figures that have a target with it; of several the worst one counts."""
    called = ("fixed", "routed", "budget", "limits")
    floors = {
        "fixed": 0.85,
        "routed": 0.80,
        "budget": 0.75,
        "limits": 0.70,
        "claims": 0.70,
    }
    at_least = {
        f"throughput_{name}": (found.throughput(name), floor)
        for name, floor in floors.items()
        if name in found.windows
    }
    verdicts = {name: Target(*one, at_least=True) for name, one in at_least.items()}
    if not found.histories:
        return verdicts
    verdicts["throughput_with_pools_to_without"] = Target(
        found.pools(), 0.97, at_least=True
    )
    at_most = {
        "latency_ratio": (max(map(found.latency, called)), 1.10),
        "events_per_call_extra": (max(map(found.extra_events, called)), 2.0),
        "bytes_ratio": (max(map(found.bytes_ratio, called)), 2.0),
        "dev_ready_s": (median(found.dev_ready_s), 3.0),
    }
    return verdicts | {name: Target(*one) for name, one in at_most.items()}


def notes(found: Found, in_flight: int) -> list[str]:
    """Say what stands in no table, and how far the figures can be trusted."""
    windows = [w for some in found.windows.values() for w in some.values()]
    most = max(w.items_per_s for w in windows) * CALLS
    lines = [f"{in_flight} items in flight; items/s of each round:"]
    lines += [
        f"  {v.name}: {', '.join(f'{w.items_per_s:.1f}' for w in found.windows[v.name].values())}"
        for v in found.variants
    ]
    lines += [
        f"other programs used {median(w.other_cores for w in windows):.2f} of "
        f"{os.cpu_count()} cores (median; "
        f"{max(w.other_cores for w in windows):.2f} at most)",
        f"provider: {max(w.provider_cores for w in windows):.2f} cores at most; alone it "
        f"answers {found.provider_calls_per_s:.0f} calls/s, the variants made {most:.0f}",
    ]
    if found.dev_ready_s:
        ready = ", ".join(f"{seconds:.2f}" for seconds in found.dev_ready_s)
        pool = f"{found.pool_bytes / 1e6:.2f} MB"
        lines += [
            f"tierpool dev to ready: {ready} s",
            f"memory of one more pool in a worker process: {pool}",
        ]
    return lines
