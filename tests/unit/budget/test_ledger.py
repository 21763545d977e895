"""The ledger and its lessees, played through with losses, repetitions and deaths."""

import random
from dataclasses import dataclass, field

import pytest
from tests.leases import fleet_with

from tierpool.budget.ledger import Ledger
from tierpool.contracts.ledger import (
    CALLS,
    USD,
    Cap,
    FleetLimits,
    LedgerState,
    requests_of,
    tokens_of,
)
from tierpool.leases.lease import Lease
from tierpool.leases.needs import Habits

QUEUE = "leased-nano"
CAPS = {
    USD: (Cap(amount=1000, seconds=60.0, bucket=1.0),),
    CALLS: (Cap(amount=6),),
    requests_of(QUEUE): (Cap(amount=40, seconds=10.0, bucket=0.5),),
    tokens_of(QUEUE): (
        Cap(amount=4000, seconds=10.0, bucket=0.5),
        Cap(amount=900, seconds=1.0, bucket=0.1, paces=True),
    ),
}
LIMITS = FleetLimits(caps=CAPS, grace=5.0)


@dataclass
class Call:
    """A call under way; at its end the provider charges it."""

    worker: "Worker"
    lease: object
    needs: dict[str, int]
    began: float
    ends: float
    cost: int
    tokens: int


@dataclass
class Provider:
    """The truth: what was charged, and when."""

    charged: list[tuple[float, int]] = field(default_factory=list)
    begun: list[tuple[float, int]] = field(default_factory=list)
    under_way: list[Call] = field(default_factory=list)
    peak: int = 0

    def within(self, what: list[tuple[float, int]], seconds: float) -> int:
        """Return the most that fell into any window of so many seconds."""
        most = first = total = 0
        for at, amount in what:
            total += amount
            while what[first][0] <= at - seconds:
                total -= what[first][1]
                first += 1
            most = max(most, total)
        return most


class Worker:
    """A process with a lease, on a clock of its own."""

    def __init__(self, dice: random.Random, now: float) -> None:
        self.dice, self.skew = dice, dice.uniform(-1e4, 1e4)
        self.lessee = f"lessee-{dice.random()}"
        fleet = fleet_with()
        self.lease = Lease(LIMITS, Habits.of(fleet))
        self.next_renewal = now

    def clock(self, now: float) -> float:
        return now + self.skew

    def begin(self, provider: Provider, now: float) -> None:
        """Begin a call if the lease allows it, else wait for a renewal."""
        at, lease = self.clock(now), self.lease
        worst = self.dice.randint(20, 120)
        estimate = self.dice.randint(50, 400)
        needs = {
            USD: worst,
            CALLS: 1,
            requests_of(QUEUE): 1,
            tokens_of(QUEUE): estimate,
        }
        lease.called_at = at
        if lease.short_of(needs, at):
            lease.waiting = [(QUEUE, needs)]
            lease.hungry(QUEUE, at)
            return
        lease.waiting = []
        lease.account.take(needs, at)
        lease.habits[QUEUE].began(needs, at)
        # tokens are not estimated too low here: that is a rate's own risk
        call = Call(
            self, lease.account, needs, at, now + self.dice.uniform(0.1, 4.0),
            self.dice.randint(0, worst), self.dice.randint(1, estimate),
        )  # fmt: skip
        provider.under_way.append(call)
        provider.peak = max(provider.peak, len(provider.under_way))
        provider.begun.append((now, call.tokens))

    def renew(self, ledger: Ledger, now: float) -> None:
        """Renew, but the way there and back may lose it, repeat it, or be long."""
        at, lease = self.clock(now), self.lease
        sent = lease.renewal(self.lessee, "", at, 1.0)
        chance = self.dice.random()
        if chance < 0.1:
            lease.failed()
            return
        answer = ledger.renew(sent, now)
        if chance < 0.2:
            ledger.renew(sent, now)
        if chance < 0.3:
            lease.failed()
            return
        if answer.unknown:
            lease.begin_anew()
            self.lessee = f"lessee-{self.dice.random()}"
            return
        lease.answered(sent, answer, at)


def play(seed: int, seconds: float, deaths: float) -> Provider:
    dice = random.Random(seed)
    ledger, provider = Ledger(LedgerState(fleet="leased")), Provider()
    now = 1_000_000.0
    workers = [Worker(dice, now) for _ in range(4)]
    stopped: dict[Worker, float] = {}
    end = now + seconds
    while now < end:
        now += 0.05
        end_calls(provider, now)
        for worker in list(workers):
            if stopped.get(worker, 0.0) > now:
                continue
            chance = dice.random()
            if chance < deaths:
                die(worker, workers, provider, dice, now)
                continue
            if chance < 2 * deaths:
                stopped[worker] = now + dice.uniform(1, 30)  # SIGSTOP
                continue
            if dice.random() < 0.4:
                worker.begin(provider, now)
            if now >= worker.next_renewal:
                worker.renew(ledger, now)
                worker.next_renewal = now + dice.uniform(0.1, 1.0)
        if dice.random() < 0.01:
            ledger = Ledger(ledger.state())  # continue-as-new
    return provider


def end_calls(provider: Provider, now: float) -> None:
    """Let the calls end whose time is over."""
    for call in [c for c in provider.under_way if c.ends <= now]:
        provider.under_way.remove(call)
        provider.charged.append((call.ends, call.cost))
        if call.lease is call.worker.lease.account:
            used = {USD: call.cost, tokens_of(QUEUE): call.tokens}
            at = call.worker.clock(now)
            call.worker.lease.account.end(call.needs, used, call.began, at)


def die(
    worker: Worker, workers: list[Worker], provider: Provider, dice: random.Random,
    now: float,
) -> None:  # fmt: skip
    """Kill a process: its calls end, and are charged all the same."""
    workers.remove(worker)
    workers.append(Worker(dice, now))
    for call in [c for c in provider.under_way if c.worker is worker]:
        provider.under_way.remove(call)
        provider.charged.append((now, call.cost))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("deaths", [0.0, 0.002])
def test_no_window_is_ever_overspent(seed: int, deaths: float) -> None:
    """Whatever is lost, repeated, stopped or killed, the provider sees no more than the caps."""
    provider = play(seed, 150.0, deaths)

    assert provider.within(sorted(provider.charged), 60.0) <= 1000
    assert provider.peak <= 6
    assert provider.within([(at, 1) for at, _ in provider.begun], 10.0) <= 40
    assert provider.within(provider.begun, 10.0) <= 4000
    assert provider.charged, "nothing was ever begun"
    if not deaths:
        assert sum(cost for _, cost in provider.charged) > 1000
