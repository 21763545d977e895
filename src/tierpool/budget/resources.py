"""What is limited, in the words of the fleet file; pure."""

from __future__ import annotations

from decimal import Decimal

from tierpool.contracts.ledger import CALLS, USD

__all__ = ["amount_of", "called"]


def called(resource: str) -> str:
    """Name a resource as the fleet file does."""
    if resource == USD:
        return "max_cost_per_hour_usd"
    if resource == CALLS:
        return "max_concurrent"
    what, _, whose = resource.partition(":")
    names = {"role": "max_instances", "wip": "backpressure"}
    return f"{names.get(what, f'{what}_per_minute')} of {whose}"


def amount_of(resource: str, amount: int) -> str:
    """Write an amount of a resource for people; dollars exactly."""
    if resource != USD:
        return f"{amount:,}"
    whole = f"{Decimal(amount).scaleb(-9):f}"
    return "$" + (whole.rstrip("0").rstrip(".") if "." in whole else whole)
