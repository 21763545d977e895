"""Each mistake in agents.yaml: where it is reported, and in what words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tierpool.errors import Problem

Check = Callable[..., Any]


def errors(problems: tuple[Problem, ...]) -> list[Problem]:
    """Leave out the warnings."""
    return [p for p in problems if p.severity == "error"]


# (what is replaced, by what, place, path, words of the message, words of the hint)
SCHEMA = [
    ("version: 1", "version: 2", "1:10", "version", "expected 1", None),
    ("version: 1\n", "", "1:1", "version", "missing key 'version'", None),
    ("version: 1", "version: 1\nfleet: Acme", "2:8", "fleet", "lower-case", None),
    ("tiers:", "teirs:", "2:1", "teirs", "unknown key 'teirs'", "'tiers'"),
    ("{model: openai:gpt-5-nano}", "{}", "3:3", "tiers.nano.model", "missing", None),
    (
        "{model: openai:gpt-5-nano}",
        "",
        "3:3",
        "tiers.nano",
        "expected a mapping",
        None,
    ),
    ("  nano:", "  'n o':", "3:3", 'tiers["n o"]', "a name is a letter", None),
    (
        "openai:gpt-5-nano",
        "gpt-5-nano",
        "3:17",
        "tiers.nano.model",
        "expected provider:model",
        None,
    ),
    (
        "max_output_tokens: 4096",
        "max_output_token: 4096",
        "6:5",
        "tiers.standard.max_output_token",
        "unknown key",
        "did you mean 'max_output_tokens'? known: model, base_url",
    ),
    (
        "max_output_tokens: 4096",
        "max_output_tokens: many",
        "6:24",
        "tiers.standard.max_output_tokens",
        "expected a whole number",
        None,
    ),
    (
        "max_output_tokens: 4096",
        "max_output_tokens: '4096'",
        "6:24",
        "tiers.standard.max_output_tokens",
        "expected a whole number",
        None,
    ),
    (
        "max_output_tokens: 4096",
        "max_output_tokens: true",
        "6:24",
        "tiers.standard.max_output_tokens",
        "expected a whole number",
        None,
    ),
    (
        "max_output_tokens: 4096",
        "max_output_tokens: 0",
        "6:24",
        "tiers.standard.max_output_tokens",
        "must be more than 0",
        None,
    ),
    (
        "max_output_tokens: 4096",
        "temperature: 3",
        "6:18",
        "tiers.standard.temperature",
        "must be at most 2",
        None,
    ),
    (
        "max_output_tokens: 4096",
        "timeout: soon",
        "6:14",
        "tiers.standard.timeout",
        "90s, 30m, 2h, 1d",
        None,
    ),
    (
        "max_output_tokens: 4096",
        "pool: {min_instances: 9, max_instances: 8}",
        "6:27",
        "tiers.standard.pool.min_instances",
        "min_instances 9 is above max_instances 8",
        None,
    ),
    (
        "max_output_tokens: 4096",
        "price: {input_usd_per_mtok: .nan, output_usd_per_mtok: 1}",
        "6:33",
        "tiers.standard.price.input_usd_per_mtok",
        "finite",
        None,
    ),
    (
        "max_output_tokens: 4096",
        "price: {input_usd_per_mtok: 'NaN', output_usd_per_mtok: 1}",
        "6:33",
        "tiers.standard.price.input_usd_per_mtok",
        "finite amount in USD",
        None,
    ),
    (
        "max_output_tokens: 4096",
        "price: {input_usd_per_mtok: -1, output_usd_per_mtok: 1}",
        "6:33",
        "tiers.standard.price.input_usd_per_mtok",
        "must be at least 0",
        None,
    ),
    (
        "max_output_tokens: 4096",
        "fallback: [{model: openai:gpt-5}, {modle: x}]",
        "6:40",
        "tiers.standard.fallback[1].modle",
        "unknown key",
        "'model'",
    ),
    (
        "type: human",
        "type: humen",
        "13:16",
        "agents.boss.type",
        "not one of the known values",
        "did you mean 'human'? known: llm, command, python, human",
    ),
    ("type: human", "type: command", "13:16", "agents.boss.type", "needs `run`", None),
    (
        "{prompt: prompts/writer.md}",
        "{}",
        "8:3",
        "agents.writer",
        "a role of type llm needs `prompt`",
        None,
    ),
    (
        "type: human",
        "type: human, run: [x]",
        "13:23",
        "agents.boss.run",
        "`run` belongs to type command, not human",
        None,
    ),
    (
        "type: human",
        "type: human, conversation: yes",
        "13:37",
        "agents.boss.conversation",
        "expected true or false",
        None,
    ),
    (
        "type: human",
        "type: human, output: 5",
        "13:31",
        "agents.boss.output",
        "expected a mapping or text",
        None,
    ),
    (
        "type: human",
        "type: human, tier: 7",
        "13:29",
        "agents.boss.tier",
        "expected a mapping",
        None,
    ),
    ("[make, check]", "make", "12:31", "agents.tests.run", "expected a list", None),
    (
        "max_visits: 3",
        "max_visit: 3",
        "20:56",
        'flows.feature.transitions["written -> incoming"].max_visit',
        "unknown key",
        "'max_visits'",
    ),
    (
        "max_visits: 3",
        "max_visits: 0",
        "20:68",
        'flows.feature.transitions["written -> incoming"].max_visits',
        "must be at least 1",
        None,
    ),
    (
        "timeout: 2d",
        "timout: 2d",
        "25:16",
        "flows.feature.states.signed.timout",
        "unknown key",
        "'timeout'",
    ),
    (
        "    initial: incoming\n",
        "",
        "15:3",
        "flows.feature.initial",
        "missing key 'initial'",
        None,
    ),
]

CROSS = [
    ("  writer:", "  classifier:", "8:3", "agents.classifier", "reserved", "LLM"),
    ("  nano:", "  flows:", "3:3", "tiers.flows", "reserved", "control, flows, tools"),
    ("  nano:", "  nano--1:", "3:3", "tiers.nano--1", "contains `--`", "fallback"),
    (
        "openai:gpt-5-nano",
        "local:smol",
        "3:17",
        "tiers.nano.model",
        "a local model has no bundled price",
        "add `free: true`",
    ),
    (
        "openai:gpt-5-nano",
        "openai:gpt-9",
        "3:17",
        "tiers.nano.model",
        "no price for openai:gpt-9",
        "add `price:`",
    ),
    (
        "max_output_tokens: 4096",
        "fallback: [{model: openai:gpt-9}]",
        "6:24",
        "tiers.standard.fallback[0].model",
        "no price for openai:gpt-9",
        "add `price:`",
    ),
    (
        "prompt: prompts/writer.md",
        "prompt: prompts/writer.md, tier: nan",
        "8:45",
        "agents.writer.tier",
        "unknown tier 'nan'",
        "did you mean 'nano'? known: nano, standard, auto",
    ),
    (
        "prompt: prompts/writer.md",
        "prompt: prompts/writer.md, tier: {max: nana}",
        "8:51",
        "agents.writer.tier.max",
        "unknown tier 'nana'",
        "'nano'",
    ),
    (
        "prompt: prompts/writer.md",
        "prompt: prompts/writer.md, tier: {min: standard, max: nano}",
        "8:51",
        "agents.writer.tier.min",
        "tier standard is above max nano",
        "nano, standard",
    ),
    (
        "prompt: prompts/writer.md",
        "prompt: prompts/writer.md, max_output_tokens: 5000",
        "8:58",
        "agents.writer.max_output_tokens",
        "nano (2048), standard (4096)",
        None,
    ),
    (
        "type: human",
        "type: human, max_output_tokens: 5",
        "13:23",
        "agents.boss.max_output_tokens",
        "belongs to type llm",
        None,
    ),
    (
        "type: human",
        "type: human, conversation: true",
        "13:23",
        "agents.boss.conversation",
        "belongs to type llm",
        None,
    ),
    (
        "prompts/writer.md",
        "prompts/writr.md",
        "8:20",
        "agents.writer.prompt",
        "does not exist",
        "did you mean 'writer.md'?",
    ),
    (
        "prompts/writer.md",
        "../writer.md",
        "8:20",
        "agents.writer.prompt",
        "outside the folder",
        None,
    ),
    (
        "prompts/writer.md",
        "/etc/hostname",
        "8:20",
        "agents.writer.prompt",
        "outside the folder",
        None,
    ),
    (
        "prompts/writer.md",
        "prompts",
        "8:20",
        "agents.writer.prompt",
        "not a regular file",
        None,
    ),
    (
        "prompts/writer.md",
        "You write texts.",
        "8:20",
        "agents.writer.prompt",
        "does not exist",
        "needs a line break",
    ),
    (
        "prompts/writer.md",
        '"a\\0b"',
        "8:20",
        "agents.writer.prompt",
        "not the path",
        None,
    ),
    (
        "agent: writer",
        "agent: writter",
        "18:38",
        'flows.feature.transitions["incoming -> written"].agent',
        "unknown role 'writter'",
        "did you mean 'writer'? known: writer, reviewer, tests, boss",
    ),
    (
        "verify: tests",
        "verify: test",
        "18:54",
        'flows.feature.transitions["incoming -> written"].verify',
        "unknown role 'test'",
        "'tests'",
    ),
    (
        "verify: tests",
        "verify: reviewer",
        "18:54",
        'flows.feature.transitions["incoming -> written"].verify',
        "the output of reviewer has no boolean field `accept`",
        "accept: boolean",
    ),
    (
        "agent: writer, verify: tests, escalate: true",
        "verify: tests",
        "18:39",
        'flows.feature.transitions["incoming -> written"].verify',
        "`agent` is missing",
        None,
    ),
    (
        "verify: tests, escalate: true",
        "escalate: true",
        "18:56",
        'flows.feature.transitions["incoming -> written"].escalate',
        "`verify` is missing",
        None,
    ),
    (
        "prompt: prompts/writer.md",
        "prompt: prompts/writer.md, tier: nano",
        "18:71",
        'flows.feature.transitions["incoming -> written"].escalate',
        "writer has only the tier nano",
        "range",
    ),
    (
        "agent: writer, verify",
        "agent: boss, verify",
        "18:69",
        'flows.feature.transitions["incoming -> written"].escalate',
        "boss is of type human",
        None,
    ),
    (
        '"written -> abandoned"',
        '"written => abandoned"',
        "21:7",
        'flows.feature.transitions["written => abandoned"]',
        "expected a transition `from -> to`",
        None,
    ),
    (
        '"written -> abandoned"',
        '"written -> a -> b"',
        "21:7",
        'flows.feature.transitions["written -> a -> b"]',
        "expected a transition",
        None,
    ),
    (
        '"written -> abandoned"',
        '"written->signed"',
        "21:7",
        'flows.feature.transitions["written->signed"]',
        "the same transition stands in line 19",
        "list",
    ),
    (
        "initial: incoming",
        "initial: incomming",
        "16:14",
        "flows.feature.initial",
        "no transition has the state 'incomming'",
        "did you mean 'incoming'?",
    ),
    (
        "initial: incoming",
        "initial: signed",
        "18:7",
        'flows.feature.transitions["incoming -> written"]',
        "the state 'incoming' cannot be reached from 'signed'",
        None,
    ),
    (
        "signed: {timeout",
        "sined: {timeout",
        "25:7",
        "flows.feature.states.sined",
        "the flow has no state 'sined'",
        "did you mean 'signed'?",
    ),
    (
        "timeout: 2d",
        "timeout: 2d, holds: prs",
        "25:36",
        "flows.feature.states.signed.holds",
        "unknown WIP limit 'prs'",
        "known: none",
    ),
    (
        '"signed -> stale": {}',
        '"done -> failed": {}\n      "failed -> stale": {}',
        "24:7",
        'flows.feature.transitions["failed -> stale"]',
        "failed is terminal",
        None,
    ),
    (
        '"written -> abandoned": {}',
        '"written -> abandoned": {}\n      "written -> late": {}',
        "22:7",
        'flows.feature.transitions["written -> late"]',
        "never tried: 'written -> abandoned' in line 21 always holds",
        "when",
    ),
    (
        "{timeout: 2d}",
        "{}",
        "23:7",
        'flows.feature.transitions["signed -> stale"]',
        "never tried: 'signed -> done' in line 22 always holds",
        None,
    ),
    (
        ", max_visits: 3",
        "",
        "20:7",
        'flows.feature.transitions["written -> incoming"]',
        "the cycle incoming -> written -> incoming has no max_visits",
        "max_visits: 3",
    ),
    (
        '"signed -> stale": {}',
        '"signed -> loop": {}\n      "loop -> loop": {max_visits: 2}',
        "24:7",
        'flows.feature.transitions["loop -> loop"]',
        "no terminal state can be reached from loop",
        "terminal",
    ),
    (
        "when: {verdict: approve}",
        "when: {verdict: aprove}",
        "19:62",
        'flows.feature.transitions["written -> signed"].when.verdict',
        "verdict is never that; it is one of approve, reject",
        "did you mean 'approve'?",
    ),
    (
        "when: {verdict: reject}",
        "when: {verdict: [reject, rejct]}",
        "20:56",
        'flows.feature.transitions["written -> incoming"].when.verdict[1]',
        "never that",
        "'reject'",
    ),
    (
        "when: {verdict: approve}",
        "when: {verdct: approve}",
        "19:53",
        'flows.feature.transitions["written -> signed"].when.verdct',
        "no declared field 'verdct'",
        "did you mean 'verdict'?",
    ),
    (
        "when: {verdict: approve}",
        'when: {notes: {"=>": x}}',
        "19:61",
        'flows.feature.transitions["written -> signed"].when.notes["=>"]',
        "unknown operator '=>'",
        "known: ==, !=, >, >=, <, <=, not",
    ),
    (
        "when: {verdict: approve}",
        "when: {notes: true}",
        "19:60",
        'flows.feature.transitions["written -> signed"].when.notes',
        "its type is string",
        None,
    ),
    (
        "when: {verdict: approve}",
        'when: {notes: {">": null}}',
        "19:66",
        'flows.feature.transitions["written -> signed"].when.notes[">"]',
        "compares with a number or text",
        None,
    ),
    (
        "when: {verdict: approve}",
        "when: {verdict: []}",
        "19:53",
        'flows.feature.transitions["written -> signed"].when.verdict',
        "never matches",
        None,
    ),
    (
        "when: {verdict: approve}",
        "when: {}",
        "19:46",
        'flows.feature.transitions["written -> signed"].when',
        "at least 1",
        None,
    ),
]


@pytest.mark.parametrize(
    ("old", "new", "place", "path", "message", "hint"), SCHEMA + CROSS
)
def test_a_mistake_is_reported_at_its_place(
    check: Check,
    good: str,
    old: str,
    new: str,
    place: str,
    path: str,
    message: str,
    hint: str | None,
) -> None:
    """Line, column, path, words and hint point at what is wrong."""
    assert 1 <= good.count(old)

    loaded, problems = check(good.replace(old, new, 1))

    assert loaded is None
    found = [p for p in errors(problems) if p.path == path and message in p.message]
    assert [place] == [f"{p.line}:{p.column}" for p in found], list(map(str, problems))
    assert (hint or "") in (found[0].hint or "")


@pytest.mark.parametrize(("old", "new", "place", "path", "message", "hint"), SCHEMA)
def test_a_mistake_in_one_place_is_reported_once(
    check: Check,
    good: str,
    old: str,
    new: str,
    place: str,
    path: str,
    message: str,
    hint: str | None,
) -> None:
    """One wrong key does not make a row of other errors."""
    found = errors(check(good.replace(old, new, 1))[1])

    related = [p for p in found if p.path == path]
    assert 1 == len(related), [str(p) for p in found]


def test_the_good_file_has_no_problems(check: Check, good: str) -> None:
    """The text that all cases change is itself without errors and warnings."""
    loaded, problems = check(good)

    assert loaded is not None
    assert () == problems == loaded.warnings


def test_the_value_is_shown_as_written(check: Check, good: str) -> None:
    """`4_096` is not shown as 4096, and a long value is shortened."""
    long = "x" * 100

    _, problems = check(
        good.replace("max_output_tokens: 4096", "max_output_tokens: '4_096'").replace(
            "model: openai:gpt-5-nano", f"model: {long}"
        )
    )

    assert ["x" * 59 + "…", "'4_096'"] == [p.value for p in errors(problems)]


@pytest.mark.parametrize(
    "line",
    [
        "api_key_env: sk-live-1234",
        "api_key: sk-live-1234",
        "base_url: http://me:sk-live-1234@host/",
        "base_url: http://host/?key=sk-live-1234",
    ],
)
def test_a_secret_in_the_wrong_place_is_not_shown(
    check: Check, good: str, line: str
) -> None:
    """Keys that people put into the file stay out of messages."""
    loaded, problems = check(good.replace("max_output_tokens: 4096", line))

    assert loaded is None
    assert errors(problems)
    assert "sk-live" not in " ".join(map(str, problems))


def test_a_prompt_is_not_shown(check: Check, good: str) -> None:
    """A prompt written in the file does not reach messages."""
    text = '"SECRET line\\n' + "x" * 70_000 + '"'

    _, problems = check(good.replace("prompts/writer.md", text))

    assert ["agents.writer.prompt"] == [p.path for p in errors(problems)]
    assert "larger than 64 KiB" in problems[0].message
    assert "SECRET" not in str(problems[0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b" \n\t\n", "is empty"),
        (b"ab\xffcd", "is not UTF-8 text: byte 0xff at offset 2"),
        (b"x" * (64 * 1024 + 1), "is larger than 64 KiB"),
    ],
)
def test_a_prompt_file_that_cannot_be_used(
    check: Check, good: str, folder: Path, content: bytes, message: str
) -> None:
    """Empty, binary and huge prompt files are named with the reason."""
    (folder / "prompts" / "writer.md").write_bytes(content)

    (problem,) = errors(check(good)[1])

    assert ("agents.writer.prompt", 8, 20) == (
        problem.path,
        problem.line,
        problem.column,
    )
    assert message in problem.message


def test_a_link_out_of_the_folder_is_refused(
    check: Check, good: str, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A prompt that is a link to somewhere else counts as outside."""
    outside = tmp_path_factory.mktemp("outside") / "secret.md"
    outside.write_text("not yours")
    (folder / "prompts" / "writer.md").unlink()
    (folder / "prompts" / "writer.md").symlink_to(outside)

    (problem,) = errors(check(good)[1])

    assert "outside the folder" in problem.message


def test_all_problems_come_at_once_in_the_order_of_the_file(
    check: Check, good: str
) -> None:
    """A schema error in one part hides no problem of another."""
    text = (
        good.replace("openai:gpt-5-nano", "local:smol")
        .replace("max_output_tokens: 4096", "max_output_tokens: lots")
        .replace("prompts/writer.md", "prompts/wrter.md")
        .replace("verdict: [approve, reject]", "verdict: sting")
        .replace("agent: writer", "agent: writter")
        .replace("max_visits: 3", "max_visit: 3")
        .replace("timeout: 2d", "holds: prs")
    )

    loaded, problems = check(text)

    assert loaded is None
    assert [
        (3, "tiers.nano.model"),
        (6, "tiers.standard.max_output_tokens"),
        (8, "agents.writer.prompt"),
        (11, "agents.reviewer.output.verdict"),
        (18, 'flows.feature.transitions["incoming -> written"].agent'),
        (20, 'flows.feature.transitions["written -> incoming"].max_visit'),
        (23, 'flows.feature.transitions["signed -> stale"]'),
        (25, "flows.feature.states.signed.holds"),
    ] == [(p.line, p.path) for p in errors(problems)]


def test_an_invalid_part_is_still_known_by_its_name(check: Check, good: str) -> None:
    """A role with an error in it is no unknown role elsewhere."""
    text = good.replace("{prompt: prompts/writer.md}", "{promt: prompts/writer.md}")

    paths = [p.path for p in errors(check(text)[1])]

    assert ["agents.writer.promt"] == paths


def test_a_section_that_is_no_mapping_hides_nothing_and_adds_nothing(
    check: Check, good: str
) -> None:
    """With `tiers` broken no role is told that its tier is unknown."""
    start, end = good.index("tiers:"), good.index("agents:")
    text = good[:start] + "tiers: [nano]\n" + good[end:]
    text = text.replace("prompts/writer.md", "prompts/writer.md, tier: nano")

    assert [("tiers", "expected a mapping")] == [
        (p.path, p.message) for p in errors(check(text)[1])
    ]
