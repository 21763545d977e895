"""Money in agents.yaml: prices of 0, what is free, and the budgets."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from tierpool.blueprint import Price, Tier, read_budget
from tierpool.budget.estimate import Quote, input_bytes
from tierpool.config import check_fleet
from tierpool.config.json_schema import json_schema
from tierpool.config.report import Report
from tierpool.config.yaml_nodes import parse_yaml
from tierpool.errors import Problem

Check = Callable[..., Any]

HERE = "max_output_tokens: 4096"
"""A line of the good file's tier `standard`, at 6:5, that the cases replace."""
PRICED = "price: {{input_usd_per_mtok: {0}, output_usd_per_mtok: {1}}}"


def of(problems: tuple[Problem, ...], severity: str = "error") -> list[Problem]:
    """Keep the problems of one severity."""
    return [p for p in problems if p.severity == severity]


def place(problem: Problem) -> str:
    """Write where a problem is."""
    return f"{problem.line}:{problem.column} {problem.path}"


@pytest.mark.parametrize(
    ("new", "places"),
    [
        (
            PRICED.format("0", "1"),
            ["6:33 tiers.standard.price.input_usd_per_mtok"],
        ),
        (
            PRICED.format("1", "0.00"),
            ["6:57 tiers.standard.price.output_usd_per_mtok"],
        ),
        (
            PRICED.format("0", "'0'"),
            [
                "6:33 tiers.standard.price.input_usd_per_mtok",
                "6:57 tiers.standard.price.output_usd_per_mtok",
            ],
        ),
        (
            PRICED.format("1e-99999999", "0e5"),
            ["6:67 tiers.standard.price.output_usd_per_mtok"],
        ),
        (
            "free: false\n    " + PRICED.format("0", "1"),
            ["7:33 tiers.standard.price.input_usd_per_mtok"],
        ),
        (
            "fallback:\n      - {model: openai:gpt-5, " + PRICED.format("1", "0") + "}",
            ["7:83 tiers.standard.fallback[0].price.output_usd_per_mtok"],
        ),
        (
            PRICED.format("1", "2").removesuffix("}")
            + ",\n      long_context: [{above_input_tokens: 9, input_usd_per_mtok: 0, "
            "output_usd_per_mtok: 1}]}",
            ["7:66 tiers.standard.price.long_context[0].input_usd_per_mtok"],
        ),
    ],
)
def test_a_price_of_0_is_an_error_at_its_place(
    check: Check, good: str, new: str, places: list[str]
) -> None:
    """Each 0 is named where it stands, with both ways out."""
    loaded, problems = check(good.replace(HERE, new))

    assert loaded is None
    assert places == [place(p) for p in of(problems)]
    for problem in of(problems):
        assert "without `free: true`" in problem.message
        assert "add `free: true`" in (problem.hint or "")
        assert "what it costs" in (problem.hint or "")


@pytest.mark.parametrize("zero", ["input_usd_per_mtok", "output_usd_per_mtok"])
@pytest.mark.parametrize("long", [False, True])
def test_a_bundled_price_of_0_is_an_error_too(
    folder: Path, good: str, zero: str, long: bool
) -> None:
    """A 0 in the price list, or in its long-context row, needs `free: true`."""
    (folder / "agents.yaml").write_text(good)
    whole = {"input_usd_per_mtok": Decimal(1), "output_usd_per_mtok": Decimal(2)}
    wrong = whole | {zero: Decimal(0)}
    rows = [{"above_input_tokens": 10, **wrong}]
    listed = Price.model_validate({**whole, "long_context": rows} if long else wrong)
    sound = Price.model_validate(whole)

    loaded, problems = check_fleet(
        folder / "agents.yaml",
        find_price=lambda model: listed if "sonnet" in model else sound,
    )

    assert loaded is None
    (problem,) = of(problems)
    assert place(problem) == "5:12 tiers.standard.model"
    assert "the bundled price of anthropic:claude-sonnet-4-6 has a 0" in problem.message
    assert "add `free: true`" in (problem.hint or "")


@pytest.mark.parametrize(
    ("new", "source"),
    [
        ("base_url: http://x\n    free: true", "free: true"),
        (
            "base_url: http://x\n    free: true\n    " + PRICED.format("0", "0"),
            "free: true",
        ),
        (
            "free: true\n    price: {input_usd_per_mtok: 0, output_usd_per_mtok: 0, "
            "source: our own cluster}",
            "our own cluster",
        ),
    ],
)
def test_what_is_free_has_a_price_of_0_that_says_so(
    check: Check, good: str, new: str, source: str
) -> None:
    """No `price:` is needed, and one of 0 is in order."""
    loaded, problems = check(good.replace(HERE, new))

    assert [] == list(map(str, problems))
    price = loaded.snapshot.tiers["standard"].models[0].price
    assert (0, 0) == (price.input_usd_per_mtok, price.output_usd_per_mtok)
    assert price.source == source


def test_a_free_local_model_needs_nothing_else(check: Check, good: str) -> None:
    """The shortest tier on one's own machine is its model and `free: true`."""
    text = good.replace("{model: openai:gpt-5-nano}", "{model: local:smol, free: true}")

    loaded, problems = check(text)

    assert () == problems
    assert loaded.snapshot.tiers["nano"].models[0].price.output_usd_per_mtok == 0


def test_a_free_fallback_says_nothing_of_its_tier(check: Check, good: str) -> None:
    """`free:` holds for the model that it stands beside."""
    text = good.replace(HERE, "fallback: [{model: local:smol, free: true}]")

    loaded, problems = check(text)

    assert () == problems
    first, second = loaded.snapshot.tiers["standard"].models
    assert (3, 0) == (first.price.input_usd_per_mtok, second.price.input_usd_per_mtok)


@pytest.mark.parametrize(
    ("price", "places"),
    [
        (
            "{input_usd_per_mtok: 1, output_usd_per_mtok: 0}",
            ["7:33 tiers.standard.price.input_usd_per_mtok"],
        ),
        (
            "{input_usd_per_mtok: 0, output_usd_per_mtok: 0, cache_write_usd_per_mtok: 1}",
            ["7:86 tiers.standard.price.cache_write_usd_per_mtok"],
        ),
        (
            "{input_usd_per_mtok: 0, output_usd_per_mtok: 0, long_context: "
            "[{above_input_tokens: 9, input_usd_per_mtok: 0, output_usd_per_mtok: 1}]}",
            ["7:143 tiers.standard.price.long_context[0].output_usd_per_mtok"],
        ),
    ],
)
def test_free_and_a_price_above_0_contradict_each_other(
    check: Check, good: str, price: str, places: list[str]
) -> None:
    """The rate that is above 0 is named, whichever it is."""
    loaded, problems = check(good.replace(HERE, f"free: true\n    price: {price}"))

    assert loaded is None
    assert places == [place(p) for p in of(problems)]
    assert "`free: true`" in problems[0].message
    assert "leave out `price:`" in (problems[0].hint or "")


def test_a_paid_model_that_counts_as_free_is_a_warning(check: Check, good: str) -> None:
    """At its provider's own address a model with a bundled price is hardly free."""
    loaded, problems = check(good.replace(HERE, "free: true"))

    assert loaded is not None
    (problem,) = problems
    assert ("warning", "6:5 tiers.standard.free") == (problem.severity, place(problem))
    assert "3 USD per million tokens of input and 12 of output" in problem.message


def test_free_is_true_or_false(check: Check, good: str) -> None:
    """`yes` is text, and text says nothing."""
    loaded, problems = check(good.replace(HERE, "free: yes"))

    assert loaded is None
    (problem,) = of(problems)
    assert "6:11 tiers.standard.free" == place(problem)
    assert "expected true or false" in problem.message


def test_cached_input_may_cost_nothing(check: Check, good: str) -> None:
    """Some providers read their cache for nothing; the call still costs."""
    rates = (
        "input_usd_per_mtok: 1, output_usd_per_mtok: 1, cached_input_usd_per_mtok: 0"
    )

    loaded, problems = check(good.replace(HERE, f"price: {{{rates}}}"))

    assert () == problems
    assert loaded.snapshot.tiers["standard"].models[0].price.input_usd_per_mtok == 1


BUDGETS = ["max_cost_per_workflow_usd", "max_cost_per_hour_usd", "alert_threshold_usd"]
BAD = [
    ("0", "must be more than 0 USD"),
    ("0.00", "must be more than 0 USD"),
    ("-0.0", "must be more than 0 USD"),
    ("'0'", "must be more than 0 USD"),
    ("-1", "must be more than 0 USD"),
    ("-0.5", "must be more than 0 USD"),
    (".nan", "expected a finite number"),
    ("'NaN'", "expected a budget in USD, such as 1.50"),
    ("'sNaN'", "expected a budget in USD, such as 1.50"),
    (".inf", "expected a finite number"),
    ("-.inf", "expected a finite number"),
    ("'Infinity'", "expected a budget in USD, such as 1.50"),
    ("lots", "expected a budget in USD, such as 1.50"),
    ("$5", "expected a budget in USD, such as 1.50"),
    ("1 USD", "expected a budget in USD, such as 1.50"),
    ("''", "expected a budget in USD, such as 1.50"),
    ("true", "expected a budget in USD, such as 1.50"),
    ("1000000.01", "must be at most 1,000,000 USD"),
    ("1e30", "must be at most 1,000,000 USD"),
    ("1e-30", "at most 9 digits after the point"),
]


@pytest.mark.parametrize("key", BUDGETS)
@pytest.mark.parametrize(("written", "message"), BAD)
def test_a_bad_budget_is_an_error_at_its_place(
    check: Check, good: str, key: str, written: str, message: str
) -> None:
    """What no budget can be is named with line, column and what would be right."""
    text = good.replace("tiers:", f"guardrails:\n  {key}: {written}\ntiers:")

    loaded, problems = check(text)

    assert loaded is None
    (problem,) = of(problems)
    assert place(problem) == f"3:{len(key) + 5} guardrails.{key}"
    assert message in problem.message
    assert problem.value == written


@pytest.mark.parametrize("written", ["[1]", "{usd: 1}"])
def test_a_budget_is_a_scalar(check: Check, good: str, written: str) -> None:
    """A list or a mapping is no amount."""
    key = "max_cost_per_workflow_usd"
    text = good.replace("tiers:", f"guardrails: {{{key}: {written}}}\ntiers:")

    loaded, problems = check(text)

    assert loaded is None
    (problem,) = of(problems)
    assert f"guardrails.{key}" == problem.path
    assert "expected a budget in USD" in problem.message


@pytest.mark.parametrize(
    ("written", "read"),
    [("0.1", "0.1"), ("'0.10'", "0.10"), ("5", "5"), ("1000000", "1000000")],
)
def test_a_budget_is_taken_by_its_digits(
    check: Check, good: str, written: str, read: str
) -> None:
    """A fraction is not a binary one, and the largest budget is in order."""
    cap = f"guardrails: {{max_cost_per_workflow_usd: {written}}}\ntiers:"

    loaded, _ = check(good.replace("tiers:", cap))

    assert read == str(loaded.snapshot.guardrails.max_cost_per_workflow_usd)


@pytest.mark.parametrize("written", ["0", "-1", "1000001"])
def test_the_published_schema_refuses_bad_budgets(good: str, written: str) -> None:
    """An editor underlines what the loader refuses."""
    text = good.replace(
        "tiers:", f"guardrails: {{alert_threshold_usd: {written}}}\ntiers:"
    )
    root = parse_yaml(text, Report("agents.yaml"))
    assert root is not None

    assert not Draft202012Validator(json_schema()).is_valid(root.plain())


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        b"1",
        [],
        object(),
        pytest.param(10**5000, id="huge"),
        pytest.param("1" * 9999, id="long"),
    ],
)
def test_read_budget_raises_only_value_errors(value: object) -> None:
    """Whatever a caller passes on, the error is one with words."""
    with pytest.raises(ValueError, match="budget"):
        read_budget(value)


@given(st.decimals() | st.floats() | st.integers() | st.text(max_size=30))
@example("1_000")
@example("0.000000001")
@example("1e6")
def test_a_budget_is_in_bounds_or_refused(value: Decimal | float | str) -> None:
    """There is no third way, and what is read is what was written."""
    try:
        budget = read_budget(value)
    except ValueError:
        return

    assert 0 < budget <= 1_000_000
    assert budget == Decimal(str(value))
    assert budget == round(budget, 9)


def capped(text: str, cap: str) -> str:
    """Give the file a budget for a work item."""
    cap = f"guardrails: {{max_cost_per_workflow_usd: {cap}}}\ntiers:"
    return text.replace("tiers:", cap, 1)


def about_calls(problems: tuple[Problem, ...]) -> list[Problem]:
    """Keep the warnings that a budget pays for no call."""
    return [p for p in of(problems, "warning") if "pays for no call" in p.message]


def least_of(price: str, prompt: str, schema: str, output: int, limit: int) -> Decimal:
    """Return the least that an item reserves for a call, by the estimate itself."""
    usd = Price(
        input_usd_per_mtok=Decimal(price), output_usd_per_mtok=4 * Decimal(price)
    )
    size = input_bytes(len(prompt.encode()), len(schema.encode()), messages=2)
    quote = Quote(size, 2, limit, usd)
    assert quote.least_output == output
    return quote.least_usd


def test_a_budget_that_pays_for_no_call_is_a_warning_for_each_role(
    check: Check, good: str
) -> None:
    """It stands at the limit and names role, output, cost and the cheapest tier."""
    loaded, problems = check(capped(good, "0.0001"))

    assert loaded is not None
    reviewer, writer = about_calls(problems)
    for problem in (writer, reviewer):
        assert "2:14 guardrails.max_cost_per_workflow_usd" == place(problem)
        assert problem.message.startswith(
            "max_cost_per_workflow_usd 0.0001 pays for no"
        )
        assert "on the tier nano" in problem.message
        assert "raise the limit" in (problem.hint or "")
    assert "of the role reviewer:" in reviewer.message
    assert "of the role writer: a call with its prompt alone and 512 output tokens" in (
        writer.message
    )
    least = least_of("0.05", "Write what is asked for.\n", "", 512, 2048)
    (said,) = re.findall(r"can cost \$([0-9.]+) ", writer.message)
    assert Decimal(0) <= Decimal(said) - least < Decimal("0.000001")


def test_a_small_reply_makes_a_call_cheaper(check: Check, good: str) -> None:
    """The role's own limit of output counts, where it is below the useful least."""
    text = good.replace(
        "{prompt: prompts/writer.md}",
        "{prompt: prompts/writer.md, max_output_tokens: 24}",
    )

    _, problems = check(capped(text, "0.000001"))

    writer = next(p for p in about_calls(problems) if "role writer" in p.message)
    assert "and 24 output tokens" in writer.message


def test_a_tier_that_the_role_may_not_use_does_not_help(
    check: Check, good: str
) -> None:
    """A role above the cheapest tier is judged by its own tiers."""
    text = good.replace(
        "{prompt: prompts/writer.md}", "{prompt: prompts/writer.md, tier: standard}"
    )

    _, problems = check(capped(text, "0.005"))

    (problem,) = about_calls(problems)
    assert "role writer" in problem.message
    assert "on the tier standard" in problem.message


def test_the_warning_ends_where_one_call_is_paid_for(check: Check, good: str) -> None:
    """To the last digit: at the worst case it is silent, below it speaks."""
    text = good.replace("{prompt: prompts/reviewer.md", "{prompt: prompts/writer.md")
    text = re.sub(
        r"\n  reviewer:\n.*\n    output.*",
        "\n  reviewer: {type: human, output: {verdict: [approve, reject]}}",
        text,
    )
    least = least_of("0.05", "Write what is asked for.\n", "", 512, 2048)

    enough = check(capped(text, f"{least:.9f}"))[1]
    short = check(capped(text, f"{least - Decimal('1e-9'):.9f}"))[1]

    assert [] == about_calls(enough)
    assert 1 == len(about_calls(short))


def test_what_is_free_is_always_paid_for(check: Check, good: str) -> None:
    """The smallest budget is enough for a role that may use a free tier."""
    text = good.replace("{model: openai:gpt-5-nano}", "{model: local:smol, free: true}")

    assert [] == about_calls(check(capped(text, "0.000000001"))[1])


@pytest.mark.parametrize("cap", ["1.00", "null"])
def test_a_sound_budget_has_no_warning(check: Check, good: str, cap: str) -> None:
    """Nothing is said of a budget that pays for calls, or of none."""
    assert [] == about_calls(check(capped(good, cap))[1])


def test_free_is_false_by_default() -> None:
    """Nothing is free that does not say so."""
    assert Tier(model="local:x").free is False
