"""One child of the supervisor: started, asked how it is, told to end.

A child inherits two descriptors: the socket that it has to answer on, and a
pipe that ends with its parent (see `lifeline`). It is a session of its own, so
that Ctrl-C reaches the supervisor alone.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from tierpool.contracts.reports import WorkerReport
from tierpool.pools.processes.view import Ended, Process

__all__ = ["HTTP_FD", "PARENT_FD", "Child", "spawn"]

HTTP_FD, PARENT_FD = "--http-fd", "--parent-fd"
"""Options that name the two descriptors to a child."""

_LOOPBACK = "127.0.0.1"
_BACKLOG = 128
"""Questions that wait in the socket while the child still imports its modules."""
_LOOK_SECONDS = 1.0


@dataclass(eq=False)
class Child:
    """A process that this one has started."""

    index: int
    process: asyncio.subprocess.Process
    port: int
    lifeline: int
    """The end of the pipe that is never written to; closed when the child is gone."""
    clock: Callable[[], float]
    started: float
    answered: float
    ready_since: float | None = None
    draining_since: float | None = None
    report: WorkerReport | None = None
    why: str = ""
    """Why it was told to end."""
    told_ready: bool = False

    @property
    def pid(self) -> int:
        """Its PID."""
        return self.process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self.process.returncode is None

    @property
    def state(self) -> str:
        """Return `starting`, `running` or `draining`.

        Or why it takes no calls: it is in `trouble`, or `silent`.
        """
        view = self.view()
        if not view.active:
            return "draining"
        if view.report is not None and not view.answers_by(self.clock()):
            return "silent"
        if view.trouble:
            return "trouble"
        return "running" if view.ready else "starting"

    def view(self) -> Process:
        """Return what decisions rest on."""
        return Process(
            index=self.index,
            started=self.started,
            answered=self.answered,
            ready_since=self.ready_since,
            draining_since=self.draining_since,
            report=self.report,
        )

    def ended(self) -> Ended:
        """Return how it has ended."""
        return Ended(
            index=self.index,
            status=self.process.returncode or 0,
            started=self.started,
            ready_since=self.ready_since,
            drained=self.draining_since is not None,
        )

    async def look(self) -> None:
        """Ask it how it is."""
        text = await self.page("/health", _LOOK_SECONDS)
        if text is None:
            return
        try:
            self.report = WorkerReport.model_validate_json(text)
        except ValidationError:
            return  # as good as no answer
        self.answered = self.clock()
        running = self.report.state == "running" and not self.view().trouble
        if running and self.ready_since is None:
            self.ready_since = self.answered
        if self.report.state == "draining" and self.draining_since is None:
            # somebody else has sent it a SIGTERM
            self.draining_since, self.why = self.answered, "told to by others"

    async def page(self, path: str, seconds: float) -> bytes | None:
        """Return what it answers; None unless it says that all is well."""
        try:
            async with asyncio.timeout(seconds):
                reader, writer = await asyncio.open_connection(_LOOPBACK, self.port)
                try:
                    host = f"{_LOOPBACK}:{self.port}"
                    writer.write(
                        f"GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n".encode()
                    )
                    answer = await reader.read()
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return None
        head, _, body = answer.partition(b"\r\n\r\n")
        return body if head.split(b" ", 2)[1:2] == [b"200"] else None

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        if self.running:
            self.process.send_signal(number)

    def drain(self, why: str) -> None:
        """Let it finish its calls and end; once, since a second time aborts."""
        self.draining_since, self.why = self.clock(), why
        self.send(signal.SIGTERM)


async def spawn(
    index: int, options: Sequence[str], clock: Callable[[], float]
) -> Child:
    """Start `tierpool worker` with these options.

    Never a fork: threads and sockets of a parent do not survive one.

    Raises:
        OSError: if the system gives no process, descriptor or port.
    """
    with socket.create_server((_LOOPBACK, 0), backlog=_BACKLOG) as listener:
        theirs, ours = os.pipe()
        try:
            # -P: as for the `tierpool` script, no file of the working folder can
            # take the place of a package
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "tierpool", "worker", *options),
                *(HTTP_FD, str(listener.fileno()), PARENT_FD, str(theirs)),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(listener.fileno(), theirs),
                start_new_session=True,
            )
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        port = listener.getsockname()[1]
    now = clock()
    return Child(index, process, port, ours, clock, started=now, answered=now)
