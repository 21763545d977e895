"""Processes that outlive a crash of the process that started them.

Identifies a process for good, starts one that Ctrl-C does not reach, ends it,
and reads its log. Which processes these are, and the files that name them,
are not known here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from tierpool.errors import ServerError

__all__ = [
    "Child",
    "Identity",
    "log_tail",
    "minimal_env",
    "spawn",
]

_POLL = timedelta(milliseconds=50)
_ENV = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ")


class Identity(BaseModel):
    """A process for good: its PID and when it started, as the system tells it."""

    model_config = ConfigDict(frozen=True)

    pid: int
    started: str
    """Opaque; compared, never read. A reused PID has another one."""

    @classmethod
    def of(cls, pid: int) -> Identity | None:
        """Identify a running process; None if there is none."""
        facts = _inspect(pid)
        return Identity(pid=pid, started=facts.started) if facts else None

    @classmethod
    def own(cls) -> Identity:
        """Identify this process."""
        found = cls.of(os.getpid())
        if found is None:
            raise ServerError(
                "cannot read this process's own entry in the process table; "
                "the embedded servers need /proc or the command `ps`"
            )
        return found

    @property
    def command(self) -> str:
        """The command line, or nothing if this process is gone."""
        facts = _inspect(self.pid)
        return facts.command if facts and facts.started == self.started else ""

    @property
    def alive(self) -> bool:
        """Whether this very process still runs."""
        facts = _inspect(self.pid)
        return facts is not None and facts.started == self.started

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless the process is gone."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


@dataclass(frozen=True, slots=True)
class _Facts:
    started: str
    command: str


def _inspect(pid: int) -> _Facts | None:
    """Look a process up; None if it is gone or only waits to be reaped."""
    return _from_proc(pid) if Path("/proc/self/stat").exists() else _from_ps(pid)


def _from_proc(pid: int) -> _Facts | None:
    folder = Path("/proc") / str(pid)
    try:
        # The name in parentheses may itself contain spaces and parentheses.
        fields = (
            (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
        )
        raw = (folder / "cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    if fields[0] in "ZX":
        return None
    command = raw.replace(b"\0", b" ").decode(errors="replace").strip()
    return _Facts(f"{_boot()}/{fields[19]}", command)


@cache
def _boot() -> str:
    """Tell this boot from others: start times count from it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _from_ps(pid: int) -> _Facts | None:
    """Ask `ps`, where there is no /proc (macOS)."""
    columns = ["-o", "stat=", "-o", "lstart=", "-o", "command="]
    done = subprocess.run(
        ["ps", "-ww", "-p", str(pid), *columns],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    )
    words = done.stdout.split(maxsplit=6)
    if done.returncode or len(words) < 7 or words[0].startswith("Z"):
        return None
    return _Facts(" ".join(words[1:6]), words[6].strip())


def minimal_env(*extra: str) -> dict[str, str]:
    """Return the few variables a service needs; keys of providers stay out."""
    return {n: os.environ[n] for n in (*_ENV, *extra) if n in os.environ}


def spawn(
    command: Sequence[str],
    log: Path,
    *,
    keep: Sequence[int] = (),
    env: Mapping[str, str],
) -> Child:
    """Start a program in a session of its own; its output goes to `log`.

    Ctrl-C in the terminal does not reach it. It inherits the descriptors in
    `keep` and no others, the variables in `env` and no others. The log of the run before is kept as `*.1`.

    Raises:
        ServerError: the program cannot be run.
    """
    if log.exists():
        log.replace(log.with_name(f"{log.name}.1"))
    try:
        with log.open("wb") as out:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=keep,
                env=env,
            )
    except OSError as error:
        raise ServerError(f"cannot run {command[0]}: {error.strerror}") from error
    # Until it is reaped below, the entry of a child that died at once remains.
    facts = _inspect(process.pid)
    return Child(
        Identity(pid=process.pid, started=facts.started if facts else ""), process
    )


class Child:
    """A service's process, started by this process or adopted."""

    def __init__(
        self, identity: Identity, process: subprocess.Popen[bytes] | None = None
    ) -> None:
        """Take what `spawn` started, or the identity of an adopted process."""
        self.identity = identity
        self._process = process

    @property
    def adopted(self) -> bool:
        """Whether another process had started it."""
        return self._process is None

    @property
    def alive(self) -> bool:
        """Whether it still runs; reaps a child that does not."""
        if self._process is not None:
            return self._process.poll() is None
        return self.identity.alive

    @property
    def ending(self) -> str:
        """How it ended, as far as this process can know."""
        code = self._process.poll() if self._process is not None else None
        if code is None:
            return "ended"
        if code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        return f"exited with {code}"

    async def stop(self, grace: timedelta) -> None:
        """End the process: SIGTERM, after `grace` SIGKILL; return when it is gone.

        The SIGTERM goes out before the first await, so that a cancelled stop
        leaves nothing running either.
        """
        self._send(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace.total_seconds()):
                await self.gone()
        except TimeoutError:
            self._send(signal.SIGKILL)
            await self.gone()

    async def gone(self) -> None:
        """Wait until the process has ended."""
        while self.alive:  # noqa: ASYNC110 - an adopted process sends no event
            await asyncio.sleep(_POLL.total_seconds())

    def _send(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)  # polls first: no PID is reused
        else:
            self.identity.send(number)


def log_tail(path: Path, lines: int = 15) -> str:
    """Return the last lines of a log, indented; empty if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 64 * 1024))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    kept = [line for line in text.splitlines() if line.strip()][-lines:]
    return "".join(f"\n  {line[:500]}" for line in kept)
