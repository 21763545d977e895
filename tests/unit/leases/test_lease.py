"""Corners of a process's lease: what may not stop it, and what may not be lost."""

import asyncio
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.leases import fleet_with, lease_of

from tierpool.budget.ledger import Ledger
from tierpool.contracts.ledger import (
    CALLS,
    USD,
    Cap,
    Counter,
    FleetLimits,
    LedgerState,
    Renewal,
    requests_of,
    tokens_of,
)
from tierpool.errors import LeaseShort
from tierpool.leases import Ask
from tierpool.leases.account import Account
from tierpool.leases.journal import Journal
from tierpool.leases.keeper import Keeper
from tierpool.leases.lease import Blocked, Lease
from tierpool.leases.needs import Habits

NANO = "leased-nano"
TOKENS = tokens_of(NANO)


def lease_under(caps: dict[str, tuple[Cap, ...]]) -> Lease:
    return Lease(FleetLimits(caps=caps), Habits.of(fleet_with()))


async def test_keeper_survives_whatever_a_renewal_raises(tmp_path: Path) -> None:
    """It would end in silence, and no paid call would ever begin again."""
    fleet = fleet_with("max_concurrent: 3")
    lease = lease_under({CALLS: (Cap(amount=3),)})
    told: list[str] = []
    keeper = Keeper(fleet, lease, lambda: 0.0, lambda: told.append(""))
    config = SimpleNamespace(target_host="nowhere:1")
    broken: Any = SimpleNamespace(
        service_client=SimpleNamespace(config=config), namespace="default"
    )  # every call of it raises an AttributeError

    keeping = asyncio.create_task(keeper.keep(broken))
    async with asyncio.timeout(5):
        await keeper.asked.wait()
        await asyncio.sleep(0)

    assert not keeping.done()
    assert "AttributeError" in keeper.trouble
    keeping.cancel()
    with suppress(asyncio.CancelledError):
        await keeping
    await keeper.give_up(broken)


async def test_tool_is_not_held_back_by_money_that_others_of_its_queue_lack() -> None:
    """Calls under governed() of a model without a tier share the tools' queue."""
    agent = lease_of("max_concurrent: 3\nguardrails: {max_cost_per_hour_usd: 1}")
    lease, now = agent._lease, agent.clock()
    lease.account.valid_until = now + 100
    lease.account.holdings.clear()
    lease.account._of(CALLS).granted = 1
    lease.account._of(USD).settled = 5  # a call cost more than its reservation
    lease.blocked[""] = Blocked(USD, now + 1000)

    held = await agent.reserve(Ask(flow="review", role="tests"))
    assert held.needs[CALLS] == 1
    held.settle(None)
    with pytest.raises(LeaseShort) as caught:
        await agent.reserve(Ask(flow="review", role="writer", usd=Decimal("0.1")))
    assert caught.value.limit == USD


def test_rate_without_a_limit_is_not_told_when_one_is_set() -> None:
    account = Account()
    taken = account.take({USD: 5, CALLS: 1, requests_of(NANO): 1, TOKENS: 9}, 0.0)
    account.end(taken, {USD: 4, TOKENS: 3}, 0.0, 1.0)

    account.capped = frozenset({requests_of(NANO), TOKENS})

    assert account.counters(1.0) == {USD: Counter(settled=4)}


def test_correction_does_not_outlast_what_it_corrects() -> None:
    """Two renewals take differently long; else the window would hold less than nothing."""
    cap = Cap(amount=100, seconds=60.0, bucket=0.5)
    ledger = Ledger(LedgerState())
    limits = FleetLimits(caps={TOKENS: (cap,)})
    used = Counter(settled=100, used=((1, 100, 100),))
    ledger.renew(
        Renewal(lessee="a", number=1, counters={TOKENS: used}, limits=limits), 1000.1
    )
    corrected = Counter(settled=10, used=((2, 1100, -90),))
    late = 1001.1 + 0.8
    ledger.renew(Renewal(lessee="a", number=2, counters={TOKENS: corrected}), late)

    moments = [1000 + n / 10 for n in range(30, 700)]
    assert min(ledger.windows.used(TOKENS, now) for now in moments) == 0


def test_uses_and_corrections_are_told_apart() -> None:
    account = Account(capped=frozenset({TOKENS}))
    account.spend(TOKENS, 50, 10.0)
    account.spend(TOKENS, -20, 10.02)
    account.spend(TOKENS, -20, 10.08)
    account.spend(TOKENS, 50, 10.09)

    used = account.counters(11.0)[TOKENS].used

    assert [(ago, amount) for _, ago, amount in used] == [
        (1000, 50),
        (980, -40),
        (910, 50),
    ]


def test_lessee_and_ledger_agree_until_when_a_lease_is_valid() -> None:
    """One lessee more may make the period, and with it the validity, longer."""
    ledger = Ledger(LedgerState())
    limits = FleetLimits(caps={CALLS: (Cap(amount=1),)})
    for n in range(130):
        name = f"lessee-{n}"
        answer = ledger.renew(Renewal(lessee=name, number=1, limits=limits), 50.0)
        assert 50.0 + answer.valid <= ledger.lessees[name].valid_until


def test_full_disk_leaves_nothing_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that the disk has no room for would kill the process at a later write."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no device that is always full")
    open_file = Path.open

    def full(path: Path, mode: str) -> Any:
        open_file(path, mode).close()
        return open_file(Path("/dev/full"), "wb")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OSError, match="No space left"):
        Journal(tmp_path, "lessee")
    assert not list(tmp_path.iterdir())
