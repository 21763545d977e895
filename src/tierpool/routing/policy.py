"""The decision on a call's tier, with its reason: who has a say, in what order.

First the caller, within the role's range; then the role, if it leaves no
choice; then the classifier, where it is sure; else the standard tier. Pure:
the same request, snapshot and classifier give the same answer. What a text
looks like is measured in `features` and judged in `classifier`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tierpool.blueprint import TierPolicy
from tierpool.contracts import Route, RouteAnswer, RouteRequest
from tierpool.errors import TierpoolError, UnknownName
from tierpool.fleet import FleetSnapshot
from tierpool.routing import llm
from tierpool.routing.classifier import HIGH, LOW, Classifier, Estimate

__all__ = ["RouteRefused", "decide", "standard_index", "tier_range"]


class RouteRefused(TierpoolError):
    """A caller asks for a tier that the role's range does not contain."""


class _Choice(NamedTuple):
    """A tier by its position, cheapest first, and how it was found."""

    position: int
    reason: str
    classifier: str = ""
    estimate: Estimate | None = None


def decide(
    request: RouteRequest, snapshot: FleetSnapshot, classifier: Classifier
) -> RouteAnswer:
    """Return where the call goes, or whom to ask first, or that no tier is left.

    A classifier that raises or has doubts means the standard tier, moved into
    the role's range. The classifier is not called where nothing is open.

    Raises:
        UnknownName: if the role, or a tier that is named, does not exist.
        RouteRefused: if the caller's tier is outside the role's range.
    """
    tiers = list(snapshot.tiers)
    role = snapshot.role(request.role)
    span = tier_range(tiers, role.tier)
    if request.above is not None:
        higher = max(_position(tiers, request.above) + 1, span.start)
        if higher >= span.stop:
            return RouteAnswer()
        reason = request.why or f"no usable reply from {request.above}"
        return _answer(snapshot, _Choice(higher, f"escalated: {reason}"))
    if request.wanted is not None:
        return _answer(snapshot, _wanted(request, tiers, span))
    if len(span) == 1:
        reason = "fixed by the role" if role.tier.fixed else "the only tier of the role"
        return _answer(snapshot, _Choice(span.start, reason))
    choice, sure = _by_rules(request, tiers, span, classifier)
    if role.classifier == "llm" and not sure:
        if not (request.classified or request.classifier_failed):
            return _ask(request, snapshot)
        choice = _by_llm(request, tiers, span, choice)
    return _answer(snapshot, choice)


def tier_range(tiers: Sequence[str], policy: TierPolicy) -> range:
    """Return the positions of the tiers that a role may use, cheapest first.

    Raises:
        UnknownName: if the policy names a tier that is not there.
        RouteRefused: if its min stands above its max.
    """
    if policy.fixed:
        index = _position(tiers, policy.fixed)
        return range(index, index + 1)
    low = _position(tiers, policy.min) if policy.min else 0
    high = _position(tiers, policy.max) if policy.max else len(tiers) - 1
    if low > high:
        raise RouteRefused(
            f"tier range {policy.min}..{policy.max} is empty; "
            f"tiers, cheapest first: {', '.join(tiers)}"
        )
    return range(low, high + 1)


def standard_index(tiers: Sequence[str]) -> int:
    """Return the position of the tier for doubtful cases.

    That is the tier named `standard`, else the middle one; of two in the
    middle the dearer one, because a doubt should not cost quality.
    """
    return tiers.index("standard") if "standard" in tiers else len(tiers) // 2


def _wanted(request: RouteRequest, tiers: Sequence[str], span: range) -> _Choice:
    wanted = request.wanted or ""
    index = _position(tiers, wanted)
    if index not in span:
        low, high = tiers[span.start], tiers[span.stop - 1]
        allowed = f"from {low} to {high}" if low != high else f"{low} only"
        raise RouteRefused(
            f"tier {wanted!r} was asked for, but role {request.role!r} may use {allowed}"
        )
    return _Choice(index, "asked for by the caller")


def _by_rules(
    request: RouteRequest, tiers: Sequence[str], span: range, classifier: Classifier
) -> tuple[_Choice, bool]:
    """Choose by the classifier; the second value says whether that is final."""
    label = f"{classifier.name}@{classifier.version}"
    standard = standard_index(tiers)
    try:
        seen = classifier.classify(request.role, request.text)
        index = _for_complexity(seen.complexity, len(tiers), standard)
    except Exception as error:  # noqa: BLE001 - any failure has one safe answer
        # Only the type: a message could quote the text, and this is recorded.
        reason = f"{classifier.name} failed ({type(error).__name__})"
        return _within(_Choice(standard, reason, label), tiers, span), True
    if not seen.confident:
        reason = f"{classifier.name} in doubt, complexity {seen.complexity:.2f}"
        return _within(_Choice(standard, reason, label, seen), tiers, span), False
    reason = f"{classifier.name}: complexity {seen.complexity:.2f}{_mostly(seen)}"
    return _within(_Choice(index, reason, label, seen), tiers, span), True


def _for_complexity(complexity: float, count: int, standard: int) -> int:
    """Spread what is below LOW and above HIGH over the tiers on either side."""
    if not 0 <= complexity <= 1:
        raise ValueError("a complexity is from 0 to 1")
    if complexity <= LOW:
        return min(int(complexity / LOW * standard), max(0, standard - 1))
    if complexity >= HIGH:
        above = count - 1 - standard
        step = int((complexity - HIGH) / (1 - HIGH) * above) + 1
        return standard + min(step, above)
    return standard


def _by_llm(
    request: RouteRequest, tiers: Sequence[str], span: range, rules: _Choice
) -> _Choice:
    """Move the rules' choice by one tier at most, towards the LLM's answer."""
    if request.classified is None:
        reason = f"llm classifier failed ({request.classifier_failed}); {rules.reason}"
        return rules._replace(reason=reason)
    labels = {"NANO": 0, "STANDARD": standard_index(tiers), "PREMIUM": len(tiers) - 1}
    target = labels[request.classified]
    step = (target > rules.position) - (target < rules.position)
    reason = f"llm classifier says {request.classified}; {rules.reason}"
    label = f"{rules.classifier}+{llm.NAME}@{llm.VERSION}"
    choice = _Choice(rules.position + step, reason, label, rules.estimate)
    return _within(choice, tiers, span)


def _within(choice: _Choice, tiers: Sequence[str], span: range) -> _Choice:
    """Move a choice into the role's range, and say so."""
    if choice.position < span.start:
        note = f"{choice.reason}; raised to the role's min {tiers[span.start]}"
        return choice._replace(position=span.start, reason=note)
    if choice.position >= span.stop:
        note = f"{choice.reason}; lowered to the role's max {tiers[span.stop - 1]}"
        return choice._replace(position=span.stop - 1, reason=note)
    return choice


def _mostly(seen: Estimate) -> str:
    """Name the two parts that weigh most, for the reason."""
    largest = sorted(seen.scores.items(), key=lambda part: -part[1])[:2]
    names = [name for name, score in largest if score > 0]
    return f", mostly {' and '.join(names)}" if names else ""


def _ask(request: RouteRequest, snapshot: FleetSnapshot) -> RouteAnswer:
    choice = _Choice(0, f"classifier for {request.role}")
    return RouteAnswer(
        ask=_route(snapshot, choice),
        ask_prompt=llm.PROMPT,
        ask_schema=llm.SCHEMA,
        ask_text=llm.quote(request.role, request.text),
    )


def _answer(snapshot: FleetSnapshot, choice: _Choice) -> RouteAnswer:
    return RouteAnswer(route=_route(snapshot, choice))


def _route(snapshot: FleetSnapshot, choice: _Choice) -> Route:
    route = snapshot.route_to(list(snapshot.tiers)[choice.position], choice.reason)
    if not choice.classifier:
        return route
    seen = choice.estimate
    found = {
        "classifier": choice.classifier,
        "complexity": round(seen.complexity, 3) if seen else None,
        "scores": {k: round(v, 3) for k, v in seen.scores.items()} if seen else {},
    }
    return route.model_copy(update=found)


def _position(tiers: Sequence[str], name: str) -> int:
    try:
        return tiers.index(name)
    except ValueError:
        raise UnknownName("tier", name, tiers) from None
