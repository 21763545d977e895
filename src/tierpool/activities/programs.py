"""Running one program to its end, and nothing of it after that.

The program gets a process group of its own, which is gone when `run_program`
returns or raises, cancellation included. What it is run for, and what its
output means, is decided in `tools`.
"""

from __future__ import annotations

import asyncio
import os
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

__all__ = ["STDOUT_LIMIT_BYTES", "Finished", "TooMuchOutput", "run_program"]

STDOUT_LIMIT_BYTES: Final = 1024 * 1024
"""A program that prints more is ended."""

STDERR_KEPT_BYTES: Final = 8_000
"""Only the end of stderr is kept."""

_TERM_GRACE_SECONDS: Final = 5.0
_PIPE_GRACE_SECONDS: Final = 1.0
"""How long what a program left running may keep its output open."""


class TooMuchOutput(Exception):
    """A program printed more than is kept."""


@dataclass(frozen=True, slots=True)
class Finished:
    """What is left of a program that ended by itself."""

    exit_code: int
    """Negative: ended by that signal."""
    stdout: str
    stderr: str
    """The end of it."""


async def run_program(
    run: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    body: bytes,
    limit: float,
) -> Finished:
    """Run a program in a folder with `body` on its stdin; no shell is involved.

    Its process group is asked to end, and after 5 seconds forced, when the
    program has ended, after `limit` seconds, and on cancellation.

    Raises:
        TimeoutError: after `limit` seconds.
        TooMuchOutput: if stdout passes STDOUT_LIMIT_BYTES.
        OSError: if the program cannot be started.
        ValueError: if an argument or variable cannot be passed on.
    """
    process = await asyncio.create_subprocess_exec(
        *run,
        cwd=folder,
        env=environment,
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(limit):
            return await _converse(process, body)
    finally:
        await _end_group(process)


async def _converse(process: Process, body: bytes) -> Finished:
    """Feed the program and read what it says until it ends."""
    out, err = bytearray(), bytearray()
    talking = asyncio.create_task(_talk(process, body, out, err))
    waiting = asyncio.create_task(_exit_code(process))
    both: set[asyncio.Task[Any]] = {talking, waiting}
    try:
        # The talk ends first, or with an error, or not at all where the program
        # left something running that holds its output open.
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if not talking.done():
            await asyncio.wait({talking}, timeout=_PIPE_GRACE_SECONDS)
        if talking.done() and (errors := talking.exception()):
            raise errors.exceptions[0] if isinstance(errors, ExceptionGroup) else errors
        exit_code = await waiting
    finally:
        talking.cancel()
        waiting.cancel()
        await asyncio.gather(*both, return_exceptions=True)
    return Finished(exit_code, _text(out), _text(err))


async def _talk(process: Process, body: bytes, out: bytearray, err: bytearray) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(_feed(cast(asyncio.StreamWriter, process.stdin), body))
        group.create_task(_read(cast(asyncio.StreamReader, process.stdout), out))
        group.create_task(_read_tail(cast(asyncio.StreamReader, process.stderr), err))


async def _feed(stdin: asyncio.StreamWriter, body: bytes) -> None:
    # A program that does not read its request is no error.
    with suppress(BrokenPipeError, ConnectionResetError):
        stdin.write(body)
        await stdin.drain()
    stdin.close()


async def _read(stream: asyncio.StreamReader, into: bytearray) -> None:
    while chunk := await stream.read(65_536):
        into += chunk
        if len(into) > STDOUT_LIMIT_BYTES:
            raise TooMuchOutput(f"printed more than {STDOUT_LIMIT_BYTES:,} bytes")


async def _read_tail(stream: asyncio.StreamReader, into: bytearray) -> None:
    while chunk := await stream.read(65_536):
        into += chunk
        del into[:-STDERR_KEPT_BYTES]


async def _exit_code(process: Process) -> int:
    """Wait for the program alone.

    Looks every so often, because `Process.wait` also waits for the pipes in
    some Python versions, and those may be held open by others.
    """
    pause = 0.001
    while process.returncode is None:
        await asyncio.sleep(pause)
        pause = min(2 * pause, 0.05)
    return process.returncode


async def _end_group(process: Process) -> None:
    """End whatever runs of a process group: asked first, then forced; wait for it."""
    group, polls = process.pid, 50
    running = _signalled(group, signal.SIGTERM)
    try:
        while running and polls:
            polls -= 1
            await asyncio.sleep(_TERM_GRACE_SECONDS / 50)
            running = _signalled(group, 0)
    finally:  # also when cancelled once more while waiting
        if running:
            _signalled(group, signal.SIGKILL)
    # A program that became another user cannot be ended, so it is not waited for.
    with suppress(TimeoutError):
        async with asyncio.timeout(_TERM_GRACE_SECONDS):
            await _exit_code(process)
    # What left the group may hold the pipes for ever; asyncio has no public way
    # to let go of them.
    process._transport.close()  # type: ignore[attr-defined]


def _signalled(group: int, number: int) -> bool:
    """Send a signal to a process group; False if there is none any more."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _text(raw: bytearray) -> str:
    return bytes(raw).decode(errors="replace")
