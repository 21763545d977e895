"""Files of a service in its state folder: record, locks; and its ports.

Whoever holds a service's lock owns it; the record says which process it is,
so that the next owner can adopt it. What a service is, how it is started and
when it is healthy is not known here.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from tierpool.devserver.processes import Identity
from tierpool.errors import ServerError

__all__ = [
    "LOCALHOST",
    "FileLocked",
    "Record",
    "free_port",
    "hold",
    "listens",
    "open_state",
    "own",
    "port_of",
    "sign",
]

LOCALHOST = "127.0.0.1"


class Record(BaseModel):
    """A running service as its state file describes it."""

    model_config = ConfigDict(frozen=True)

    address: str
    pid: int
    started: str
    owner: Identity
    """Process that started or adopted the service, and will stop it."""

    @property
    def process(self) -> Identity:
        """Identity of the service's process."""
        return Identity(pid=self.pid, started=self.started)

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Read a record; None if there is none or it is damaged."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            return None

    def write(self, path: Path) -> None:
        """Replace the record in one step."""
        fresh = path.with_name(f"{path.name}.new")
        fresh.write_text(self.model_dump_json(indent=2) + "\n")
        fresh.replace(path)


class FileLocked(Exception):
    """Another process holds the lock; `pid` is 0 if it has not said who it is."""

    def __init__(self, pid: int) -> None:
        """Keep the holder's PID."""
        super().__init__(pid)
        self.pid = pid


@contextlib.contextmanager
def hold(path: Path) -> Iterator[int]:
    """Hold a lock file until the block ends; yield its descriptor.

    The system frees the lock when the last process that has the descriptor
    ends, however it ends. A child gets it only through `spawn(keep=...)`.

    Raises:
        FileLocked: another process holds it.
    """
    if sys.platform == "win32":
        raise ServerError("the embedded servers need Linux or macOS")
    import fcntl

    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(lock, 20, 0).decode(errors="replace").strip()
            raise FileLocked(int(holder) if holder.isdigit() else 0) from None
        sign(lock, os.getpid())
        yield lock
    finally:
        os.close(lock)


def sign(lock: int, pid: int) -> None:
    """Write into a lock file who holds it."""
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{pid}\n".encode(), 0)


@contextlib.contextmanager
def own(folder: Path, name: str, what: str) -> Iterator[None]:
    """Be the one process that runs the service `name` of a state folder.

    Raises:
        ServerError: another process is; names its PID and the service's address.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(hold(folder / f"{name}.lock"))
        except FileLocked as locked:
            record = Record.read(folder / f"{name}.json")
            known = record is not None and record.owner.pid == locked.pid
            where = f"at {record.address}" if record and known else "(still starting)"
            raise ServerError(
                f"process {locked.pid} already runs {what} of {folder} {where}; "
                "stop that process, or use another state folder"
            ) from None
        yield


def open_state(folder: Path) -> Path:
    """Create a state folder if need be and return its full path.

    Raises:
        ServerError: it cannot be created or written.
    """
    full = folder.expanduser().resolve()
    try:
        full.mkdir(parents=True, exist_ok=True)
        (full / ".gitignore").write_text("*\n")
    except OSError as error:
        raise ServerError(
            f"cannot write the state folder {full}: {error.strerror}; use another one"
        ) from error
    return full


def listens(port: int) -> bool:
    """Tell whether something accepts connections on a loopback port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((LOCALHOST, port)) == 0


def free_port(*preferred: int, taken: Sequence[int] = ()) -> int:
    """Return the first preferred loopback port that is free, else any free one."""
    for port in (*preferred, 0):
        with socket.socket() as probe:
            # Ports of a server that has just ended are free, though not yet quiet.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOCALHOST, port))
            except OSError:
                continue
            found = int(probe.getsockname()[1])
        if found not in taken and not listens(found):
            return found
    raise ServerError(f"no free port on {LOCALHOST}")


def port_of(address: str) -> int:
    """Return the port of `host:port` or of a URL that ends with it."""
    return int(address.rpartition(":")[2])
