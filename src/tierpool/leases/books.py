"""The journals of this machine: the process's own, and what dead ones left."""

from __future__ import annotations

import hashlib
import uuid
from pathlib import Path

import structlog
from temporalio.client import Client

from tierpool.contracts.ledger import USD, Counter, Renewal
from tierpool.fleet import LoadedFleet
from tierpool.leases.account import Account
from tierpool.leases.journal import Journal, Left, orphans

__all__ = ["Books", "last_renewal"]

_LAST = 1 << 62
"""Number of a dead lessee's last renewal: above all of its own."""

_log = structlog.get_logger()


class Books:
    """One process's journal; without a folder to write to it keeps none."""

    def __init__(self, fleet: LoadedFleet, client: Client) -> None:
        """Take the place: journals of another server or fleet are not read."""
        config = client.service_client.config
        place = f"{config.target_host} {client.namespace} {fleet.name}"
        name = hashlib.sha256(place.encode()).hexdigest()[:12]
        self._folder: Path = fleet.path.parent / ".tierpool" / "leases" / name
        self._journal: Journal | None = None
        self._told = False
        self.lessee = ""

    def begin(self) -> str:
        """Be a new lessee, with a journal of its own; return its ID."""
        self.close()
        self.lessee = uuid.uuid4().hex
        try:
            self._journal = Journal(self._folder, self.lessee)
        except OSError as error:
            self._without(str(error))
        return self.lessee

    def write(self, account: Account) -> None:
        """Write what the account has settled and reserved."""
        if self._journal is None:
            return
        settled, reserved = {}, {}
        for name, holding in account.holdings.items():
            settled[name] = holding.settled
            if holding.reserved:
                reserved[name] = holding.reserved
        try:
            self._journal.write(settled, reserved)
        except ValueError as error:
            self.close()
            self._without(str(error))

    def close(self) -> None:
        """Delete the own journal."""
        if self._journal is not None:
            self._journal.close()
        self._journal = None

    def abandon(self) -> None:
        """Leave the own journal for others to tell of."""
        if self._journal is not None:
            self._journal.abandon()
        self._journal = None

    def left(self) -> list[Left]:
        """Return what dead processes left; each is to be forgotten or left alone."""
        return list(orphans(self._folder)) if self._folder.is_dir() else []

    def _without(self, reason: str) -> None:
        if not self._told:
            _log.warning("lease.no_journal", reason=reason)
        self._told = True


def last_renewal(left: Left) -> Renewal:
    """Tell for a dead process what it used: all that it held for calls under way.

    Its calls are dead with it, so it runs none; what they cost nobody knows.
    """
    spent = dict(left.settled)
    spent[USD] = spent.get(USD, 0) + left.reserved.get(USD, 0)
    return Renewal(
        lessee=left.lessee,
        number=_LAST,
        counters={n: Counter(settled=amount) for n, amount in spent.items()},
        closing=True,
    )
