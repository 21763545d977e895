"""The caps of roles and of work in progress that a file asks for."""

from __future__ import annotations

from pathlib import Path

from tierpool import load_fleet
from tierpool.budget.claim_limits import claim_limits
from tierpool.contracts.ledger import Cap

FILE = """
version: 1
backpressure: {prs: 2}
tiers: {only: {model: local:m, free: true}}
agents:
  capped: {prompt: "a\\n", tier: only, max_instances: 0}
  rated:
    prompt: "a\\n"
    tier: only
    rate_limit: {requests_per_minute: 60, tokens_per_minute: 800, burst: 3}
  free: {prompt: "a\\n", tier: only}
flows:
  one: {initial: a, transitions: {"a -> b": {agent: free}, "b -> c": {agent: rated}},
        states: {b: {holds: prs}}}
"""


def test_every_limit_of_the_file_is_a_cap(tmp_path: Path) -> None:
    """Roles without limits have none."""
    path = tmp_path / "agents.yaml"
    path.write_text(FILE)

    caps = claim_limits(load_fleet(path)).caps

    assert {"wip:prs", "role:capped", "requests:rated", "tokens:rated"} == set(caps)
    assert (Cap(amount=2),) == caps["wip:prs"]
    assert (Cap(amount=0),) == caps["role:capped"]
    assert [60, 8, 3] == [cap.amount for cap in caps["requests:rated"]]


def test_run_knows_which_of_its_roles_are_limited(tmp_path: Path) -> None:
    """An item's snapshot has the limits of its own flow, after packing, too."""
    path = tmp_path / "agents.yaml"
    path.write_text(FILE)

    snapshot = load_fleet(path).snapshot.for_flow("one")
    known = type(snapshot).unpack(snapshot.pack())

    assert {"prs": 2} == known.backpressure
    assert known.roles["rated"].rate_limit is not None
    assert known.roles["free"].max_instances is None
