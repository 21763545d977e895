"""What is limited, in the words of the fleet file; pure."""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal

from tierpool.contracts.ledger import CALLS, NANO, USD

__all__ = ["called", "dollars", "nano", "told"]


def called(resource: str) -> str:
    """Name a resource as the fleet file does."""
    if resource == USD:
        return "max_cost_per_hour_usd"
    if resource == CALLS:
        return "max_concurrent"
    what, _, whose = resource.partition(":")
    names = {"role": "max_instances", "wip": "backpressure"}
    return f"{names.get(what, f'{what}_per_minute')} of {whose}"


def told(resource: str, amount: int) -> str:
    """Write an amount of a resource for people; dollars exactly."""
    return f"${dollars(amount).normalize():f}" if resource == USD else f"{amount:,}"


def dollars(amount: int) -> Decimal:
    """Return nano-dollars as USD, exactly."""
    return Decimal(amount).scaleb(-9) if amount else Decimal(0)


def nano(usd: Decimal) -> int:
    """Return USD as whole nano-dollars, never less."""
    return int((usd * NANO).to_integral_value(ROUND_CEILING))
