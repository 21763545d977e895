"""Reads work items from files, folders, standard input or the command line."""

from __future__ import annotations

import json
import re
import sys
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tierpool.client import START_LIMIT_BYTES
from tierpool.contracts import WorkItem
from tierpool.errors import ConfigError, Problem

__all__ = ["read_items"]

_TEXT = (".md", ".txt", ".diff", ".patch")
_JSON = (".json", ".jsonl")


class _Strict(WorkItem, extra="forbid"):
    """An item as people write it: a misspelt field must not be lost."""


_ID = re.compile(r"[^\w.-]+")


def read_items(
    sources: Sequence[str], texts: Sequence[str], id: str | None
) -> list[WorkItem]:
    """Read every item before any is started.

    Args:
        sources: Files, folders, or `-` for standard input. A text file's item has
            the file's name as ID and a first line `# …` as title; a JSON file
            holds one item, a list, or (jsonl) one a line.
        texts: Texts given on the command line.
        id: ID of the item, if there is just one.

    Raises:
        ConfigError: with everything that is wrong with the sources.
    """
    items: list[WorkItem] = []
    problems: list[Problem] = []
    for source in sources:
        for file in _files(source, problems):
            items += _read(file, problems)
    items += [_text_item(text, _fresh_id()) for text in texts]
    if id is not None:
        if len(items) == 1:
            items = [items[0].model_copy(update={"id": id})]
        elif not problems:
            problems.append(Problem(f"--id names one item, but there are {len(items)}"))
    for name, count in Counter(item.id for item in items).items():
        if count > 1:
            problems.append(Problem(f"{count} items have the ID {name!r}"))
    if not items and not problems:
        problems.append(
            Problem("there is no item: pass --item FILE, --item - or --text")
        )
    if problems:
        raise ConfigError(problems)
    return items


def _files(source: str, problems: list[Problem]) -> Iterator[Path | None]:
    """Yield the files of a source; None stands for standard input."""
    if source == "-":
        yield None
        return
    path = Path(source)
    if path.is_dir():
        known = sorted(f for f in path.iterdir() if f.suffix in (*_TEXT, *_JSON))
        if not known:
            problems.append(
                Problem(
                    f"no items in the folder; known: {' '.join((*_TEXT, *_JSON))}",
                    file=source,
                )
            )
        yield from known
    elif path.is_file():
        yield path
    else:
        problems.append(Problem("there is no such file or folder", file=source))


def _read(file: Path | None, problems: list[Problem]) -> list[WorkItem]:
    name = str(file or "standard input")
    try:
        if file is not None and file.stat().st_size > START_LIMIT_BYTES * 4:
            size = file.stat().st_size
            limit = f"{START_LIMIT_BYTES:,} bytes"
            problems.append(
                Problem(
                    f"{size:,} bytes are no item; an item has at most {limit}",
                    file=name,
                )
            )
            return []
        raw = file.read_bytes() if file else sys.stdin.buffer.read()
        text = raw.decode()
    except OSError as error:
        problems.append(Problem(f"cannot be read: {error.strerror}", file=name))
        return []
    except UnicodeDecodeError as error:
        problems.append(Problem(f"not UTF-8 text (byte {error.start})", file=name))
        return []
    if not text.strip():
        problems.append(Problem("is empty", file=name))
        return []
    if file is not None and file.suffix in _JSON:
        return list(_json_items(file, text, problems))
    return [_text_item(text, _ID.sub("-", file.stem) if file else _fresh_id())]


def _json_items(file: Path, text: str, problems: list[Problem]) -> Iterator[WorkItem]:
    documents: list[tuple[int, Any]] = []
    numbered = (
        [(n, line) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
        if file.suffix == ".jsonl"
        else [(1, text)]
    )
    for number, part in numbered:
        try:
            document = json.loads(part)
        except ValueError as error:
            problems.append(Problem(f"not JSON: {error}", file=str(file), line=number))
            continue
        many = document if isinstance(document, list) else [document]
        documents += [(number, one) for one in many]
    for index, (number, document) in enumerate(documents):
        if isinstance(document, dict) and "id" not in document:
            suffix = f"-{index + 1}" if len(documents) > 1 else ""
            document = {**document, "id": file.stem + suffix}
        try:
            yield _Strict.model_validate(document)
        except (ValidationError, ValueError, TypeError) as error:
            first = (
                str(error.errors()[0]["msg"])
                if isinstance(error, ValidationError)
                else str(error)
            )
            problems.append(
                Problem(
                    f"no work item: {first}; expected id, title, text, data, priority",
                    file=str(file),
                    line=number,
                )
            )


def _text_item(text: str, id: str) -> WorkItem:
    first, _, rest = text.strip().partition("\n")
    if first.startswith("# "):
        return WorkItem(id=id, title=first[2:].strip()[:200], text=rest.strip())
    return WorkItem(id=id, title=first[:80], text=text.strip())


def _fresh_id() -> str:
    return f"item-{uuid.uuid4().hex[:8]}"
