"""A route stays in the role's range, and its reason says who decided."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierpool.blueprint import Price, TierPolicy
from tierpool.contracts import Route, RouteAnswer, RouteRequest
from tierpool.errors import UnknownName
from tierpool.fleet import FleetSnapshot, ModelSnapshot, RoleSnapshot, TierSnapshot
from tierpool.routing.classifier import HIGH, LOW, Estimate
from tierpool.routing.policy import RouteRefused, decide, standard_index

THREE = ("nano", "standard", "premium")
PRICE = Price(input_usd_per_mtok=Decimal(1), output_usd_per_mtok=Decimal(2))
LABELS = ("NANO", "STANDARD", "PREMIUM")


@dataclass(frozen=True)
class Says:
    """A classifier with one answer."""

    complexity: float
    confident: bool = True
    name: str = "says"
    version: str = "3"

    def classify(self, role: str, text: str) -> Estimate:
        return Estimate(self.complexity, self.confident, {"part": 1 / 3})


@dataclass(frozen=True)
class Raises:
    """A classifier that cannot answer."""

    error: Exception
    name: str = "raises"
    version: str = "1"

    def classify(self, role: str, text: str) -> Estimate:
        raise self.error


@dataclass(frozen=True)
class Unchecked:
    """A classifier of somebody else's, which returns what it likes."""

    value: Any
    name: str = "unchecked"
    version: str = "1"

    def classify(self, role: str, text: str) -> Estimate:
        estimate = Estimate(0.5, True)
        object.__setattr__(estimate, "complexity", self.value)
        return estimate


def fleet(
    tiers: Sequence[str] = THREE, classifier: Any = "rules", **policy: str
) -> FleetSnapshot:
    """Return a fleet of these tiers with one role, `writer`, and its policy."""
    return FleetSnapshot(
        fleet="acme",
        tiers={
            name: TierSnapshot(
                models=(
                    ModelSnapshot(
                        model=f"openai:{name}-1", queue=f"acme-{name}", price=PRICE
                    ),
                ),
                max_output_tokens=100,
            )
            for name in tiers
        },
        roles={
            "writer": RoleSnapshot(tier=TierPolicy(**policy), classifier=classifier)
        },
    )


def ask(**fields: Any) -> RouteRequest:
    return RouteRequest(role="writer", fleet="", text="some work", **fields)


def routed(answer: RouteAnswer) -> Route:
    assert answer.route is not None
    assert answer.ask is None
    return answer.route


@st.composite
def fleets(draw: st.DrawFn) -> FleetSnapshot:
    """Fleets of 1 to 6 tiers with every kind of policy."""
    count = draw(st.integers(1, 6))
    names = [f"t{n}" for n in range(count)]
    if draw(st.booleans()):
        names[draw(st.integers(0, count - 1))] = "standard"
    kind = draw(st.sampled_from(["auto", "fixed", "range"]))
    policy: dict[str, str] = {}
    if kind == "fixed":
        policy["fixed"] = draw(st.sampled_from(names))
    if kind == "range":
        low = draw(st.integers(0, count - 1))
        high = draw(st.integers(low, count - 1))
        policy |= {"min": names[low]} if draw(st.booleans()) else {}
        policy |= {"max": names[high]} if draw(st.booleans()) else {}
    return fleet(names, draw(st.sampled_from(["rules", "llm"])), **policy)


CLASSIFIERS = st.one_of(
    st.builds(Says, st.floats(0, 1), st.booleans()),
    st.builds(Raises, st.sampled_from([ValueError("x"), KeyError(), RecursionError()])),
    st.builds(Unchecked, st.one_of(st.floats(), st.none(), st.text(max_size=2))),
)


def span(snapshot: FleetSnapshot) -> list[str]:
    names, policy = list(snapshot.tiers), snapshot.roles["writer"].tier
    if policy.fixed:
        return [policy.fixed]
    low = names.index(policy.min) if policy.min else 0
    high = names.index(policy.max) if policy.max else len(names) - 1
    return names[low : high + 1]


@pytest.mark.parametrize(
    ("tiers", "complexity", "expected"),
    [
        (THREE, 0.0, "nano"),
        (THREE, LOW, "nano"),
        (THREE, 0.5, "standard"),
        (THREE, HIGH, "premium"),
        (THREE, 1.0, "premium"),
        (("only",), 0.0, "only"),
        (("only",), 1.0, "only"),
        (("small", "large"), 0.0, "small"),
        (("small", "large"), 0.5, "large"),
        (("standard", "large"), 0.0, "standard"),
        (("standard", "large"), 1.0, "large"),
        (("small", "standard"), 1.0, "standard"),
        (("a", "b", "c", "d", "e"), 0.0, "a"),
        (("a", "b", "c", "d", "e"), LOW, "b"),
        (("a", "b", "c", "d", "e"), 0.5, "c"),
        (("a", "b", "c", "d", "e"), HIGH, "d"),
        (("a", "b", "c", "d", "e"), 1.0, "e"),
    ],
)
def test_a_confident_complexity_chooses_a_tier(
    tiers: tuple[str, ...], complexity: float, expected: str
) -> None:
    """Below LOW and above HIGH spread over the tiers on either side of standard."""
    route = routed(decide(ask(), fleet(tiers), Says(complexity)))

    assert expected == route.tier


@pytest.mark.parametrize(
    ("tiers", "expected"),
    [
        (THREE, 1),
        (("standard",), 0),
        (("a", "b", "standard"), 2),
        (("a", "b", "c"), 1),
        (("a", "b"), 1),
        (("a", "b", "c", "d"), 2),
        (("a",), 0),
    ],
)
def test_standard_is_the_tier_of_that_name_or_the_middle(
    tiers: tuple[str, ...], expected: int
) -> None:
    """Of two tiers in the middle it is the dearer one."""
    assert expected == standard_index(tiers)


def test_a_route_carries_what_the_attempt_and_a_reader_need() -> None:
    """Tier, model, queue, reason, classifier with version, and rounded scores."""
    route = routed(decide(ask(), fleet(), Says(2 / 3)))

    expected = Route(
        tier="premium",
        model="openai:premium-1",
        queue="acme-premium",
        reason="says: complexity 0.67, mostly part",
        classifier="says@3",
        complexity=0.667,
        scores={"part": 0.333},
    )
    assert expected == route


@pytest.mark.parametrize(
    ("request_", "policy", "classifier", "expected"),
    [
        (ask(wanted="nano"), {}, Says(1.0), ("nano", "asked for by the caller")),
        (
            ask(wanted="premium"),
            {"fixed": "premium"},
            Says(0.0),
            ("premium", "asked for by the caller"),
        ),
        (ask(), {"fixed": "nano"}, Says(1.0), ("nano", "fixed by the role")),
        (
            ask(),
            {"min": "premium"},
            Says(0.0),
            ("premium", "the only tier of the role"),
        ),
        (
            ask(),
            {},
            Says(0.02, confident=False),
            ("standard", "says in doubt, complexity 0.02"),
        ),
        (
            ask(),
            {"max": "nano"},
            Says(1.0),
            ("nano", "the only tier of the role"),
        ),
        (
            ask(),
            {"min": "standard"},
            Says(0.0),
            (
                "standard",
                "says: complexity 0.00, mostly part; raised to the role's min standard",
            ),
        ),
        (
            ask(),
            {"max": "standard"},
            Says(1.0),
            (
                "standard",
                "says: complexity 1.00, mostly part; "
                "lowered to the role's max standard",
            ),
        ),
        (
            ask(),
            {},
            Raises(ValueError("the secret text")),
            ("standard", "raises failed (ValueError)"),
        ),
        (
            ask(above="nano", why="tests failed"),
            {},
            Says(0.0),
            ("standard", "escalated: tests failed"),
        ),
        (
            ask(above="nano"),
            {"min": "premium"},
            Says(0.0),
            ("premium", "escalated: no usable reply from nano"),
        ),
        (
            ask(above="standard", wanted="standard", why="x"),
            {},
            Says(0.0),
            ("premium", "escalated: x"),
        ),
    ],
)
def test_authority_goes_from_caller_to_role_to_classifier_to_standard(
    request_: RouteRequest,
    policy: dict[str, str],
    classifier: Says | Raises,
    expected: tuple[str, str],
) -> None:
    """The tier and the sentence that explains it."""
    route = routed(decide(request_, fleet(**policy), classifier))

    assert expected == (route.tier, route.reason)


@pytest.mark.parametrize("policy", [{}, {"fixed": "nano"}, {"max": "nano"}])
def test_nothing_is_classified_where_nothing_is_open(policy: dict[str, str]) -> None:
    """A caller's tier, a fixed tier and an escalation cost no estimate."""
    never = Raises(AssertionError("was called"))
    request = ask() if policy else ask(wanted="premium")

    route = routed(decide(request, fleet(**policy), never))

    assert ("", None, {}) == (route.classifier, route.complexity, route.scores)


@pytest.mark.parametrize(
    ("policy", "allowed"),
    [
        ({"fixed": "standard"}, "standard only"),
        ({"min": "standard"}, "from standard to premium"),
        ({"min": "standard", "max": "standard"}, "standard only"),
    ],
)
def test_a_callers_tier_outside_the_range_is_refused(
    policy: dict[str, str], allowed: str
) -> None:
    """The error names the tier, the role and what it may use."""
    with pytest.raises(RouteRefused) as caught:
        decide(ask(wanted="nano"), fleet(**policy), Says(0.5))

    expected = f"tier 'nano' was asked for, but role 'writer' may use {allowed}"
    assert expected == str(caught.value)


@pytest.mark.parametrize(
    ("request_", "known"),
    [
        (ask(wanted="premum"), "premium"),
        (ask(above="nanno"), "nano"),
        (RouteRequest(role="wrter", fleet=""), "writer"),
    ],
)
def test_an_unknown_name_is_an_error_with_the_nearest_one(
    request_: RouteRequest, known: str
) -> None:
    """Roles and tiers that are not there are no reason to guess."""
    with pytest.raises(UnknownName, match=f"did you mean '{known}'"):
        decide(request_, fleet(), Says(0.5))


def test_an_empty_range_is_refused_by_name() -> None:
    """A min above the max cannot be routed."""
    with pytest.raises(RouteRefused, match=r"premium\.\.nano is empty"):
        decide(ask(), fleet(min="premium", max="nano"), Says(0.5))


@given(
    snapshot=fleets(), classifier=CLASSIFIERS, label=st.sampled_from([None, *LABELS])
)
def test_a_route_never_leaves_the_roles_range(
    snapshot: FleetSnapshot, classifier: Any, label: Any
) -> None:
    """Whatever a classifier says or does, and an LLM answers."""
    answer = decide(ask(classified=label), snapshot, classifier)

    if answer.ask is not None:
        assert answer.route is None
        assert snapshot.roles["writer"].classifier == "llm"
        assert next(iter(snapshot.tiers)) == answer.ask.tier
        return
    route = routed(answer)
    assert route.tier in span(snapshot)
    assert route.reason
    assert all(math.isfinite(score) for score in route.scores.values())


@given(
    snapshot=fleets(),
    value=st.one_of(
        st.sampled_from([math.nan, math.inf, -math.inf, None, "1", -0.1, 1.1]),
        st.floats().filter(lambda x: not 0 <= x <= 1),
    ),
)
def test_a_complexity_that_is_no_share_means_standard_within_the_range(
    snapshot: FleetSnapshot, value: Any
) -> None:
    """NaN, infinities and anything outside 0 to 1 decide nothing."""
    route = routed(decide(ask(), snapshot, Unchecked(value)))

    allowed, names = span(snapshot), list(snapshot.tiers)
    middle = standard_index(names)
    low, high = names.index(allowed[0]), names.index(allowed[-1])
    assert names[max(low, min(middle, high))] == route.tier
    assert route.complexity is None


@given(snapshot=fleets(), data=st.data())
def test_escalation_climbs_one_tier_at_a_time_until_none_is_left(
    snapshot: FleetSnapshot, data: st.DataObject
) -> None:
    """Every escalation is higher than the last, within the range, and it ends."""
    names, allowed = list(snapshot.tiers), span(snapshot)
    at = data.draw(st.sampled_from(allowed))
    climbed = [at]

    while (route := decide(ask(above=at), snapshot, Says(0.5)).route) is not None:
        at = route.tier
        climbed.append(at)

    assert allowed[allowed.index(climbed[0]) :] == climbed
    assert names.index(climbed[-1]) == names.index(allowed[-1])


@given(
    names=st.integers(1, 6).map(lambda n: [f"t{i}" for i in range(n)]),
    low=st.floats(0, 1),
    high=st.floats(0, 1),
)
def test_more_complexity_never_means_a_lower_tier(
    names: list[str], low: float, high: float
) -> None:
    """The tier is monotone in a confident complexity."""
    low, high = sorted((low, high))

    first, second = (
        routed(decide(ask(), fleet(names), Says(value))).tier for value in (low, high)
    )

    assert names.index(first) <= names.index(second)


def test_in_doubt_a_role_with_an_llm_classifier_has_it_asked() -> None:
    """The question goes to the cheapest tier, with prompt, schema and quoted text."""
    snapshot = fleet(classifier="llm", min="standard")

    answer = decide(ask(), snapshot, Says(0.3, confident=False))

    expected = Route(
        tier="nano",
        model="openai:nano-1",
        queue="acme-nano",
        reason="classifier for writer",
    )
    assert (None, expected) == (answer.route, answer.ask)
    assert "data" in answer.ask_prompt
    assert '"enum":["NANO","STANDARD","PREMIUM"]' in answer.ask_schema
    assert '"some work"' in answer.ask_text


@pytest.mark.parametrize(
    ("policy", "classifier", "request_"),
    [
        ({}, Says(0.9), ask()),
        ({"fixed": "nano"}, Says(0.3, confident=False), ask()),
        ({}, Says(0.3, confident=False), ask(wanted="nano")),
        ({}, Says(0.3, confident=False), ask(above="nano")),
        ({}, Says(0.3, confident=False), ask(classified="NANO")),
        ({}, Says(0.3, confident=False), ask(classifier_failed="timeout")),
        ({}, Raises(ValueError()), ask()),
    ],
)
def test_the_llm_is_asked_only_where_its_answer_can_matter(
    policy: dict[str, str], classifier: Says | Raises, request_: RouteRequest
) -> None:
    """Sure rules, a settled tier and an earlier answer leave nothing to ask."""
    answer = decide(request_, fleet(classifier="llm", **policy), classifier)

    assert answer.ask is None
    assert answer.route is not None


@pytest.mark.parametrize(
    ("tiers", "policy", "label", "expected"),
    [
        (THREE, {}, "NANO", "nano"),
        (THREE, {}, "STANDARD", "standard"),
        (THREE, {}, "PREMIUM", "premium"),
        (THREE, {"min": "standard"}, "NANO", "standard"),
        (THREE, {"max": "standard"}, "PREMIUM", "standard"),
        (("a", "b", "c", "d", "e"), {}, "PREMIUM", "d"),
        (("a", "b", "c", "d", "e"), {}, "NANO", "b"),
        (("a", "b", "standard"), {}, "NANO", "b"),
    ],
)
def test_an_llms_answer_moves_the_choice_by_one_tier_at_most(
    tiers: tuple[str, ...], policy: dict[str, str], label: Any, expected: str
) -> None:
    """From the rules' choice, in doubt standard, and within the role's range."""
    snapshot = fleet(tiers, "llm", **policy)

    route = routed(decide(ask(classified=label), snapshot, Says(0.3, confident=False)))

    assert expected == route.tier
    assert route.reason.startswith(f"llm classifier says {label}; says in doubt")
    assert "says@3+llm@1" == route.classifier


def test_without_an_llms_answer_the_rules_decide_and_the_reason_says_so() -> None:
    """A failed classifier attempt leaves the standard tier."""
    request = ask(classifier_failed="timed out")

    route = routed(decide(request, fleet(classifier="llm"), Says(0.3, confident=False)))

    assert "standard" == route.tier
    expected = "llm classifier failed (timed out); says in doubt, complexity 0.30"
    assert expected == route.reason
