"""What a killed process leaves behind, and who may read it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tierpool.contracts.ledger import CALLS, USD
from tierpool.leases import journal as module
from tierpool.leases.books import last_renewal
from tierpool.leases.journal import Journal, orphans

OWNER = """
import sys, time
from pathlib import Path
from tierpool.leases.journal import Journal
journal = Journal(Path(sys.argv[1]), "dead")
for n in range(1000):
    journal.write({"usd": n}, {"usd": 7, "calls": 1})
print("written", flush=True)
time.sleep(60)
"""


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """A folder with the journal of a process that was killed."""
    command = [sys.executable, "-c", OWNER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        owner.stdout.readline()
        assert not list(orphans(tmp_path)), "its owner lives"
        os.kill(owner.pid, signal.SIGKILL)
    return tmp_path


def test_the_last_entry_of_a_killed_process_is_found(killed: Path) -> None:
    [left] = orphans(killed)

    left.leave()
    assert left.lessee == "dead"
    assert left.settled == {USD: 999}
    assert left.reserved == {USD: 7, CALLS: 1}


def test_it_is_read_by_one_at_a_time_until_it_is_forgotten(killed: Path) -> None:
    [left] = orphans(killed)
    assert not list(orphans(killed))

    left.leave()
    [again] = orphans(killed)
    again.forget()

    assert not list(killed.iterdir())


def test_what_was_under_way_is_told_as_spent(killed: Path) -> None:
    """Nobody knows what those calls cost; they do not run any more."""
    [left] = orphans(killed)
    left.leave()
    told = last_renewal(left)

    assert told.closing
    assert told.counters[USD].settled == 1006
    assert CALLS not in told.counters


def test_half_an_entry_does_not_count(killed: Path) -> None:
    """Killed while it wrote: the call of that entry had not begun yet."""
    [path] = killed.iterdir()
    data = bytearray(path.read_bytes())
    newest = data.index(b'"usd": 999')
    data[newest + 7 : newest + 10] = b"998"
    path.write_bytes(bytes(data))

    [left] = orphans(killed)

    left.leave()
    assert left.settled == {USD: 998}


def test_journal_of_an_earlier_boot_is_not_trusted(
    killed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine's own end may have lost what was written last."""
    monkeypatch.setattr(module, "_known_boot", ["another"])

    assert not list(orphans(killed))
    assert not list(killed.iterdir())


def test_living_process_is_left_alone_and_leaves_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "living")
    journal.write({USD: 1}, {})
    assert not list(orphans(tmp_path))

    journal.close()

    assert not list(tmp_path.iterdir())


def test_too_many_resources_are_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "living")
    with pytest.raises(ValueError, match="do not fit"):
        journal.write({f"tokens:{'x' * 50}-{n}": n for n in range(500)}, {})
    journal.close()
