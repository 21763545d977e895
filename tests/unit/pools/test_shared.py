"""What `status` makes of the ledger, the claims and the leases of workers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from tests.leases import fleet_with

from tierpool.budget.limits import fleet_limits
from tierpool.cli.shared import shared_lines
from tierpool.contracts.claims import (
    ClaimAsk,
    ClaimLimits,
    ClaimsState,
    HeldClaim,
    ResourceUse,
    WaitingClaim,
)
from tierpool.contracts.ledger import (
    CALLS,
    NANO,
    USD,
    Cap,
    FleetLimits,
    LedgerState,
    LesseeState,
)
from tierpool.contracts.limits import AppliedLimits
from tierpool.contracts.reports import LeaseReport, WorkerReport
from tierpool.fleet import LoadedFleet
from tierpool.flow import Flow
from tierpool.pools.entities import Asked
from tierpool.pools.recover import closed_seconds
from tierpool.pools.shared import (
    SharedStatus,
    as_workers_know,
    claims_status,
    ledger_status,
)
from tierpool.pools.shared_notes import notes_on_shared
from tierpool.pools.wip import limit_of

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
AT = NOW.timestamp()
LIMITS = """
max_concurrent: 4
guardrails: {max_cost_per_hour_usd: 10, alert_threshold_usd: 8}
"""
RUNNING = "running"


def fleet() -> LoadedFleet:
    return fleet_with(LIMITS)


def state(**fields: Any) -> LedgerState:
    lessee = LesseeState(
        granted={USD: 3 * NANO, CALLS: 3},
        settled={USD: NANO},
        reserved={USD: NANO // 2, CALLS: 2},
        waits={CALLS: 1},
        valid_until=AT + 5,
    )
    given: dict[str, Any] = {
        "fleet": "leased",
        "effective": fleet_limits(fleet()),
        "lessees": {"a": lessee},
        "booked": {USD: (((int(AT / 60), NANO),),)},
    }
    return LedgerState(**given | fields)


def shared(ledger: Asked[LedgerState], claims: Asked[ClaimsState]) -> SharedStatus:
    return SharedStatus(ledger_status(ledger, NOW), claims_status(claims, NOW))


def running(answer: LedgerState) -> Asked[LedgerState]:
    return Asked("l", "running", answer)


NO_CLAIMS: Asked[ClaimsState] = Asked("c", "none", silence="there is none")


def worker(lease: LeaseReport | None = None, **fields: Any) -> WorkerReport:
    given = {"id": "w", "fleet": "leased", "started": NOW, "at": NOW, "host": "h"}
    return WorkerReport(**given | {"pid": 7, "lease": lease} | fields)


def said(
    status: SharedStatus, *reports: WorkerReport, applied: AppliedLimits | None = None
) -> str:
    return "\n".join(
        notes_on_shared(status, fleet(), reports, applied or AppliedLimits())
    )


class TestLedger:
    def test_numbers_of_a_running_one(self) -> None:
        status = ledger_status(running(state()), NOW)

        assert (Decimal(1), Decimal(2), Decimal(10), Decimal(8)) == (
            status.hour_usd,
            status.leased_usd,
            status.cap_usd,
            status.alert_usd,
        )
        calls = next(one for one in status.limits if one.resource == CALLS)
        assert ("max_concurrent", 2, 3, 4, 1) == (
            calls.name,
            calls.reserved,
            calls.leased,
            calls.cap,
            calls.waiting,
        )
        assert 1 == status.lessees

    def test_lines_for_people(self) -> None:
        lines = shared_lines(shared(running(state(alerting=True)), NO_CLAIMS))

        assert (
            "dollars of the hour: $1.0000 settled, $2.0000 leased, at most $10.0000, "
            "alert at $8.0000 (above it)"
        ) in lines
        assert "max_concurrent: 2 in use, 3 leased, of 4, 1 worker waits" in lines

    def test_small_amounts_are_not_shown_as_nothing(self) -> None:
        caps = {USD: (Cap(amount=10_000, seconds=3600.0, bucket=60.0),)}
        tiny = state(effective=FleetLimits(caps=caps), booked={}, lessees={})

        lines = shared_lines(shared(running(tiny), NO_CLAIMS))

        assert (
            "dollars of the hour: $0.0000 settled, $0.0000 leased, at most $0.00001"
        ) in lines

    def test_dead_lessee_counts_as_spent(self) -> None:
        grace = fleet_limits(fleet()).grace
        status = ledger_status(running(state()), NOW + timedelta(seconds=grace + 6))

        assert (0, Decimal(3), Decimal(0)) == (
            status.lessees,
            status.hour_usd,
            status.leased_usd,
        )

    def test_silent_one_is_known_from_workers(self) -> None:
        silent = ledger_status(Asked("l", "running", silence="nobody"), NOW)
        lease = LeaseReport(
            renewals=3, valid=True, hour_usd=Decimal(2), held_usd=Decimal(5)
        )

        filled = as_workers_know(silent, [worker(lease), worker()])

        assert (Decimal(2), Decimal(3), True) == (
            filled.hour_usd,
            filled.leased_usd,
            filled.told_by_workers,
        )
        assert silent == as_workers_know(silent, [worker(LeaseReport())])


class TestNotes:
    def test_nothing_to_say(self) -> None:
        assert "" == said(shared(running(state()), NO_CLAIMS), worker(LeaseReport()))

    def test_missing_ledger_names_its_limits(self) -> None:
        none: Asked[LedgerState] = Asked("l", "none", silence="there is none")
        told = said(shared(none, NO_CLAIMS))

        assert "no ledger keeps max_concurrent, max_cost_per_hour_usd yet" in told

    def test_ended_ledger_says_what_to_do(self) -> None:
        ended = Asked("l", "ended", state(), how="terminated", at=NOW)
        told = said(shared(ended, NO_CLAIMS))

        assert "the ledger was terminated at 2026-11-21 12:00:00 UTC" in told
        assert "run `tierpool ledger recover`" in told

    def test_closed_ledger_says_until_when(self) -> None:
        shut = state(closed_until=AT + 60, closed_why="recovered")
        told = said(shared(running(shut), NO_CLAIMS))

        assert "the ledger grants nothing until 2026-11-21 12:01:00 UTC" in told

    def test_ended_claims_name_what_they_limit(self) -> None:
        ended: Asked[ClaimsState] = Asked("c", "ended", how="failed", at=NOW)

        assert "the claims workflow was failed at" in said(
            shared(running(state()), ended)
        )

    def test_other_limits_than_in_the_file_are_named(self) -> None:
        other = fleet_limits(fleet_with(LIMITS.replace("4", "6").replace("10", "20")))
        status = shared(running(state(effective=other)), NO_CLAIMS)

        told = said(status)
        assert "max_concurrent is 6, here 4" in told
        assert "max_cost_per_hour_usd is $20, here $10" in told
        applied = AppliedLimits(id="x", shared=other)
        assert "" == said(status, applied=applied)

    def test_other_role_caps_than_in_the_file_are_named(self) -> None:
        claims = ClaimsState(
            resources={
                "role:a": ResourceUse(cap=2),
                "wip:prs": ResourceUse(),
                "requests:a": ResourceUse(cap=9),
            }
        )
        status = shared(running(state()), Asked("c", "running", claims))

        told = said(status)
        assert told.endswith("than this file: max_instances of a is 2, here not set")
        assert "" == said(status, applied=AppliedLimits(id="x", claims=ClaimLimits()))

    def test_workers_without_a_lease_are_named_by_reason(self) -> None:
        lost = LeaseReport(limited=True, trouble="no answer")
        idle = LeaseReport(limited=True)
        told = said(
            shared(running(state()), NO_CLAIMS),
            worker(lost),
            worker(lost),
            worker(idle),
        )

        assert "without a valid lease: h:7, h:7: no answer" == told


class TestClaims:
    def test_who_holds_and_who_waits(self) -> None:
        claims = ClaimsState(
            held=(
                HeldClaim(id="a/T-1", workflow="T-1", run="r", number=1, since=AT - 5),
            ),
            waiting=(
                WaitingClaim(
                    ask=ClaimAsk(workflow="T-2", run="s", number=1, id="a/T-2"),
                    arrival=1,
                    since=AT - 3,
                ),
            ),
            resources={
                "role:a": ResourceUse(used=1, cap=1, waiting=1),
                "wip:prs": ResourceUse(used=2, cap=8),
                "tokens:a": ResourceUse(used=5000, cap=60000),
                "role:free": ResourceUse(),
            },
        )
        lines = shared_lines(shared(running(state()), Asked("c", "running", claims)))

        assert "max_instances of a: 1 of 1 in use, 1 waiting" in lines
        assert "backpressure prs: 2 of 8 in use, 0 waiting" in lines
        assert (
            "tokens_per_minute of a: 5,000 of 60,000 in the last minute, 0 waiting"
            in lines
        )
        assert "claims held by: a/T-1 (5 s)" in lines
        assert "claims waiting: a/T-2 (3 s)" in lines
        assert not [line for line in lines if "free" in line]


class TestRecovery:
    LIMITS = [FleetLimits(caps={USD: (Cap(amount=1, seconds=3600),)}, grace=100)]

    def test_ledger_is_closed_until_everything_has_left_the_window(self) -> None:
        assert 60 + 100 + 3600 == closed_seconds("ledger", self.LIMITS)
        assert 60 + 100 == closed_seconds("ledger", [FleetLimits(grace=100)])

    def test_claims_are_closed_for_the_longest_call(self) -> None:
        longer = [*self.LIMITS, FleetLimits(grace=300)]

        assert 308 == closed_seconds("claims", longer)
        assert 68 == closed_seconds("claims", [FleetLimits(grace=5)])

    def test_hold_of_a_state(self) -> None:
        flow = Flow.model_validate(
            {
                "initial": "open",
                "transitions": {"open -> review": {}, "review -> done": {}},
                "states": {"review": {"holds": "prs"}, "done": {"holds": "prs"}},
            }
        )

        assert ("", "prs", "", "") == (
            limit_of(flow, "open"),
            limit_of(flow, "review"),
            limit_of(flow, "done"),
            limit_of(None, "review"),
        )
