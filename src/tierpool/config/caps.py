"""Warns where the budget of a work item pays for no call of a role.

The arithmetic is that of the reservation itself (`budget.estimate`), so that
what is said here is what an item would meet.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import ROUND_CEILING, Decimal

from tierpool.blueprint import Blueprint
from tierpool.budget.estimate import Quote, input_bytes
from tierpool.config.output import canonical
from tierpool.config.parts import Parts
from tierpool.config.prices import Prices
from tierpool.config.report import Report
from tierpool.config.roles import RoleTexts, allowed_tiers

__all__ = ["check_caps"]

_CAPS = ("max_cost_per_workflow_usd", "max_cost_per_hour_usd")


def check_caps(parts: Parts, texts: RoleTexts, prices: Prices, report: Report) -> None:
    """Warn of each llm role of which a budget cannot pay for a single call."""
    if parts.fleet is None:
        return
    for key in _CAPS:
        cap = getattr(parts.fleet.guardrails, key)
        if cap is not None:
            _check_cap(key, cap, parts, texts, prices, report)


def _check_cap(
    key: str,
    cap: Decimal,
    parts: Parts,
    texts: RoleTexts,
    prices: Prices,
    report: Report,
) -> None:
    for name, role in parts.agents.items():
        if role is None or role.type != "llm" or name not in texts.prompts:
            continue
        quotes = _quotes(name, role, parts, texts, prices)
        least = min(quotes, key=lambda pair: pair[1].least_usd, default=None)
        if least is not None and least[1].least_usd > cap:
            tier, quote = least
            report.warning(
                ("guardrails", key),
                f"{key} {cap:f} pays for no call of the role "
                f"{name}: a call with its prompt alone and {quote.least_output} output "
                f"tokens can cost ${_shown(quote.least_usd)} on the tier {tier}",
                hint="raise the limit, or shorten the prompt or max_output_tokens",
            )


def _quotes(
    name: str, role: Blueprint, parts: Parts, texts: RoleTexts, prices: Prices
) -> Iterator[tuple[str, Quote]]:
    """Return the least that a call takes on each tier of the role whose price is known."""
    schema = texts.schemas.get(name)
    size = input_bytes(
        len(texts.prompts[name].encode()),
        len(canonical(schema).encode()) if schema is not None else 0,
        messages=2,
    )
    for tier_name in allowed_tiers(role, parts):
        tier, price = parts.tiers[tier_name], prices.get((tier_name, 0))
        if tier is None or price is None:
            continue
        limit = min(
            role.max_output_tokens or tier.max_output_tokens, tier.max_output_tokens
        )
        yield tier_name, Quote(size, messages=2, output_tokens=limit, price=price)


def _shown(usd: Decimal) -> str:
    """Write an amount with six digits after the point at most, rounded up."""
    return f"{usd.quantize(Decimal('0.000001'), ROUND_CEILING).normalize():f}"
