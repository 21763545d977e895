"""A child's side of its supervisor: what it does when that one is gone."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from datetime import timedelta

import structlog

__all__ = ["hold_lifeline"]

_log = structlog.get_logger()

_SIGNAL_SECONDS = 1.0
"""Time that a signal which was sent just before has to arrive."""
_HANGS_SECONDS = 30.0
"""Above the grace: a process that could would have ended itself before."""


def hold_lifeline(
    descriptor: int, stopping: Callable[[], bool], grace: timedelta
) -> None:
    """Drain this process when the other end of a pipe is closed.

    A thread watches, for nobody else would end a process whose event loop hangs.

    Args:
        descriptor: The end that is read.
        stopping: Whether this process drains already; a second SIGTERM aborts.
        grace: How long calls in flight may go on.
    """
    threading.Thread(
        target=_watch, args=(descriptor, stopping, grace), name="lifeline", daemon=True
    ).start()


def _watch(descriptor: int, stopping: Callable[[], bool], grace: timedelta) -> None:
    while os.read(descriptor, 64):
        pass
    time.sleep(_SIGNAL_SECONDS)
    if not stopping():
        _log.warning("worker.orphaned", pid=os.getpid())
        os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(grace.total_seconds() + _HANGS_SECONDS)
    os._exit(1)
