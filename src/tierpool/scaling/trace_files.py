"""Reads traces from CSV and `.npz` files, says all that is wrong, writes CSV."""

from __future__ import annotations

import csv
import math
import re
import zipfile
import zlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from tierpool.errors import ConfigError, Problem, UsageError
from tierpool.scaling.synthetic import is_spec, synthetic_trace
from tierpool.scaling.traces import (
    MOST_CALLS,
    MOST_SERVICE_SECONDS,
    MOST_SPAN_SECONDS,
    Trace,
)

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "COLUMNS",
    "DURATION",
    "SHOWN_PROBLEMS",
    "read_trace",
    "trace_of_text",
    "write_trace",
]

COLUMNS = ("seconds", "input_tokens", "output_tokens")
DURATION = "duration_seconds"
"""Optional fourth column of a CSV file: how long the call took an instance."""

SHOWN_PROBLEMS = 20
"""So many problems of a file are told in full; the others are counted."""

_NPZ_KEYS = ("dt_ms", "inp", "out")
_NPZ_BYTES = 16 * MOST_CALLS + 4096
"""Of one array unpacked, header included: more is not even unpacked."""
_DAY = 86_400.0
_MOST_SECONDS = 1e11
_MOST_TOKENS = 10**9
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
_HEADER = ",".join(COLUMNS)


def read_trace(path: Path) -> Trace:
    """Read a trace from a `.csv` or an `.npz` file, named after the file.

    CSV: a header `seconds,input_tokens,output_tokens`, and `duration_seconds` if
    it was measured; seconds of any origin, ascending. npz: arrays `dt_ms`
    (milliseconds since the call before), `inp` and `out` (tokens).

    Raises:
        ConfigError: with all that is wrong with it, the first 20 in full.
        UsageError: for `.npz` without numpy.
    """
    found = _Found(path)
    _check_place(path, found)
    readers = {".csv": _read_csv, ".npz": _read_npz}
    read = readers.get(path.suffix.lower())
    if read is None:
        ending = repr(path.suffix) if path.suffix else "a name without an ending"
        found.refuse(f"{ending} is no known form of a trace; use .csv or .npz")
    return read(path, found)


def trace_of_text(text: str, *, seed: int | None = None) -> Trace:
    """Read the file of this name, or make the trace that it specifies.

    Raises:
        ConfigError: with all that is wrong with the file.
        UsageError: with all that is wrong with the spec.
    """
    path = Path(text)
    if is_spec(text) and path.suffix.lower() not in (".csv", ".npz"):
        return synthetic_trace(text, seed=seed)
    return read_trace(path)


def _check_place(path: Path, found: _Found) -> None:
    """Refuse what is no file that can be asked for."""
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except OSError as error:  # a folder that may not be entered, a name too long
        found.refuse(f"cannot be read: {error.strerror}")
    if is_folder:
        found.refuse("a folder; a trace is a .csv or an .npz file")
    if not is_file:
        found.refuse("no such file; a trace is a .csv or an .npz file")


def write_trace(trace: Trace, path: Path) -> None:
    """Write a trace as CSV; with durations if it has them.

    Raises:
        OSError: if the file cannot be written.
    """
    columns: list[Sequence[object]] = [
        [f"{second:.6f}" for second in trace.seconds],
        trace.input_tokens,
        trace.output_tokens,
    ]
    header = list(COLUMNS)
    if trace.durations is not None:
        header.append(DURATION)
        columns.append([f"{duration:.6f}" for duration in trace.durations])
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(header)
        rows.writerows(zip(*columns, strict=True))


@dataclass
class _Found:
    """Problems of one file."""

    path: Path
    count: int = 0
    shown: list[Problem] = field(default_factory=list)

    def add(
        self, message: str, *, line: int = 0, value: object = None, place: str = ""
    ) -> None:
        """Note one more."""
        self.count += 1
        if len(self.shown) < SHOWN_PROBLEMS:
            text = None if value is None else repr(value)[:60]
            problem = Problem(message, place, str(self.path), line, value=text)
            self.shown.append(problem)

    def refuse(self, message: str) -> NoReturn:
        """Give up at once."""
        self.add(message)
        self.check()
        raise AssertionError("unreachable")

    def check(self) -> None:
        """Raise what was found, if anything was."""
        more = self.count - len(self.shown)
        if more > 0:
            text = f"and {more:,} problems more of this file"
            self.shown.append(Problem(text, file=str(self.path)))
        if self.shown:
            raise ConfigError(self.shown)


@dataclass
class _Columns:
    """What was read so far; a row with a problem is left out."""

    seconds: array[float] = field(default_factory=lambda: array("d"))
    inputs: array[int] = field(default_factory=lambda: array("q"))
    outputs: array[int] = field(default_factory=lambda: array("q"))
    durations: array[float] = field(default_factory=lambda: array("d"))

    def trace(self, name: str, *, measured: bool) -> Trace:
        first = self.seconds[0]
        seconds = array("d", (second - first for second in self.seconds))
        return Trace(
            name,
            seconds,
            self.inputs,
            self.outputs,
            self.durations if measured else None,
        )


def _checked(trace: Trace, found: _Found) -> Trace:
    """Return the trace if it is short enough."""
    if trace.span_seconds > MOST_SPAN_SECONDS:
        found.refuse(
            f"{trace.span_seconds / _DAY:,.1f} days from the first call to the last; at "
            f"most {MOST_SPAN_SECONDS / _DAY:.0f} are replayed: take a part of it"
        )
    return trace


def _read_csv(path: Path, found: _Found) -> Trace:
    columns, measured = _Columns(), False
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file)
            measured = _read_header(next(rows, None), found)
            for row in _rows(rows, 4 if measured else 3, found):
                _take(row, rows.line_num, columns, found)
                if len(columns.seconds) > MOST_CALLS:
                    found.refuse(f"more than {MOST_CALLS:,} calls; take a part of it")
    except UnicodeDecodeError as error:
        found.add(f"no text in UTF-8: {error.reason} at byte {error.start:,}")
    except OSError as error:
        found.add(f"cannot be read: {error.strerror}")
    except csv.Error as error:
        found.add(f"cannot be read: {error}")
    if not columns.seconds and not found.count:
        found.add(f"no call is in it; below the header {_HEADER} one line is one call")
    found.check()
    return _checked(columns.trace(path.stem, measured=measured), found)


def _read_header(row: list[str] | None, found: _Found) -> bool:
    """Check the first line; return whether durations were measured."""
    if row is None:
        found.refuse(f"the file is empty; it begins with the line {_HEADER}")
    names = tuple(name.strip() for name in row)
    if names not in (COLUMNS, (*COLUMNS, DURATION)):
        told = f"the first line is {_HEADER}, or that and {DURATION}"
        found.add(f"wrong columns; {told}{_why(names)}", line=1, value=",".join(names))
        found.check()
    return len(names) > len(COLUMNS)


def _why(names: tuple[str, ...]) -> str:
    """Guess what is wrong with a first line."""
    if len(names) == 1:
        for separator, called in _SEPARATORS.items():
            if separator in names[0]:
                return f"; fields are separated by commas, not by {called}"
    if any(re.fullmatch(r"[-+]?[\d.]+", name) for name in names):
        return "; there is a call where the header should be"
    return ""


def _rows(rows: Any, width: int, found: _Found) -> Iterator[list[str]]:
    """Return the rows that have the right number of fields; skip empty lines."""
    for row in rows:
        if len(row) == width:
            yield row
        elif row:
            found.add(
                f"{len(row)} fields; {width} are right",
                line=rows.line_num,
                value=",".join(row),
            )


def _take(row: list[str], line: int, columns: _Columns, found: _Found) -> None:
    """Take up one row, or say all that is wrong with it."""
    before = found.count
    second = _number(row[0], COLUMNS[0], line, found, negative=True)
    tokens = [
        _tokens(text, name, line, found)
        for text, name in zip(row[1:3], COLUMNS[1:], strict=True)
    ]
    duration = _number(row[3], DURATION, line, found) if len(row) > 3 else 0.0
    last = columns.seconds[-1] if columns.seconds else -math.inf
    if second is not None and second < last:
        found.add(
            f"out of order: the call before came at {last!r}; sort the file by seconds",
            line=line,
            value=second,
            place=COLUMNS[0],
        )
    if found.count > before or second is None or duration is None:
        return
    columns.seconds.append(second)
    columns.inputs.append(tokens[0])
    columns.outputs.append(tokens[1])
    columns.durations.append(duration)


def _number(
    text: str, name: str, line: int, found: _Found, *, negative: bool = False
) -> float | None:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    most = _MOST_SECONDS if negative else MOST_SERVICE_SECONDS
    if math.isnan(number) or (negative and math.isinf(number)):
        right = "not a number of seconds"
    elif number < 0 and not negative:
        right = "less than 0"
    elif abs(number) > most:
        right = f"more than {most:,.0f} seconds; are these milliseconds?"
    else:
        return number
    found.add(right, line=line, value=text, place=name)
    return None


def _tokens(text: str, name: str, line: int, found: _Found) -> int:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or number != int(number):
        found.add("not a whole number of tokens", line=line, value=text, place=name)
    elif not 0 <= number <= _MOST_TOKENS:
        right = f"not within 0 and {_MOST_TOKENS:,} tokens"
        found.add(right, line=line, value=text, place=name)
    else:
        return int(number)
    return 0


def _read_npz(path: Path, found: _Found) -> Trace:
    try:
        import numpy as np
    except ImportError as error:
        raise UsageError(
            f"{path}: .npz needs numpy: pip install 'tierpool[scaling]'; or use .csv"
        ) from error
    try:
        # np.load leaves a file open that it opened itself and cannot read
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                # a pickle, say: np.load would offer to run it
                needed = ", ".join(_NPZ_KEYS)
                found.refuse(f"cannot be read as .npz: no archive of arrays {needed}")
            file.seek(0)
            archive = np.load(file, allow_pickle=False)
            _check_archive(archive, found)
            arrays = [archive[key] for key in _NPZ_KEYS]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        found.refuse(f"cannot be read as .npz: {error}")
    except (NotImplementedError, RuntimeError) as error:  # its packing, a password
        found.refuse(f"cannot be read as .npz: {error}")
    except MemoryError:
        found.refuse("cannot be read as .npz: an array is larger than the memory")
    _check_arrays(arrays, found)
    gaps, inputs, outputs = arrays
    seconds = np.cumsum(gaps.astype(np.float64)) / 1000.0
    trace = Trace(
        path.stem,
        array("d", (seconds - seconds[0]).tobytes()),
        array("q", inputs.astype(np.int64).tobytes()),
        array("q", outputs.astype(np.int64).tobytes()),
    )
    return _checked(trace, found)


def _check_archive(archive: Any, found: _Found) -> None:
    """Say which arrays are missing, and which would be too large, unpacked."""
    for key in _NPZ_KEYS:
        if key not in archive.files:
            names = ", ".join(archive.files) or "nothing"
            found.add(f"the array is missing; the file has {names}", place=key)
    for member in archive.zip.infolist():
        key = member.filename.removesuffix(".npy")
        if key in _NPZ_KEYS and member.file_size > _NPZ_BYTES:
            size = f"{member.file_size:,} bytes unpacked"
            found.add(f"{size} are more than {MOST_CALLS:,} calls", place=key)
    found.check()


def _check_arrays(arrays: Sequence[np.ndarray[Any, Any]], found: _Found) -> None:
    """Say what cannot be a trace; entries count from 0."""
    for key, one in zip(_NPZ_KEYS, arrays, strict=True):
        if not hasattr(one, "shape"):  # a member that is no array is given as bytes
            found.add("one row of numbers is right; this is no array", place=key)
    found.check()
    sizes = [one.shape for one in arrays]
    for key, one in zip(_NPZ_KEYS, arrays, strict=True):
        if one.ndim != 1 or one.dtype.kind not in "iuf":
            what = f"{one.dtype} of shape {one.shape}"
            found.add(f"one row of numbers is right, not {what}", place=key)
    if len(set(sizes)) > 1:
        lengths = zip(_NPZ_KEYS, (size[:1] for size in sizes), strict=True)
        told = ", ".join(f"{key} {size[0] if size else 0:,}" for key, size in lengths)
        found.add(f"the arrays differ in length: {told}")
    found.check()
    if not sizes[0][0]:
        found.refuse("no call is in it: the arrays are empty")
    if sizes[0][0] > MOST_CALLS:
        found.refuse(f"more than {MOST_CALLS:,} calls; take a part of it")
    for key, one in zip(_NPZ_KEYS, arrays, strict=True):
        _check_entries(key, one, found)
    found.check()


def _check_entries(key: str, one: np.ndarray[Any, Any], found: _Found) -> None:
    import numpy as np

    told = one
    one = one.astype(np.float64)  # limits do not fit into every type of number
    finite = np.isfinite(one)
    bad = ~finite | (one < 0) | (one > _MOST_TOKENS)
    if key == "dt_ms":
        bad[0] = not finite[0]  # the first is the distance to any origin
        kind = "number"
    else:
        bad |= finite & (one != np.floor(one))
        kind = "whole number"
    for index in np.flatnonzero(bad):
        value, order = told[index].item(), ""
        if key == "dt_ms" and finite[index] and value < 0:
            order = "out of order: "
        right = f"{order}a {kind} from 0 to {_MOST_TOKENS:,} is right"
        found.add(right, value=value, place=f"{key}[{index}]")
