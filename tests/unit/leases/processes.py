"""Worker processes that poll queues under their leases, played through without I/O."""

import random
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.leases import fleet_with

from tierpool.budget.ledger import Ledger
from tierpool.contracts.ledger import (
    CALLS,
    USD,
    FleetLimits,
    LedgerState,
    requests_of,
    tokens_of,
)
from tierpool.leases.lease import Lease
from tierpool.leases.needs import Habits

NANO, LARGE, TOOLS = "leased-nano", "leased-large", ""
STEP = 0.05


@dataclass(eq=False)
class Job:
    """A call that has to begin some time."""

    queue: str
    usd: int
    cost: int
    seconds: float
    since: float
    came: float = 0.0
    """When a process got it last."""
    again: float = 0.0
    """When it comes back to its queue after it was sent back."""

    @property
    def needs(self) -> dict[str, int]:
        needs = {USD: self.usd, CALLS: 1}
        if self.queue:
            needs |= {requests_of(self.queue): 1, tokens_of(self.queue): 300}
        return needs


@dataclass(eq=False)
class Running:
    job: Job
    taken: dict[str, int]
    began: float
    ends: float


class Process:
    """What gate, slots, agent and keeper of one process do, as far as it counts here."""

    def __init__(self, world: "World", queues: Sequence[str]) -> None:
        self.world, self.queues = world, queues
        self.lease = Lease(world.limits, Habits.of(fleet_with()))
        self.lessee = f"lessee-{len(world.processes)}"
        self.polls = dict.fromkeys(queues, 0)
        self.waiting: list[Job] = []
        self.running: list[Running] = []
        self.renewals = 0

    def step(self) -> None:
        now, lease = self.world.now, self.lease
        for call in [call for call in self.running if call.ends <= now]:
            self.running.remove(call)
            lease.called_at, lease.changed = now, True
            lease.account.end(call.taken, {USD: call.job.cost}, call.began, now)
            lease.account.shrink(lease.last.most)
        for job in list(self.waiting):
            self.begin(job)
        for queue in self.queues:
            self.poll(queue)
        jitter = self.world.dice.uniform(0.8, 1.2)
        if max(lease.due(now, jitter), lease.sent_at + STEP - now) <= 0:
            self.renewals += 1
            sent = lease.renewal(self.lessee, "", now, 1.0)
            lease.answered(sent, self.world.ledger.renew(sent, now), now)

    def poll(self, queue: str) -> None:
        waiting = sum(1 for job in self.waiting if job.queue == queue)
        running = sum(1 for call in self.running if call.job.queue == queue)
        while self.polls[queue] + waiting + running < 8:
            if not self.lease.covers(
                queue, self.polls[queue] + waiting, self.world.now
            ):
                break
            self.polls[queue] += 1

    def take(self, job: Job) -> None:
        self.polls[job.queue] -= 1
        job.came = self.lease.called_at = self.world.now
        self.waiting.append(job)
        self.begin(job)

    def begin(self, job: Job) -> None:
        """Begin a call, let it wait for a renewal, or send it back."""
        now, lease, key = self.world.now, self.lease, (job.queue, job.needs)
        if key in lease.waiting:
            lease.waiting.remove(key)
        habits = lease.habits.get(job.queue)
        if not lease.short_of(job.needs, now):
            self.waiting.remove(job)
            taken = lease.account.take(job.needs, now)
            lease.changed = True
            if habits is not None:
                habits.began(job.needs, now)
            self.running.append(Running(job, taken, now, now + job.seconds))
            self.world.begun(job)
            return
        blocked = lease.hinders(job.queue, job.needs, now)
        if now < job.came + 1.0 and not (blocked and blocked.until > job.came + 1.0):
            lease.waiting.append(key)
            return
        if habits is not None:
            habits.sent_back(job.needs)
        lease.hungry(job.queue, now)
        self.waiting.remove(job)
        self.world.sent_back += 1
        job.again = now + max(2.0, blocked.until - now if blocked else 0.0)
        self.world.timers.append(job)


class World:
    """The ledger, the server's queues, and the processes."""

    def __init__(
        self, limits: FleetLimits, processes: Sequence[Sequence[str]], seed: int = 1
    ) -> None:
        self.dice, self.now, self.limits = random.Random(seed), 0.0, limits
        self.ledger = Ledger(LedgerState(fleet="leased"))
        self.backlog: dict[str, deque[Job]] = {}
        self.timers: list[Job] = []
        self.count: Counter[str] = Counter()
        self.longest: dict[str, float] = {}
        """Seconds that a call of each queue waited at most until it began."""
        self.sent_back = self.peak = 0
        self.processes: list[Process] = []
        for queues in processes:
            self.processes.append(Process(self, queues))

    @property
    def left(self) -> int:
        """Calls that have not begun."""
        here = sum(len(process.waiting) for process in self.processes)
        return here + len(self.timers) + sum(map(len, self.backlog.values()))

    @property
    def renewals(self) -> int:
        return sum(process.renewals for process in self.processes)

    def add(self, queue: str, usd: int, cost: int) -> None:
        job = Job(queue, usd, cost, self.dice.uniform(0.2, 2.0), self.now)
        self.backlog.setdefault(queue, deque()).append(job)

    def begun(self, job: Job) -> None:
        self.count[job.queue] += 1
        waited = self.now - job.since
        self.longest[job.queue] = max(waited, self.longest.get(job.queue, 0.0))
        self.peak = max(self.peak, sum(len(p.running) for p in self.processes))

    def play(self, seconds: float, arrive: Callable[["World"], None]) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += STEP
            arrive(self)
            for job in [job for job in self.timers if job.again <= self.now]:
                self.timers.remove(job)
                self.backlog.setdefault(job.queue, deque()).append(job)
            self.dispatch()
            for process in self.processes:
                process.step()
            if self.dice.random() < 0.005:
                self.ledger = Ledger(self.ledger.state())  # continue-as-new

    def dispatch(self) -> None:
        """Give what waits to those who poll."""
        for queue, jobs in self.backlog.items():
            polling = [p for p in self.processes for _ in range(p.polls.get(queue, 0))]
            self.dice.shuffle(polling)
            for process in polling[: len(jobs)]:
                process.take(jobs.popleft())
