"""Scaling policies, by the name that agents.yaml and the command line use.

Each one is pure: what it remembers is a value that goes from one decision to the
next. Limits are not theirs: `by_name` wraps each in the same ceilings.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tierpool.errors import UnknownName
from tierpool.scaling.ceilings import Bounded
from tierpool.scaling.policies.ewma import Ewma
from tierpool.scaling.policies.fixed import Fixed
from tierpool.scaling.policies.hpa import Hpa, Keda
from tierpool.scaling.policies.predictive import Predictive
from tierpool.scaling.policies.threshold import Threshold
from tierpool.scaling.policies.utilisation import Utilisation
from tierpool.scaling.policy import Policy

__all__ = [
    "DEFAULT",
    "NAMES",
    "Ewma",
    "Fixed",
    "Hpa",
    "Keda",
    "Predictive",
    "Threshold",
    "Utilisation",
    "by_name",
]

DEFAULT = "predictive"

_POLICIES: dict[str, Callable[[], Policy[Any]]] = {
    "predictive": Predictive,
    "threshold": Threshold,
    "utilisation": Utilisation,
    "fixed": Fixed,
    "hpa": Hpa,
    "keda": Keda,
    "ewma": Ewma,
}

NAMES = tuple(_POLICIES)
"""All known names, the default first."""


def by_name(name: str) -> Policy[Any]:
    """Return a policy within its limits.

    Raises:
        UnknownName: There is no such policy; names the known ones.
    """
    if name not in _POLICIES:
        raise UnknownName("policy", name, NAMES)
    return Bounded(_POLICIES[name]())
