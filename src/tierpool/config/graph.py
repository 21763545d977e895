"""Questions about the graph of a flow: pure, and knows nothing of files.

A transition that could not be read has None for its content; it counts as a
way that exists, that may not hold, and that is bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

from tierpool.flow import Transition

__all__ = ["Edge", "dead_ends", "shadowed", "unbounded_cycles", "unreachable"]


@dataclass(frozen=True, slots=True)
class Edge:
    """A transition with its two ends."""

    key: str
    """As written: `from -> to`."""
    source: str
    target: str
    transition: Transition | None
    """None if its content is not valid."""


def unreachable(initial: str, edges: Sequence[Edge]) -> list[str]:
    """Return the states that no way from the initial state leads to."""
    forward = [(edge.source, edge.target) for edge in edges]
    reached = _closure([initial], forward)
    return [state for state in _states(edges) if state not in reached]


def dead_ends(edges: Sequence[Edge]) -> list[str]:
    """Return the states from which no terminal state can be reached."""
    sources = {edge.source for edge in edges}
    terminal = [state for state in _states(edges) if state not in sources]
    backward = [(edge.target, edge.source) for edge in edges]
    ending = _closure(terminal, backward)
    return [state for state in _states(edges) if state not in ending]


def unbounded_cycles(edges: Sequence[Edge]) -> list[list[str]]:
    """Return cycles of transitions without `max_visits`, as states `a, b, a`.

    Not all of them: enough that bounding one transition of each leaves none.
    """
    free = {
        (edge.source, edge.target)
        for edge in edges
        if edge.transition is not None and edge.transition.max_visits is None
    }
    ordered = dict.fromkeys((e.source, e.target) for e in edges)
    left = [pair for pair in ordered if pair in free]
    cycles: list[list[str]] = []
    while cycle := _cycle(left):
        turned = _turned(cycle, _states(edges))
        cycles.append(turned)
        left.remove((turned[-2], turned[-1]))
    return cycles


def shadowed(
    leaving: Sequence[Edge], always_holds: Callable[[Edge], bool]
) -> list[tuple[Edge, Edge]]:
    """Return (never tried, what always holds before it) among a state's transitions."""
    for number, edge in enumerate(leaving):
        if always_holds(edge):
            return [(later, edge) for later in leaving[number + 1 :]]
    return []


def _cycle(pairs: Iterable[tuple[str, str]]) -> list[str] | None:
    before: dict[str, set[str]] = {}
    for source, target in sorted(pairs):
        before.setdefault(target, set()).add(source)
    try:
        TopologicalSorter(before).prepare()
    except CycleError as error:
        return list(error.args[1])
    return None


def _turned(cycle: list[str], order: Sequence[str]) -> list[str]:
    """Let a cycle start with the state that stands first in the file."""
    ring = cycle[:-1]
    start = min(range(len(ring)), key=lambda i: order.index(ring[i]))
    turned = ring[start:] + ring[:start]
    return [*turned, turned[0]]


def _states(edges: Sequence[Edge]) -> list[str]:
    return list(dict.fromkeys(s for edge in edges for s in (edge.source, edge.target)))


def _closure(start: Iterable[str], pairs: Sequence[tuple[str, str]]) -> set[str]:
    after: dict[str, list[str]] = {}
    for source, target in pairs:
        after.setdefault(source, []).append(target)
    reached, todo = set(start), list(start)
    while todo:
        for state in after.get(todo.pop(), ()):
            if state not in reached:
                reached.add(state)
                todo.append(state)
    return reached
