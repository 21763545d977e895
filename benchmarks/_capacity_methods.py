"""Ways to predict slots from figures of a trace, without replaying it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from tierpool.scaling.capacity import erlang_c, erlang_c_slots, least, slots_for
from tierpool.scaling.occupancy import measure

__all__ = ["METHODS", "OURS", "Predict"]

Predict = Callable[[Sequence[float], Sequence[float], float], int]
"""From arrivals, durations and the target in seconds."""

OURS = "Hayward by windows"


def by_windows(
    arrivals: Sequence[float], services: Sequence[float], target: float
) -> int:
    """What `tierpool plan` predicts: each window has a load and peakedness."""
    return slots_for(measure(arrivals, services, target), target)


def with_margin(
    arrivals: Sequence[float], services: Sequence[float], target: float
) -> int:
    """Return the same and a tenth, to see whether a margin helps."""
    return math.ceil(1.1 * by_windows(arrivals, services, target))


def with_one_z(
    arrivals: Sequence[float], services: Sequence[float], target: float
) -> int:
    """Hayward's approximation as it is usual: one load and peakedness for all."""
    (one,) = measure(arrivals, services, 0.0, window_seconds=math.inf)
    return slots_for([one], target)


def by_erlang_c(
    arrivals: Sequence[float], services: Sequence[float], target: float
) -> int:
    """Random arrivals at the mean rate."""
    one = measure(arrivals, services, 0.0, window_seconds=math.inf)
    return erlang_c_slots(one, target)


def by_allen_cunneen(
    arrivals: Sequence[float], services: Sequence[float], target: float
) -> int:
    """Erlang-C whose waits are longer by the variation of intervals and durations."""
    mean, load = statistics.fmean(services), _load(arrivals, services)
    gaps = [after - before for before, after in pairwise(arrivals)]
    factor = (_cv2(gaps) + _cv2(services)) / 2

    def enough(slots: int) -> bool:
        spare = slots - load
        if spare <= 0:
            return False
        late = erlang_c(slots, load) * math.exp(-spare * target / mean / factor)
        return late <= 0.05

    return least(enough, math.ceil(load)) or 0


def by_square_root(
    arrivals: Sequence[float], services: Sequence[float], _: float
) -> int:
    """Load and its square root, whatever the target."""
    load = _load(arrivals, services)
    return math.ceil(load + math.sqrt(load))


def _load(arrivals: Sequence[float], services: Sequence[float]) -> float:
    return math.fsum(services) / (arrivals[-1] - arrivals[0])


def _cv2(values: Sequence[float]) -> float:
    mean = statistics.fmean(values)
    return math.fsum((v - mean) ** 2 for v in values) / len(values) / (mean * mean)


METHODS: Mapping[str, Predict] = {
    OURS: by_windows,
    "the same + 10 %": with_margin,
    "Hayward, one z": with_one_z,
    "Erlang-C": by_erlang_c,
    "Allen-Cunneen": by_allen_cunneen,
    "square root": by_square_root,
}
