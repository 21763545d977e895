"""Names of search attributes, metrics and log events, in one place."""

from __future__ import annotations

__all__ = [
    "ATTRIBUTE_COST_USD",
    "ATTRIBUTE_FLOW",
    "ATTRIBUTE_ROLE",
    "ATTRIBUTE_STATE",
    "ATTRIBUTE_TIER",
    "SEARCH_ATTRIBUTES",
]

ATTRIBUTE_FLOW = "TierpoolFlow"
ATTRIBUTE_STATE = "TierpoolState"
ATTRIBUTE_ROLE = "TierpoolRole"
ATTRIBUTE_TIER = "TierpoolTier"
ATTRIBUTE_COST_USD = "TierpoolCostUsd"

SEARCH_ATTRIBUTES = {
    ATTRIBUTE_FLOW: "Keyword",
    ATTRIBUTE_STATE: "Keyword",
    ATTRIBUTE_ROLE: "Keyword",
    ATTRIBUTE_TIER: "Keyword",
    ATTRIBUTE_COST_USD: "Double",
}
"""Search attributes of a work item and their types. SQL visibility allows 10
Keyword and 3 Double in all: take no more."""
