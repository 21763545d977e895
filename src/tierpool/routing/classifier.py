"""Estimates of how much a request asks of a model.

The `Classifier` protocol is the seam for other estimators; `RulesClassifier`
is the one that needs no data. What an estimate means for the tier is decided
in `policy`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

from tierpool.routing.features import Features, measure

__all__ = ["HIGH", "LOW", "Classifier", "Estimate", "RulesClassifier"]

LOW = 0.06
"""Complexity up to which a confident estimate means less than the standard tier.

60 distinct words of plain prose. On public exam questions the loss of a small
model against a middle one is about the same for anything shorter, and grows
from about twice that.
"""
HIGH = 0.6
"""Complexity from which a confident estimate means more than the standard tier."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a classifier thinks of a request.

    Raises:
        ValueError: if the complexity is not a number from 0 to 1.
    """

    complexity: float
    """0 (anything can do it) to 1 (needs the best)."""
    confident: bool
    """False if the estimate should decide nothing."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """What the complexity is made of, for explanation."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.complexity) and 0 <= self.complexity <= 1):
            raise ValueError(f"complexity {self.complexity}: expected 0 to 1")
        if not all(math.isfinite(score) for score in self.scores.values()):
            raise ValueError(f"scores {dict(self.scores)}: expected finite numbers")


class Classifier(Protocol):
    """Anything that estimates complexity without asking a model."""

    @property
    def name(self) -> str:
        """Short name, such as `rules`."""
        ...

    @property
    def version(self) -> str:
        """Changes whenever an estimate may change."""
        ...

    def classify(self, role: str, text: str) -> Estimate:
        """Estimate what the text asks of the role; must not wait for anything."""
        ...


WEIGHTS: Mapping[str, float] = MappingProxyType(
    {
        "size": 0.20,
        "numbers": 0.15,
        "code": 0.25,
        "change": 0.30,
        "demands": 0.25,
        "nesting": 0.10,
    }
)
"""Most that each part adds to the complexity.

All that prose alone can add is `size`: far less than HIGH, so no amount of
padding makes a request look hard.
"""


class RulesClassifier:
    """Adds up how much there is to read, to change and to answer.

    Every part grows linearly to its weight and stops there. Only the ends of
    the scale are confident: few plain words without code, numbers or lists at
    the low one, a large and structured request at the high one. The role's
    name is not looked at: what is known of a role belongs into its `tier`.
    """

    name = "rules"
    version = "1"

    def classify(self, role: str, text: str) -> Estimate:
        """Estimate from counts of the text alone."""
        seen = measure(text)
        scores = {
            part: WEIGHTS[part] * share
            for part, share in _shares(seen).items()
            if share
        }
        complexity = min(1.0, sum(scores.values()))
        confident = complexity >= HIGH or (complexity <= LOW and _plain(seen))
        return Estimate(complexity, confident, scores)


def _shares(seen: Features) -> dict[str, float]:
    """Return each part as a share of what makes it full, 0 to 1."""
    return {
        "size": min(1.0, seen.words / 200),
        "numbers": min(1.0, max(0, seen.numbers - 2) / 16),
        "code": min(1.0, seen.code_lines / 40),
        "change": min(1.0, max(seen.files / 5, seen.hunks / 10)),
        "demands": min(1.0, max(0, seen.items + seen.questions - 1) / 10),
        "nesting": min(1.0, max(0, seen.depth - 1) / 6),
    }


def _plain(seen: Features) -> bool:
    """Tell whether a small model is known to lose little: prose, nothing to compute."""
    structured = seen.code_lines or seen.files or seen.hunks or seen.depth > 2
    several = seen.items + seen.questions > 1
    return seen.words >= 3 and seen.numbers <= 2 and not (structured or several)
