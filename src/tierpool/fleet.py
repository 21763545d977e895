"""The whole agents.yaml (`Fleet`) and what a run knows of it (`FleetSnapshot`).

A snapshot is everything that a running item may depend on: roles, tiers,
prices, prompt texts, the flow. It is packed into the item's input once and
never changes under it.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from tierpool.blueprint import (
    MOST_INSTANCES,
    AgentType,
    Blueprint,
    ConfigModel,
    Duration,
    Guardrails,
    Name,
    PoolSpec,
    Price,
    RateLimit,
    Tier,
    TierPolicy,
)
from tierpool.contracts import PartRef, Route
from tierpool.errors import PayloadTooLarge, Problem, UnknownName
from tierpool.flow import Flow

__all__ = [
    "SNAPSHOT_LIMIT_BYTES",
    "TOOLS",
    "Fleet",
    "FleetSnapshot",
    "LoadedFleet",
    "ModelSnapshot",
    "RoleSnapshot",
    "TierSnapshot",
    "fixed_parts",
    "pool_specs",
]

TOOLS = "tools"
"""The pool of command and python roles without a tier; a reserved tier name."""

SNAPSHOT_LIMIT_BYTES = 64 * 1024
"""Most that a packed snapshot may weigh: it stands in every item's history."""


class Fleet(ConfigModel):
    """One agents.yaml, as written."""

    version: Literal[1]
    """Version of the file format."""
    fleet: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")] = "tierpool"
    """Prefix of task queues and entity IDs."""
    max_concurrent: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Agent calls in flight in the whole fleet."""
    backpressure: dict[Name, Annotated[int, Field(ge=0, le=1_000_000)]] = {}
    """WIP limits by name; states refer to them with `holds`."""
    guardrails: Guardrails = Guardrails()
    """Limits of spending."""
    tiers: Annotated[dict[Name, Tier], Field(min_length=1, max_length=32)]
    """Classes of capability and cost, cheapest first."""
    agents: Annotated[dict[Name, Blueprint], Field(min_length=1)]
    """Blueprints: how each role is filled."""
    flows: dict[Name, Flow] = {}
    """What work items move through."""
    workdir: str | None = None
    """Folder in which each work item has a folder of its own for command roles."""


class ModelSnapshot(ConfigModel):
    """One model that a tier can use, with the price that items are charged."""

    model: str
    queue: str
    price: Price
    base_url: str | None = None
    api_key_env: str | None = None


class TierSnapshot(ConfigModel):
    """A tier as a run knows it; `models[0]` is its own, the others fallbacks."""

    models: tuple[ModelSnapshot, ...]
    max_output_tokens: int
    temperature: float | None = None
    timeout: Duration = timedelta(minutes=5)
    failover_after: Duration = timedelta(minutes=10)


class RoleSnapshot(ConfigModel):
    """A role as a run knows it."""

    type: AgentType = "llm"
    tier: TierPolicy = TierPolicy()
    queue: str = ""
    """Task queue of a tool; empty for llm and human roles."""
    classifier: Literal["rules", "llm"] = "rules"
    prompt: PartRef | None = None
    output: PartRef | None = None
    max_output_tokens: int | None = None
    timeout: Duration | None = None
    max_attempts: int = 5
    run: tuple[str, ...] = ()
    pass_env: tuple[str, ...] = ()
    call: str = ""
    conversation: bool = False
    max_instances: int | None = None
    """Instances in flight in the whole fleet; None: no claim is needed for one."""
    rate_limit: RateLimit | None = None
    """What the role may use in the whole fleet."""


class FleetSnapshot(ConfigModel):
    """What a run knows; immutable under a running item."""

    fleet: str
    tiers: dict[str, TierSnapshot]
    """Cheapest first."""
    roles: dict[str, RoleSnapshot]
    flows: dict[str, Flow] = {}
    parts: dict[str, str] = {}
    """Prompts and schemas by hash."""
    guardrails: Guardrails = Guardrails()
    backpressure: dict[str, int] = {}
    """WIP limits that states hold."""
    leaves_costs: bool = False
    """Whether runs leave their costs in their memo at the end; older ones did not."""

    def role(self, name: str) -> RoleSnapshot:
        """Return a role.

        Raises:
            UnknownName: with the nearest known role.
        """
        try:
            return self.roles[name]
        except KeyError:
            raise UnknownName("role", name, self.roles) from None

    def fixed_route(self, role: str) -> Route | None:
        """Return the route of a role that needs no estimate: a tool, or a fixed tier."""
        spec = self.role(role)
        tier = spec.tier.fixed
        if tier is None and not spec.queue:
            return None
        reason = f"{spec.type} role" if tier is None else "fixed by the role"
        if spec.queue:
            return Route(tier=tier or "", queue=spec.queue, reason=reason)
        return self.route_to(tier or "", reason)

    def safe_route(self, role: str, reason: str) -> Route:
        """Return the route to take when nothing is known: `standard`, within the role's range."""
        spec, names = self.role(role).tier, list(self.tiers)
        middle = names.index("standard") if "standard" in names else len(names) // 2
        low = names.index(spec.min) if spec.min else 0
        high = names.index(spec.max) if spec.max else len(names) - 1
        return self.route_to(names[max(low, min(middle, high))], reason)

    def route_to(self, tier: str, reason: str, fallback: int = 0) -> Route:
        """Return the route to a tier's model, or to its n-th fallback."""
        model = self.tiers[tier].models[fallback]
        return Route(
            tier=tier,
            model=model.model,
            queue=model.queue,
            reason=reason,
            fallback=fallback,
        )

    def for_flow(self, name: str) -> FleetSnapshot:
        """Keep one flow, the roles it names and their texts.

        Raises:
            UnknownName: if there is no such flow.
        """
        if name not in self.flows:
            raise UnknownName("flow", name, self.flows)
        flow = self.flows[name]
        named = {n for t in flow.transitions.values() for n in (t.agent, t.verify) if n}
        roles = {n: r for n, r in self.roles.items() if n in named}
        refs = {p.hash for r in roles.values() for p in (r.prompt, r.output) if p}
        parts = {h: text for h, text in self.parts.items() if h in refs}
        held = {spec.holds for spec in flow.states.values()}
        wip = {n: limit for n, limit in self.backpressure.items() if n in held}
        kept = {"flows": {name: flow}, "roles": roles, "parts": parts}
        return self.model_copy(update=kept | {"backpressure": wip})

    def pack(self) -> str:
        """Compress to text for a payload.

        Raises:
            PayloadTooLarge: above SNAPSHOT_LIMIT_BYTES; names the largest texts.
        """
        raw = self.model_dump_json(exclude_defaults=True).encode()
        packed = base64.b85encode(zlib.compress(raw, 6)).decode()
        if len(packed) > SNAPSHOT_LIMIT_BYTES:
            raise PayloadTooLarge(self._too_large(len(packed)))
        return packed

    def _too_large(self, size: int) -> str:
        sizes = {
            name: sum(p.bytes for p in (role.prompt, role.output) if p)
            for name, role in self.roles.items()
        }
        largest = sorted(sizes.items(), key=lambda pair: -pair[1])[:3]
        named = ", ".join(f"{name} {count:,} bytes" for name, count in largest)
        return (
            f"what an item must know of the fleet takes {size:,} bytes compressed; "
            f"the limit is {SNAPSHOT_LIMIT_BYTES:,}. Shorten the longest prompts and "
            f"schemas: {named}"
        )

    @staticmethod
    def unpack(packed: str) -> FleetSnapshot:
        """Read what `pack` wrote; the last few are kept (they are immutable)."""
        return _unpack(packed)


@lru_cache(maxsize=64)
def _unpack(packed: str) -> FleetSnapshot:
    return FleetSnapshot.model_validate_json(zlib.decompress(base64.b85decode(packed)))


@dataclass(frozen=True, slots=True)
class LoadedFleet:
    """A checked agents.yaml with its prompts read and its prices known."""

    fleet: Fleet
    snapshot: FleetSnapshot
    """Every role and flow of the file."""
    path: Path
    warnings: tuple[Problem, ...] = ()

    @property
    def name(self) -> str:
        """Prefix of task queues and entity IDs."""
        return self.fleet.fleet

    def packed_for(self, flow: str) -> str:
        """Pack what an item of this flow must know."""
        return self.snapshot.for_flow(flow).pack()

    @property
    def queues(self) -> Mapping[str, tuple[str, ...]]:
        """Task queues of each tier: its own and one for each fallback."""
        return {
            name: tuple(m.queue for m in tier.models)
            for name, tier in self.snapshot.tiers.items()
        }


def pool_specs(fleet: LoadedFleet) -> dict[str, PoolSpec]:
    """Return the pools of a worker process: of each tier, and of the tools.

    The tools' pool has room for what their roles may have at a time.
    """
    tools = [b.max_instances for b in fleet.fleet.agents.values() if b.run or b.call]
    slots = sum(8 if count is None else count for count in tools) or 1
    specs = {name: tier.pool for name, tier in fleet.fleet.tiers.items()}
    specs[TOOLS] = PoolSpec(min_instances=0, max_instances=min(slots, MOST_INSTANCES))
    return specs


def fixed_parts(fleet: LoadedFleet) -> dict[str, str]:
    """Return what workers take from their file at their start only, by place."""
    tiers = fleet.snapshot.tiers
    found = {"fleet": fleet.name, "tiers": ", ".join(tiers)}
    if fleet.fleet.workdir:
        found["workdir"] = fleet.fleet.workdir
    for name, tier in tiers.items():
        found[f"tiers.{name}.model"] = _model_of(tier.models[0])
        spare = [_model_of(model) for model in tier.models[1:]]
        if spare:
            found[f"tiers.{name}.fallback"] = ", ".join(spare)
    return found


def _model_of(model: ModelSnapshot) -> str:
    where = f" at {model.base_url}" if model.base_url else ""
    key = f" with {model.api_key_env}" if model.api_key_env else ""
    return model.model + where + key
