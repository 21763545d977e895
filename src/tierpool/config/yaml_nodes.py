"""Parses YAML 1.2 text into nodes with places, within bounds.

Knows nothing of agents.yaml. Guards against text that grows when it is read:
deep nesting, cyclic aliases, aliases that multiply. A number with a fraction
keeps its digits, so that money is read exactly.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode
from ruamel.yaml.nodes import Node as YamlNode
from ruamel.yaml.reader import ReaderError
from ruamel.yaml.resolver import VersionedResolver

from tierpool.config.report import Key, Mark, Node, Report

__all__ = ["MAX_DEPTH", "MAX_NODES", "WrittenFloat", "parse_yaml"]

MAX_DEPTH = 40
"""Deepest nesting; agents.yaml itself needs about ten levels."""
MAX_NODES = 100_000
"""Most values after aliases are expanded; the 1 MiB of text may name each often."""
_MAX_DIGITS = 60
_TAG = "tag:yaml.org,2002:"
_INT_BASES = {"0b": 2, "0o": 8, "0x": 16}


class WrittenFloat(float):
    """A float whose text is the digits as written: `1.10` stays `1.10`."""

    text: str

    def __new__(cls, text: str) -> WrittenFloat:
        """Read a number such as `1.10`, `1_000.5` or `1e3`."""
        digits = text.replace("_", "")
        number = super().__new__(cls, digits)
        number.text = digits
        return number

    def __str__(self) -> str:
        return self.text


class _Stop(Exception):
    """The text cannot be read any further; the report says why."""


class _Composer(Composer):
    """Bounds the nesting; an anchor may be used again, as YAML allows."""

    def __init__(self, loader: Any = None) -> None:
        super().__init__(loader=loader)
        self.warn_double_anchors = False
        self.nesting = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.nesting += 1
        if self.nesting > MAX_DEPTH:
            event = self.parser.peek_event()
            raise MarkedYAMLError(
                problem=f"nested more than {MAX_DEPTH} levels deep",
                problem_mark=event.start_mark,
            )
        node = super().compose_node(parent, index)
        self.nesting -= 1
        return node


class _Resolver(VersionedResolver):
    """Reads scalars as YAML 1.2 does, whatever a %YAML line says."""

    @property
    def processing_version(self) -> tuple[int, int]:
        return (1, 2)


def parse_yaml(text: str, report: Report) -> Node | None:
    """Parse one document; None if there is none or it cannot be read."""
    yaml = YAML(typ="safe", pure=True)
    yaml.Composer = _Composer
    yaml.Resolver = _Resolver
    try:
        root = yaml.compose(text)
        if root is None:
            report.at(Mark(1, 1), (), "the file is empty", hint="start with version: 1")
            return None
        return _Builder(text, report).build(root, (), 1)
    except _Stop:
        return None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        words = [str(w) for w in (error.context, error.problem) if w]
        place = Mark(mark.line + 1, mark.column + 1) if mark else None
        report.at(place, (), _wording(", ".join(words)))
    except ReaderError as error:
        before = text[: error.position]
        place = Mark(before.count("\n") + 1, error.position - before.rfind("\n"))
        report.at(place, (), f"not YAML: character {error.character!r} is not allowed")
    except Exception as error:  # noqa: BLE001 - the parser lets ValueError, AttributeError and others through
        report.at(None, (), f"not YAML: the parser gave up ({type(error).__name__})")
    return None


def _wording(problem: str) -> str:
    if "expected a single document" in problem:
        return "more than one document (a line `---` starts another); keep one"
    return problem if problem.startswith("nested") else f"not YAML: {problem}"


class _Builder:
    """Builds nodes from the parser's graph and counts them."""

    def __init__(self, text: str, report: Report) -> None:
        self._text = text
        self._report = report
        self._count = 0
        self._open: set[int] = set()

    def build(self, node: YamlNode, path: tuple[Key, ...], depth: int) -> Node:
        """Build one value; aliases are expanded.

        Raises:
            _Stop: if it does not end or grows too large; already reported.
        """
        mark = _mark(node)
        self._count += 1
        if id(node) in self._open:
            self._stop(mark, path, "an alias refers to a value that contains it")
        if self._count > MAX_NODES:
            self._stop(
                mark, path, f"more than {MAX_NODES:,} values once aliases are expanded"
            )
        if depth > MAX_DEPTH:
            self._stop(mark, path, f"nested more than {MAX_DEPTH} levels deep")
        self._open.add(id(node))
        try:
            return self._kind(node, mark, path, depth)
        finally:
            self._open.discard(id(node))

    def _kind(
        self, node: YamlNode, mark: Mark, path: tuple[Key, ...], depth: int
    ) -> Node:
        if isinstance(node, ScalarNode):
            return self._scalar(node, mark, path)
        if _tag(node) not in ("seq", "map"):
            self._report.at(
                mark,
                path,
                f"the tag !{_tag(node).lstrip('!')} is not supported; leave it out",
            )
        if not isinstance(node, MappingNode):
            items = [
                self.build(item, (*path, number), depth + 1)
                for number, item in enumerate(node.value)
            ]
            return Node(mark, items=items)
        built = Node(mark, entries={})
        self._mapping(node, built, path, depth)
        return built

    def _mapping(
        self, node: MappingNode, built: Node, path: tuple[Key, ...], depth: int
    ) -> None:
        """Fill a mapping: merged entries first, its own go over them."""
        entries = built.entries = {}
        for source in self._merged(node, path):
            inner = self.build(source, path, depth + 1)
            for name, value in (inner.entries or {}).items():
                if name not in entries:
                    entries[name], built.keys[name] = value, inner.keys[name]
        own: dict[str, Mark] = {}
        for key_node, value_node in node.value:
            if _tag(key_node) == "merge":
                continue
            mark = _mark(key_node)
            key = self._key(key_node, mark, path)
            if key is None:
                continue
            if key in own:
                first = own[key].line
                self._report.at(
                    mark,
                    (*path, key),
                    f"the key {key!r} stands twice, in lines {first} and {mark.line}",
                    hint="the second would silently win; remove one",
                )
                continue
            own[key] = mark
            entries[key] = self.build(value_node, (*path, key), depth + 1)
            built.keys[key] = mark

    def _merged(self, node: MappingNode, path: tuple[Key, ...]) -> Iterator[YamlNode]:
        for key, value in node.value:
            if _tag(key) != "merge":
                continue
            sources = value.value if isinstance(value, SequenceNode) else [value]
            for source in sources:
                if isinstance(source, MappingNode):
                    yield source
                else:
                    message = "`<<` merges a mapping or a list of mappings"
                    self._report.at(_mark(key), (*path, "<<"), message)

    def _key(self, node: YamlNode, mark: Mark, path: tuple[Key, ...]) -> str | None:
        scalar = isinstance(node, ScalarNode)
        if scalar and _tag(node) in ("str", "timestamp") and _encodes(node.value):
            return str(node.value)
        shown = self._written(node) if scalar else None
        self._report.at(
            mark, path, "a key must be text", value=shown, hint="write it in quotes"
        )
        return None

    def _scalar(self, node: ScalarNode, mark: Mark, path: tuple[Key, ...]) -> Node:
        text = str(node.value)
        built = Node(mark, text=self._written(node))
        problem = None if _encodes(text) else "half of a surrogate pair is not text"
        try:
            built.scalar = _value(_tag(node), text) if problem is None else ""
        except ValueError as error:
            problem = str(error)
        if problem:
            shown = text if text.lower().lstrip("+-") in (".inf", ".nan") else None
            self._report.at(mark, path, problem, value=shown)
        return built

    def _written(self, node: YamlNode) -> str:
        return self._text[node.start_mark.index : node.end_mark.index]

    def _stop(self, mark: Mark, path: tuple[Key, ...], message: str) -> None:
        self._report.at(mark, path[:6], message)
        raise _Stop


def _value(tag: str, text: str) -> bool | int | float | str | None:
    """Read a scalar.

    Raises:
        ValueError: says what is wrong with it.
    """
    if tag in ("str", "timestamp", "merge", "value"):
        return text
    if tag == "null":
        return None
    if tag == "bool" and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if tag == "int":
        return _integer(text)
    if tag == "float":
        return _float(text)
    raise ValueError(f"the tag !{tag.lstrip('!')} is not supported; leave it out")


def _integer(text: str) -> int:
    digits = text.replace("_", "").lower()
    if len(digits) > _MAX_DIGITS:
        raise ValueError(f"a number of more than {_MAX_DIGITS} digits")
    sign = -1 if digits.startswith("-") else 1
    digits = digits.lstrip("+-")
    base = _INT_BASES.get(digits[:2], 10)
    try:
        return sign * int(digits[2:] if base != 10 else digits, base)
    except ValueError:
        raise ValueError("not a number; write text in quotes") from None


def _float(text: str) -> float:
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"a number of more than {_MAX_DIGITS} digits")
    try:
        number = WrittenFloat(
            text.lower().replace(".inf", "inf").replace(".nan", "nan")
        )
    except ValueError:
        raise ValueError("not a number; write text in quotes") from None
    if not math.isfinite(number):
        raise ValueError("expected a finite number")
    return number


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _mark(node: YamlNode) -> Mark:
    return Mark(node.start_mark.line + 1, node.start_mark.column + 1)


def _tag(node: YamlNode) -> str:
    return str(node.tag).removeprefix(_TAG)
