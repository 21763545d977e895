"""Traces: files that are right and wrong, invented ones, durations, gaps."""

from __future__ import annotations

import pickle
import statistics
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierpool.errors import ConfigError, UsageError
from tierpool.scaling.recorded import RecordedCall, trace_of_calls
from tierpool.scaling.synthetic import synthetic_trace
from tierpool.scaling.trace_files import (
    SHOWN_PROBLEMS,
    read_trace,
    trace_of_text,
    write_trace,
)
from tierpool.scaling.traces import Trace, gaps, service_seconds

HEADER = "seconds,input_tokens,output_tokens\n"
MEASURED = "seconds,input_tokens,output_tokens,duration_seconds\n"


def written(folder: Path, text: str, name: str = "calls.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def problems(path: Path) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        read_trace(path)
    return [str(problem) for problem in raised.value.problems]


def trace(*seconds: float, outputs: int = 100) -> Trace:
    count = len(seconds)
    return Trace("made", seconds, [10] * count, [outputs] * count)


def test_csv_begins_at_its_first_call(tmp_path: Path) -> None:
    """Seconds have any origin; empty lines and a byte order mark do not matter."""
    path = written(tmp_path, f"\ufeff{HEADER}1700000000.5,10,20\n\n1700000002,11,0\n")

    read = read_trace(path)

    assert ("calls", [0.0, 1.5]) == (read.name, list(read.seconds))
    assert ([10, 11], [20, 0]) == (list(read.input_tokens), list(read.output_tokens))
    assert read.durations is None
    assert 1.5 == read.span_seconds


def test_measured_durations_are_read(tmp_path: Path) -> None:
    read = read_trace(written(tmp_path, f"{MEASURED}0,1,2,3.25\n"))

    assert [3.25] == list(read.durations or ())


@given(
    st.lists(
        st.tuples(
            st.floats(0, 1000, allow_nan=False),
            st.integers(0, 10**6),
            st.integers(0, 10**6),
            st.floats(0, 600, allow_nan=False),
        ),
        min_size=1,
        max_size=20,
    ),
    st.booleans(),
)
def test_what_is_written_is_read_again(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], measured: bool
) -> None:
    """To the microsecond."""
    rows = sorted(rows)
    made = trace_of_calls(
        [RecordedCall("nano", "r", at, 0.0, took, i, o) for at, i, o, took in rows], "x"
    )
    if not measured:
        made = Trace(made.name, made.seconds, made.input_tokens, made.output_tokens)
    path = tmp_path_factory.getbasetemp() / "again.csv"
    write_trace(made, path)

    read = read_trace(path)

    assert pytest.approx(list(made.seconds), abs=2e-6) == list(read.seconds)
    assert list(made.input_tokens) == list(read.input_tokens)
    assert list(made.output_tokens) == list(read.output_tokens)
    assert measured == (read.durations is not None)
    if measured:
        assert pytest.approx(list(made.durations or ()), abs=1e-6) == list(
            read.durations or ()
        )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the file is empty; it begins with the line seconds,input_tokens"),
        (HEADER, "no call is in it; below the header"),
        ("time,in,out\n1,2,3\n", ":1: error: wrong columns; the first line is seconds"),
        (
            f"{HEADER}nan,1,1\n",
            ":2: error: seconds: not a number of seconds (got 'nan')",
        ),
        (
            f"{HEADER}1,nan,1\n",
            "input_tokens: not a whole number of tokens (got 'nan')",
        ),
        (f"{HEADER}1,-1,1\n", "input_tokens: not within 0 and 1,000,000,000 tokens"),
        (f"{HEADER}1,1,1.5\n", "output_tokens: not a whole number of tokens"),
        (f"{HEADER}inf,1,1\n", "seconds: not a number of seconds (got 'inf')"),
        (
            f"{HEADER}5,1,1\n4,1,1\n",
            ":3: error: seconds: out of order: the call before",
        ),
        (f"{HEADER}1,1\n", ":2: error: 2 fields; 3 are right"),
        (f"{HEADER};".replace(",", ";"), "separated by commas, not by semicolons"),
        ("1,2,3\n4,5,6\n", "there is a call where the header should be (got '1,2,3')"),
        (f"{HEADER}1700000000000,1,1\n", "seconds; are these milliseconds?"),
        (f"{HEADER}0,1,1\n8640001,1,1\n", ": 100.0 days from the first call"),
        (f"{MEASURED}1,1,1,1e10\n", "duration_seconds: more than 86,400 seconds"),
        (f"{MEASURED}1,1,1,-2\n", "duration_seconds: less than 0"),
        (f"{MEASURED}1,1,1,\n", "duration_seconds: not a number of seconds (got '')"),
    ],
)
def test_wrong_csv_is_refused_with_its_place(
    tmp_path: Path, text: str, said: str
) -> None:
    (problem,) = problems(written(tmp_path, text))

    assert said in problem
    assert "calls.csv" in problem


def test_all_problems_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    """Also several of one line; the first twenty in full, the others by number."""
    rows = "1,x,y\n" + "0,1,1\n" * 30

    found = problems(written(tmp_path, HEADER + "5,1,1\n" + rows))

    assert SHOWN_PROBLEMS + 1 == len(found)
    assert [":3:", ":3:", ":3:", ":4:"] == [
        ":" + p.split(":")[1] + ":" for p in found[:4]
    ]
    assert "and 13 problems more of this file" in found[-1]


def test_missing_files_and_unknown_forms_are_refused(tmp_path: Path) -> None:
    (missing,) = problems(tmp_path / "none.csv")
    (unknown,) = problems(written(tmp_path, HEADER, "calls.txt"))
    binary = tmp_path / "calls.csv"
    binary.write_bytes(HEADER.encode() + b"\xff\xfe\x00")
    (no_text,) = problems(binary)

    assert "no such file; a trace is a .csv or an .npz file" in missing
    assert "'.txt' is no known form of a trace; use .csv or .npz" in unknown
    assert "no text in UTF-8" in no_text


def saved(folder: Path, **arrays: Any) -> Path:
    path = folder / "calls.npz"
    np.savez(path, **{name: np.array(values) for name, values in arrays.items()})
    return path


def test_npz_gives_distances_in_milliseconds(tmp_path: Path) -> None:
    """The first is the distance to any origin, even below 0."""
    read = read_trace(
        saved(tmp_path, dt_ms=[-70, 500, 250], inp=[1, 2, 3], out=[4, 5, 6])
    )

    assert [0.0, 0.5, 0.75] == list(read.seconds)
    assert ([1, 2, 3], [4, 5, 6]) == (list(read.input_tokens), list(read.output_tokens))
    assert read.durations is None


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        (
            {"dt_ms": [1], "inp": [1]},
            "out: the array is missing; the file has dt_ms, inp",
        ),
        ({"dt_ms": [1, 2], "inp": [1], "out": [1]}, "differ in length: dt_ms 2, inp 1"),
        ({"dt_ms": [], "inp": [], "out": []}, "the arrays are empty"),
        ({"dt_ms": [0, -3], "inp": [1, 1], "out": [1, 1]}, "dt_ms[1]: out of order"),
        (
            {"dt_ms": [0, np.nan], "inp": [1, 1], "out": [1, 1]},
            "dt_ms[1]: a number from",
        ),
        (
            {"dt_ms": [0, 1], "inp": [1, -1], "out": [1, 1]},
            "inp[1]: a whole number from 0",
        ),
        ({"dt_ms": [0, 1], "inp": [1, 1], "out": [1, 1.5]}, "out[1]: a whole number"),
        ({"dt_ms": [0, 2**63 - 1], "inp": [1, 1], "out": [1, 1]}, "dt_ms[1]: a number"),
        ({"dt_ms": [0.0] + [1e9] * 9, "inp": [1] * 10, "out": [1] * 10}, "104.2 days"),
        ({"dt_ms": [[0]], "inp": [1], "out": [1]}, "one row of numbers is right"),
        ({"dt_ms": ["a"], "inp": [1], "out": [1]}, "one row of numbers is right"),
    ],
)
def test_wrong_npz_is_refused(tmp_path: Path, arrays: Any, said: str) -> None:
    found = problems(saved(tmp_path, **arrays))

    assert said in "\n".join(found)


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    """Neither is anything in it run: pickles are not read."""
    (garbage,) = problems(written(tmp_path, "PK\x03\x04 not really", "calls.npz"))
    path = tmp_path / "pickled.npz"
    np.savez(path, dt_ms=np.array([object()]), inp=np.array([1]), out=np.array([1]))
    (pickled,) = problems(path)

    assert "cannot be read as .npz" in garbage
    assert "cannot be read as .npz" in pickled


@pytest.mark.parametrize("suffix", [".npy", ""])
def test_archive_of_something_else_is_refused(tmp_path: Path, suffix: str) -> None:
    """Its members have the right names and are no arrays."""
    path = tmp_path / "calls.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for key in ("dt_ms", "inp", "out"):
            archive.writestr(key + suffix, b"hello")

    assert all("this is no array" in problem for problem in problems(path))


def test_pickled_objects_are_not_run(tmp_path: Path) -> None:
    """Neither as an array of an archive nor as a file of their own."""

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    (tmp_path / "alone.npz").write_bytes(pickle.dumps(Evil()))
    evil = np.array([Evil()], dtype=object)
    np.savez(tmp_path / "one.npz", dt_ms=[1], inp=[1], out=evil)

    assert "cannot be read as .npz" in problems(tmp_path / "alone.npz")[0]
    assert "cannot be read as .npz" in problems(tmp_path / "one.npz")[0]
    assert not (tmp_path / "ran").exists()


def test_archive_that_swells_is_not_unpacked(tmp_path: Path) -> None:
    """Its sizes are told before anything is read."""
    path = tmp_path / "calls.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for key in ("inp", "out"):
            archive.writestr(f"{key}.npy", b"")
        archive.writestr("dt_ms.npy", bytes(90_000_000))

    (told,) = problems(path)

    assert "dt_ms: 90,000,000 bytes unpacked are more than 5,000,000 calls" in told


def test_names_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    (folder,) = problems(tmp_path)
    (long,) = problems(tmp_path / ("x" * 300 + ".csv"))

    assert "a folder; a trace is a .csv or an .npz file" in folder
    assert "cannot be read: File name too long" in long


def test_name_that_looks_like_a_spec_is_a_file_by_its_ending(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        trace_of_text("poisson:2.csv")
    with pytest.raises(UsageError, match=r"unknown kind 'http' \(known: poisson:RATE"):
        trace_of_text("http://127.0.0.1/calls")
    assert 2 < len(trace_of_text("poisson:2,duration=10s"))


def test_gaps_are_told_and_kept() -> None:
    """Longer than a minute and than 50 mean distances."""
    steady = [float(n) for n in range(500)]
    torn = [*steady, *(second + 900 for second in steady)]

    told = gaps(trace(*torn))

    assert [] == gaps(trace(*steady))
    assert [
        "gaps without any call: 401 s after second 499; replayed as they are"
    ] == told


@pytest.mark.parametrize(
    ("options", "measured", "seconds", "said"),
    [
        ({}, None, 2.5, "assumed: 0.5 s and 50 output tokens a second"),
        ({"tokens_per_second": 10.0}, None, 10.5, "10 output tokens a second"),
        ({"tokens_per_second": 0.01}, None, 600.0, "at most 600 s"),
        ({}, 7.0, 7.0, "measured durations of the trace"),
        ({"seconds_per_call": 3.0}, 7.0, 3.0, "every call takes 3 s, as given"),
    ],
)
def test_durations_are_given_or_measured_or_assumed(
    options: dict[str, float], measured: float | None, seconds: float, said: str
) -> None:
    durations = None if measured is None else [measured]
    made = Trace("made", [0.0], [10], [100], durations)

    found, source = service_seconds(made, **options)

    assert [seconds] == list(found)
    assert said in source


def test_a_seed_makes_the_same_trace_again() -> None:
    spec = "poisson:2,duration=10m"

    one, same, other = (synthetic_trace(spec, seed=n) for n in (1, 1, 2))

    assert list(one.seconds) == list(same.seconds)
    assert list(one.output_tokens) == list(same.output_tokens)
    assert list(one.seconds) != list(other.seconds)
    own = synthetic_trace(f"{spec},seed=1", seed=2)
    assert list(one.seconds) == list(own.seconds)


def test_poisson_has_its_rate_and_sizes() -> None:
    made = synthetic_trace("poisson:5,duration=2h,input=300,output=40,cv=0.5")

    between = [b - a for a, b in zip(made.seconds, made.seconds[1:], strict=False)]
    assert pytest.approx(36_000, rel=0.03) == len(made)
    assert pytest.approx(1, abs=0.05) == statistics.stdev(between) / statistics.mean(
        between
    )
    assert pytest.approx(300, rel=0.05) == statistics.mean(made.input_tokens)
    assert pytest.approx(40, rel=0.05) == statistics.mean(made.output_tokens)
    assert pytest.approx(0.5, rel=0.1) == statistics.stdev(made.input_tokens) / 300


def share(made: Trace, inside: Callable[[float], bool]) -> float:
    return sum(map(inside, made.seconds)) / len(made)


def test_bursts_come_at_their_times() -> None:
    """Ten times the rate in the last of ten minutes: 10 of 19 calls."""
    made = synthetic_trace("bursts:2,times=10,every=10m,length=1m,duration=5h")

    assert pytest.approx(10 / 19, abs=0.02) == share(made, lambda at: at % 600 >= 540)
    assert pytest.approx(5 * 3600 * 2 * 1.9, rel=0.03) == len(made)


def test_a_day_has_its_peak_at_noon() -> None:
    """Half of the sine's calls and half of its swing over pi fall into the day."""
    made = synthetic_trace("diurnal:1,peak=2,period=2h,duration=20h")

    day = share(made, lambda at: 1800 <= at % 7200 < 5400)
    assert pytest.approx(0.5 + 1 / 3.14159, abs=0.02) == day
    assert pytest.approx(72_000, rel=0.03) == len(made)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("poison:1", "unknown kind 'poison'; did you mean 'poisson'?"),
        ("poisson:", "the rate is ''; right is a number from 0.0001 to 10000"),
        ("poisson:nan", "the rate is 'nan'"),
        ("poisson:-1", "the rate is '-1'"),
        ("poisson:1,tims=3", "'tims=3' is no option"),
        ("bursts:1,tims=3", "did you mean times=?"),
        ("bursts:1,every=10", "every is '10'; right is a time from 1s to 30d"),
        ("bursts:1,every=10s,length=1m", "length is longer than every"),
        ("diurnal:1,peak=3", "peak is '3'; right is a number from 1 to 2"),
        ("poisson:9999,duration=30d", "at most 5,000,000 are replayed"),
        ("poisson:0.001,duration=1s", "has no call"),
        ("poisson:x,output=-1,cv=y", "cv is 'y'"),
        ("poisson:1,seed=1.5", "seed is '1.5'; right is a whole number from 0"),
        ("poisson:1,cv=1,cv=2", "cv is there twice"),
    ],
)
def test_wrong_specs_are_refused(spec: str, said: str) -> None:
    with pytest.raises(UsageError) as raised:
        synthetic_trace(spec)

    assert said in str(raised.value)
    assert repr(spec) in str(raised.value)


def test_calls_of_some_tiers_become_a_trace() -> None:
    """In the order of time, from 0 on, with their durations."""
    calls = [
        RecordedCall("nano", "clerk", 107.0, 0.5, 2.0, 30, 3),
        RecordedCall("premium", "judge", 103.0, 0.5, 9.0, 20, 2),
        RecordedCall("nano", "clerk", 101.0, 0.5, 1.0, 10, 1),
    ]

    made = trace_of_calls(calls, "recorded", tiers=["nano"])

    assert [0.0, 6.0] == list(made.seconds)
    assert ([10, 30], [1, 3]) == (list(made.input_tokens), list(made.output_tokens))
    assert [1.0, 2.0] == list(made.durations or ())
    assert 0 == len(trace_of_calls(calls, "none", tiers=["standard"]))
    assert 3 == len(trace_of_calls(calls, "all"))
