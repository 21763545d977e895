"""Reads agents.yaml: `load_fleet` for programs, `check_fleet` for reports.

Importing this package is cheap; the parser is loaded with the first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tierpool.config.load import PriceFinder, check_fleet, load_fleet

__all__ = ["PriceFinder", "check_fleet", "load_fleet"]


def __getattr__(name: str) -> object:
    """Load the parser when one of the public names is first asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tierpool.config import load

    return getattr(load, name)
