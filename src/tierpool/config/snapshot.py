"""Builds the `FleetSnapshot` of a file that has no errors.

Everything a running item may depend on is put in here once: queues, prices,
prompt and schema texts by hash. Nothing is checked.
"""

from __future__ import annotations

from tierpool.blueprint import Blueprint, Tier, queue_name
from tierpool.config.credentials import models_of
from tierpool.config.output import canonical
from tierpool.config.prices import Prices
from tierpool.config.roles import RoleTexts
from tierpool.contracts import PartRef
from tierpool.fleet import (
    Fleet,
    FleetSnapshot,
    ModelSnapshot,
    RoleSnapshot,
    TierSnapshot,
)

__all__ = ["build_snapshot"]


def build_snapshot(fleet: Fleet, prices: Prices, texts: RoleTexts) -> FleetSnapshot:
    """Put together what a run knows; all prices and texts must be there."""
    parts: dict[str, str] = {}
    return FleetSnapshot(
        fleet=fleet.fleet,
        tiers={
            name: _tier(fleet.fleet, name, tier, prices)
            for name, tier in fleet.tiers.items()
        },
        roles={
            name: _role(fleet.fleet, name, role, texts, parts)
            for name, role in fleet.agents.items()
        },
        flows=fleet.flows,
        parts=parts,
        # its address may be a secret, and this stands in every item's history
        guardrails=fleet.guardrails.model_copy(update={"alert_webhook": None}),
        backpressure=fleet.backpressure,
        leaves_costs=True,
    )


def _tier(fleet: str, name: str, tier: Tier, prices: Prices) -> TierSnapshot:
    return TierSnapshot(
        models=tuple(
            ModelSnapshot(
                model=model.model,
                queue=queue_name(fleet, name, number),
                price=prices[name, number],
                base_url=model.base_url,
                api_key_env=model.api_key_env,
            )
            for number, model in models_of(tier)
        ),
        max_output_tokens=tier.max_output_tokens,
        temperature=tier.temperature,
        timeout=tier.timeout,
        failover_after=tier.failover_after,
    )


def _role(
    fleet: str, name: str, role: Blueprint, texts: RoleTexts, parts: dict[str, str]
) -> RoleSnapshot:
    def part(text: str | None) -> PartRef | None:
        if text is None:
            return None
        ref = PartRef.of(text)
        parts[ref.hash] = text
        return ref

    schema = texts.schemas.get(name)
    tool = role.type in ("command", "python")
    return RoleSnapshot(
        type=role.type,
        tier=role.tier,
        queue=queue_name(fleet, role.tier.fixed or "tools") if tool else "",
        classifier=role.classifier,
        prompt=part(texts.prompts.get(name)),
        output=part(canonical(schema) if schema is not None else None),
        max_output_tokens=role.max_output_tokens,
        timeout=role.timeout,
        max_attempts=role.max_attempts,
        run=role.run or (),
        pass_env=role.pass_env,
        call=role.call or "",
        conversation=role.conversation,
        max_instances=None if role.type == "human" else role.max_instances,
        rate_limit=None if role.type == "human" else role.rate_limit,
    )
