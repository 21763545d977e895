"""Reading YAML: places, exact numbers, and text that would hurt the reader."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tierpool.config import check_fleet, load_fleet
from tierpool.config.report import Mark, Node, Report, path_text
from tierpool.config.yaml_nodes import MAX_DEPTH, WrittenFloat, parse_yaml
from tierpool.errors import ConfigError

Check = Callable[..., Any]


def parse(text: str) -> tuple[Node | None, list[str]]:
    """Parse a text; problems as `line:column message`."""
    report = Report("f")
    root = parse_yaml(text, report)
    return root, [f"{p.line}:{p.column} {p.message}" for p in report.problems()]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("null", None),
        ("12", 12),
        ("-1_000", -1000),
        ("010", 10),
        ("0o17", 15),
        ("0x1F", 31),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        ("-.5", -0.5),
        ("2026-01-31", "2026-01-31"),
        ("1:30", "1:30"),
        ("'12'", "12"),
        ("!!str 12", "12"),
        ("=", "="),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, expected: Any) -> None:
    """`yes` is text, `true` is not; dates stay text."""
    root, problems = parse(f"key: {text}\n")

    assert [] == problems
    assert root is not None
    assert {"key": expected} == root.plain()
    assert type(expected) is type(root.plain()["key"]) or expected in (  # type: ignore[index, call-overload]
        1.5,
        1000.0,
        -0.5,
    )


def test_an_older_version_line_does_not_change_the_meaning() -> None:
    """`%YAML 1.1` does not bring back `yes` for true."""
    root, problems = parse("%YAML 1.1\n---\na: yes\nb: 1:30\n")

    assert [] == problems
    assert root is not None
    assert {"a": "yes", "b": "1:30"} == root.plain()


@pytest.mark.parametrize("text", ["1.10", "0.30000000000000000001", "1_000.50"])
def test_a_fraction_keeps_its_digits(text: str) -> None:
    """Money is read from what is written, not from a binary fraction."""
    root, _ = parse(f"a: {text}\n")

    assert root is not None
    value = root.child("a").scalar  # type: ignore[union-attr]
    assert isinstance(value, WrittenFloat)
    assert Decimal(text) == Decimal(str(value))
    assert Decimal(text).as_tuple() == Decimal(str(value)).as_tuple()


def test_keys_and_values_have_their_places() -> None:
    """Lines and columns count from 1, in flow and in block style."""
    root, _ = parse("a:\n  - {b: 1, c: x}\n")

    assert root is not None
    entry = root.child("a").child(0)  # type: ignore[union-attr]
    assert isinstance(entry, Node)
    assert Mark(1, 1) == root.keys["a"]
    assert Mark(2, 12) == entry.keys["c"]
    assert Mark(2, 15) == entry.child("c").mark  # type: ignore[union-attr]


def test_merge_keys_are_followed_and_own_keys_win() -> None:
    """`<<` gives defaults; what the mapping says itself goes before."""
    root, problems = parse("d: &d {x: 1, y: 2}\ne: {<<: *d, x: 3}\nf: {<<: [*d]}\n")

    assert [] == problems
    assert root is not None
    assert {"x": 3, "y": 2} == root.child("e").plain()  # type: ignore[union-attr]
    assert {"x": 1, "y": 2} == root.child("f").plain()  # type: ignore[union-attr]


def test_an_anchor_may_be_used_again() -> None:
    """YAML lets a later anchor take over a name."""
    root, problems = parse("a: &x 1\nb: &x 2\nc: *x\n")

    assert [] == problems
    assert root is not None
    assert {"a": 1, "b": 2, "c": 2} == root.plain()


BOMB = "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{b}: &{b} [{','.join(['*' + a] * 9)}]\n"
    for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
CHAIN = "a0: &a0 [1]\n" + "".join(
    f"a{n + 1}: &a{n + 1} [*a{n}]\n" for n in range(MAX_DEPTH + 1)
)


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("", "1:1", "the file is empty"),
        ("# only a comment\n", "1:1", "the file is empty"),
        ("a: 1\n---\nb: 2\n", "2:1", "more than one document"),
        ("a: 1\nb: 2\na: 3\n", "3:1", "the key 'a' stands twice, in lines 1 and 3"),
        ("a: &x [*x]\n", "1:4", "an alias refers to a value that contains it"),
        ("a: &x\n  <<: *x\n", "1:4", "an alias refers to a value that contains it"),
        (BOMB, "", "more than 100,000 values once aliases are expanded"),
        (CHAIN, "", "nested more than 40 levels deep"),
        ("[" * 100_000, "1:41", "nested more than 40 levels deep"),
        ("a: *x\n", "1:4", "found undefined alias 'x'"),
        ("a:\n\t- b\n", "2:1", "cannot start any token"),
        ("a: [1, 2\nb: 3", "2:2", "expected ',' or ']', but got ':'"),
        ("a: 'abc\n", "2:1", "found unexpected end of stream"),
        ("a: b\n c: d\n", "2:3", "mapping values are not allowed here"),
        ("a: 1\nb: \x00c", "2:4", "character 0 is not allowed"),
        ("1: a\n", "1:1", "a key must be text"),
        ("? [a]\n: b\n", "1:3", "a key must be text"),
        ("a: .inf\n", "1:4", "expected a finite number"),
        ("a: 1e999\n", "1:4", "expected a finite number"),
        ("a: " + "9" * 5000 + "\n", "1:4", "a number of more than 60 digits"),
        ("a: -_\n", "1:4", "not a number"),
        ("a: !!int x\n", "1:4", "not a number"),
        ("a: !!bool maybe\n", "1:4", "the tag !bool is not supported"),
        ("a: !!python/name:os.system x\n", "1:4", "the tag !python/name:os.system is"),
        ("a: !!set {x}\n", "1:4", "the tag !set is not supported"),
        ("a: !!binary aGk=\n", "1:4", "the tag !binary is not supported"),
        ('a: "\\ud800"\n', "1:4", "half of a surrogate pair is not text"),
        ('a: "\\UFFFFFFFF"\n', "0:0", "the parser gave up"),
        ("a: {<<: 5}\n", "1:5", "`<<` merges a mapping"),
    ],
)
def test_text_that_cannot_be_used_is_refused_with_its_place(
    text: str, place: str, message: str
) -> None:
    """Every kind of broken or hostile YAML has a sentence of its own."""
    _, problems = parse(text)

    assert 1 == len(problems), problems
    assert problems[0].startswith(place)
    assert message in problems[0]


def test_a_top_level_that_is_no_mapping_is_refused(check: Check) -> None:
    """A list or a word is no agents.yaml."""
    loaded, (problem,) = check("- a\n- b\n")

    assert loaded is None
    assert (1, 1) == (problem.line, problem.column)
    assert "expected a mapping with version, tiers and agents" == problem.message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x7fELF\x02\x01\xff\xfe", "is not UTF-8 text: byte 0xff at offset 6"),
        (b"\xff\xfea\x00", "is not UTF-8 text: byte 0xff at offset 0"),
        (b"\xef\xbb\xbfab\xff", "is not UTF-8 text: byte 0xff at offset 5"),
    ],
)
def test_bytes_that_are_no_text_are_named_by_offset(
    check: Check, content: bytes, message: str
) -> None:
    """A binary file is refused at its first byte that is not UTF-8."""
    loaded, (problem,) = check(content)

    assert loaded is None
    assert message in problem.message


def test_a_byte_order_mark_is_no_problem(check: Check, good: str) -> None:
    """Some editors write one."""
    assert check(b"\xef\xbb\xbf" + good.encode())[0] is not None


def test_a_huge_file_is_refused_without_being_read_whole(folder: Path) -> None:
    """50 MB fail for their size, not after their parsing."""
    path = folder / "agents.yaml"
    with path.open("wb") as file:
        file.write(b"version: 1\n")
        file.truncate(50 * 1024 * 1024)

    loaded, (problem,) = check_fleet(path)

    assert loaded is None
    assert "larger than 1024 KiB" in problem.message


def test_a_missing_file_a_folder_and_an_odd_path_are_refused(folder: Path) -> None:
    """Nothing but a regular file is read."""
    os.mkfifo(folder / "fifo")
    messages = {
        str(path): check_fleet(path)[1][0].message
        for path in (folder / "no.yaml", folder, folder / "fifo", "a\0b", "x" * 5000)
    }

    assert [
        "the file does not exist",
        "the path is not a regular file",
        "the path is not a regular file",
        "cannot be read: not a valid path",
        "cannot be read: File name too long",
    ] == list(messages.values())


def test_load_raises_with_every_problem(folder: Path) -> None:
    """The exception carries the problems and prints the errors."""
    (folder / "agents.yaml").write_text("version: 2\ntires: {}\n")

    with pytest.raises(ConfigError) as caught:
        load_fleet(folder / "agents.yaml")

    assert ["agents", "tiers", "version", "tires"] == [
        p.path for p in caught.value.problems
    ]
    assert str(caught.value).startswith("4 problems\n")


@settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.text(max_size=200) | st.binary(max_size=200))
def test_no_text_makes_the_loader_crash(check: Check, content: str | bytes) -> None:
    """Whatever stands in the file, the answer is a list of problems."""
    raw = content.encode(errors="replace") if isinstance(content, str) else content

    loaded, problems = check(raw)

    assert loaded is None
    assert problems


PIECES = st.sampled_from(
    [
        *"[]{}:,-?!&*|>%@`'\"#~\n \t",
        "  ",
        ": ",
        "- ",
        "\n  ",
        "&a",
        "*a",
        "<<: ",
        "!!map ",
        "!!str ",
        "---\n",
        "...\n",
        "version: 1\n",
        "tiers:",
        "agents:",
        "flows:",
        "x",
        "1.5",
        ".nan",
        "null",
        "\\u0000",
        "\u2028",
        "é",
    ]
)


@settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(PIECES, max_size=40).map("".join))
def test_no_mix_of_yaml_makes_the_loader_crash(check: Check, text: str) -> None:
    """Text that is nearly YAML is answered, too."""
    loaded, problems = check(text)

    assert loaded is None
    assert all(p.message for p in problems)
    assert problems


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "version",
                    "tiers",
                    "agents",
                    "flows",
                    "transitions",
                    "initial",
                    "model",
                    "prompt",
                    "output",
                    "when",
                    "type",
                    "tier",
                    "a",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(VALUES, st.sampled_from(["tiers", "agents", "flows", "guardrails", "version"]))
def test_no_shape_makes_the_checks_crash(
    check: Check, good: str, value: Any, section: str
) -> None:
    """A section of any shape is answered; there is a fleet exactly without errors."""
    rest = good.replace(f"{section}:", f"was_{section}:", 1)

    loaded, problems = check(f"{section}: {json.dumps(value)}\n{rest}")

    assert (loaded is None) is any(p.severity == "error" for p in problems)


def test_paths_are_written_for_people() -> None:
    """Plain keys with dots, numbers in brackets, odd keys in quotes."""
    assert 'flows.f.transitions["a -> b"].run[0]' == path_text(
        ["flows", "f", "transitions", "a -> b", "run", 0]
    )
