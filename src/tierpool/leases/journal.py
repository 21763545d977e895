"""What a process has reserved and settled, where its end cannot take it away.

A file in shared memory, written before each call and after it. Its owner holds
a lock for as long as it lives, so that whoever gets the lock knows that the
owner is dead, and can tell the ledger what it left. Without a journal nothing
is wrong, but what a killed process held stays spent until its window passes.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

__all__ = ["Journal", "Left", "orphans"]

_SLOT = 16 * 1024
_HEAD = struct.Struct("<QII")
"""Number of the entry, its length, its check sum."""
_SUFFIX = ".lease"
_BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Left:
    """What a dead process held last."""

    lessee: str
    settled: Mapping[str, int]
    reserved: Mapping[str, int]
    path: Path
    file: IO[bytes]
    """Open and locked."""

    def forget(self) -> None:
        """Delete it: the ledger has taken it."""
        with suppress(OSError):
            self.path.unlink()
        self.file.close()

    def leave(self) -> None:
        """Let go of it: somebody tries again later."""
        self.file.close()


class Journal:
    """One process's file: two slots that are written by turns."""

    def __init__(self, folder: Path, lessee: str) -> None:
        """Create and lock the file.

        Raises:
            OSError: if the folder cannot be written to.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._lessee = lessee
        self._path = folder / f"{lessee}{_SUFFIX}"
        new = folder / f"{lessee}.new"
        self._file = new.open("w+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # a disk that is full says so here, and not by a signal at a later write
            self._file.write(bytes(2 * _SLOT))
            self._file.flush()
            self._memory = mmap.mmap(self._file.fileno(), 2 * _SLOT)
            self._number = 0
            self.write({}, {})
            new.rename(self._path)  # from here on others see it: locked and whole
        except OSError:
            with suppress(OSError):
                new.unlink()
            with suppress(OSError):  # what is buffered may not fit either
                self._file.close()
            raise

    def write(self, settled: Mapping[str, int], reserved: Mapping[str, int]) -> None:
        """Write what is true now; a process that is killed meanwhile wrote nothing.

        Raises:
            ValueError: if there are too many resources for it.
        """
        entry = json.dumps([self._lessee, _boot(), settled, reserved]).encode()
        if len(entry) > _SLOT - _HEAD.size:
            raise ValueError(f"{len(settled)} resources do not fit into the journal")
        self._number += 1
        at = (self._number % 2) * _SLOT
        self._memory[at + _HEAD.size : at + _HEAD.size + len(entry)] = entry
        head = _HEAD.pack(self._number, len(entry), zlib.crc32(entry))
        self._memory[at : at + _HEAD.size] = head

    def close(self) -> None:
        """Delete the file: nothing is left to tell."""
        with suppress(OSError):
            self._path.unlink()
        self.abandon()

    def abandon(self) -> None:
        """Let go of the file as if the process had ended."""
        self._memory.close()
        self._file.close()


def orphans(folder: Path) -> Iterator[Left]:
    """Yield what dead processes of this machine left, each locked for the caller."""
    for path in sorted(folder.glob(f"*{_SUFFIX}")):
        try:
            file = path.open("r+b")
        except OSError:
            continue  # somebody was quicker
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()  # its owner lives
            continue
        left = _read(path, file)
        if left is None:
            file.close()
            continue
        yield left


def _read(path: Path, file: IO[bytes]) -> Left | None:
    """Return the youngest whole entry; what is of an earlier boot is deleted.

    After the machine's own end the file may lack what happened last.
    """
    found: list[tuple[int, bytes]] = []
    data = file.read(2 * _SLOT)
    if not path.exists():
        return None
    for at in range(0, len(data) - _HEAD.size, _SLOT):
        number, length, check = _HEAD.unpack_from(data, at)
        entry = data[at + _HEAD.size : at + _HEAD.size + length]
        if number and zlib.crc32(entry) == check:
            found.append((number, entry))
    try:
        lessee, boot, settled, reserved = json.loads(max(found)[1])
    except ValueError:
        return None
    if boot != _boot():
        with suppress(OSError):
            path.unlink()
        return None
    return Left(lessee, settled, reserved, path, file)


_known_boot: list[str] = []


def _boot() -> str:
    """Return what tells this boot of the machine from others."""
    if not _known_boot:
        try:
            _known_boot.append(_BOOT.read_text().strip())
        except OSError:
            _known_boot.append(f"unknown-{os.getppid()}")
    return _known_boot[0]
