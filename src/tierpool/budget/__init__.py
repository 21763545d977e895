"""Prices and the arithmetic of money.

`pricing` finds a model's price, `cost` turns usage into USD. Nothing here
knows Temporal, and nothing here asks a provider.
"""

__all__: list[str] = []
