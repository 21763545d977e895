"""Prices and the arithmetic of money.

`pricing` finds a model's price, `estimate` a call's worst case, `cost` turns
usage into USD, and `account` is one workflow's budget. Nothing here knows
Temporal, and nothing here asks a provider.
"""

__all__: list[str] = []
