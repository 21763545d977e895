"""Commands as processes of their own that do not import everything once more.

Most of a short command's time is the import of what it needs. So one process
imports it and forks for each command: arguments, folder, environment and standard
streams are the command's own. As a program, this file is that process.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

_FILES = ("stdin", "stdout", "stderr")


@dataclass
class Ran:
    status: int
    out: str
    err: str

    @property
    def json(self) -> object:
        (line,) = self.out.splitlines()
        return json.loads(line)


@dataclass
class Commands:
    """The process that forks, and the commands that have not ended."""

    process: asyncio.subprocess.Process
    _running: dict[int, asyncio.Future[int]] = field(default_factory=dict)
    _number: int = 0

    async def run(
        self, args: tuple[str, ...], folder: Path, env: Mapping[str, str], stdin: str
    ) -> Ran:
        """Run `tierpool` with these arguments and wait for its end."""
        assert self.process.stdin is not None
        self._number += 1
        number, ended = self._number, asyncio.get_running_loop().create_future()
        self._running[number] = ended
        with TemporaryDirectory() as streams:
            (Path(streams) / "stdin").write_text(stdin)
            request = (number, args, str(folder), dict(env), streams)
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            await self.process.stdin.drain()
            status = await ended
            out, err = ((Path(streams) / name).read_bytes() for name in _FILES[1:])
        return Ran(status, out.decode(), err.decode())

    async def listen(self) -> None:
        """Pass on with which status each command has ended."""
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            number, status = map(int, line.split())
            self._running.pop(number).set_result(status)
        for ended in self._running.values():
            ended.set_exception(
                RuntimeError("the process that starts commands is gone")
            )


@asynccontextmanager
async def commands() -> AsyncIterator[Commands]:
    """Start the process that forks; it ends with the block or with this process."""
    # -P: the modules beside this file are none of its own
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", __file__),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    made = Commands(process)
    listening = asyncio.create_task(made.listen())
    try:
        yield made
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()
        await listening


def _serve() -> None:
    """Fork for each request, until there are no more."""
    import tierpool.cli.main  # noqa: F401  so that no command has to

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the keepers
    for line in sys.stdin.buffer:
        if os.fork() == 0:
            _keep(*json.loads(line))


def _keep(number: int, *request: Any) -> NoReturn:
    """Wait for one command, and tell its end in one write."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid == 0:
        _command(*request)
    _, status = os.waitpid(pid, 0)
    os.write(1, f"{number} {os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def _command(
    args: list[str], folder: str, env: dict[str, str], streams: str
) -> NoReturn:
    """Become the command."""
    modes = (os.O_RDONLY, os.O_WRONLY | os.O_CREAT, os.O_WRONLY | os.O_CREAT)
    for number, (name, mode) in enumerate(zip(_FILES, modes, strict=True)):
        os.dup2(os.open(Path(streams) / name, mode), number)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115  the old one has read ahead
    os.environ.clear()
    os.environ.update(env)
    os.chdir(folder)
    sys.path.insert(0, folder)  # as `python -m` has it
    sys.argv = ["tierpool", *args]
    from tierpool.cli import entry

    entry()
    raise AssertionError("a command ends its process")


if __name__ == "__main__":
    _serve()
