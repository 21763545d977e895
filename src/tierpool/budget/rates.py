"""What a provider's headers say of its rate limits."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Headroom"]


@dataclass(frozen=True, slots=True)
class Headroom:
    """What a provider still takes: a bucket that fills again."""

    calls: float
    """Further calls, of the size of the one that was answered."""
    per_second: float
    """How fast they become more; 0 if nobody knows."""
    seconds: float
    """How long this is worth knowing: until the bucket is full."""
