"""What every benchmark does as a program: run, stop cleanly, print its last line."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from _processes import clean_env
from rich.console import Console

__all__ = ["MEMORY", "Target", "console", "print_targets", "progress", "run_program"]

T = TypeVar("T")

MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""Where a server's database is: a disk's mood would be most of what is seen."""


@dataclass(frozen=True, slots=True)
class Target:
    """A figure, and what it should be."""

    value: float
    target: float
    at_least: bool = False
    """Whether more is better."""
    shown: float | None = None
    """How the value is printed; default: rounded to three digits."""

    @property
    def holds(self) -> bool:
        """Whether the figure is as it should be."""
        if self.at_least:
            return self.value >= self.target
        return self.value <= self.target


def progress(text: str) -> None:
    """Tell whoever watches what is going on."""
    print(text, file=sys.stderr, flush=True)


def console(width: int) -> Console:
    """Return what prints tables: as wide as the terminal, or as told."""
    return Console(width=None if sys.stdout.isatty() else width, highlight=False)


def print_targets(benchmark: str, targets: Mapping[str, Target]) -> None:
    """Compare with the targets; the last line is JSON."""
    figures = {}
    for name, one in targets.items():
        value = round(one.value, 3) if one.shown is None else one.shown
        mark = "holds " if one.holds else "MISSED"
        print(f"{mark} {name} {value} (target {one.target})")
        figures[name] = {"value": value, "target": one.target, "holds": one.holds}
    print(json.dumps({"benchmark": benchmark, "targets": figures}))


def run_program(
    measure: Callable[[], Coroutine[Any, Any, T]], show: Callable[[T], None]
) -> NoReturn:
    """Measure and show, in a clean environment; Ctrl-C and SIGTERM stop everything."""
    clean = clean_env({})
    for name in os.environ.keys() - clean.keys():
        del os.environ[name]
    os.environ.update(clean)
    begun, status = time.perf_counter(), 130
    with contextlib.suppress(asyncio.CancelledError):
        show(asyncio.run(_stoppable(measure)))
        progress(f"took {time.perf_counter() - begun:.0f} s")
        status = 0
    if status:
        progress("stopped")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # the SDK's threads can abort an ordinary exit


async def _stoppable(measure: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Let signals cancel the task, so that all processes are stopped."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    return await measure()
