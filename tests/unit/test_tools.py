"""Command and python roles, run for real: processes, files, signals, imports."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierpool.activities import programs
from tierpool.activities.tools import ToolError, item_folder, run_command, run_python
from tierpool.contracts import AgentRequest, NextStep, Outcome, PartRef, Route

BODY = json.dumps(
    {
        "item": {"id": "T-1", "title": "A title", "text": "Grüße"},
        "last_reply": {"verdict": "approve"},
        "input": {"n": 1},
    }
)
ROUTE = Route(tier="", queue="acme-tools", reason="command role")
CLOSED = PartRef.of('{"type":"object"}')


def command(*run: str, **fields: Any) -> AgentRequest:
    fields = {"item_id": "T-1", "timeout": timedelta(seconds=30)} | fields
    return AgentRequest(role="tests", route=ROUTE, run=run, **fields)


def script(code: str, **fields: Any) -> AgentRequest:
    return command(sys.executable, "-c", code, **fields)


def python(call: str, **fields: Any) -> AgentRequest:
    fields = {"timeout": timedelta(seconds=30)} | fields
    return AgentRequest(role="gate", item_id="T-1", route=ROUTE, call=call, **fields)


async def reply(request: AgentRequest, workdir: Path) -> dict[str, Any]:
    result = await run_command(request, BODY, workdir)
    assert result.reply is not None
    return result.reply


def running(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"  # Z: ended, not yet looked at


async def gone(pid: int) -> bool:
    """Wait until a process has ended; False if it does not."""
    for _ in range(200):
        if not running(pid):
            return True
        await asyncio.sleep(0.05)
    return False


def written(path: Path) -> str:
    text = path.read_text() if path.exists() else ""
    return text.strip() if text.endswith("\n") else ""


async def content(path: Path) -> str:
    """Wait until another process has written a line into a file."""
    for _ in range(400):
        if text := written(path):
            return text
        await asyncio.sleep(0.025)
    raise AssertionError(f"{path.name} was not written")


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("print('hello')", {"accept": True, "exit_code": 0, "text": "hello\n"}),
        ("print()", {"accept": True, "exit_code": 0, "text": "\n"}),
        ("print('[1]')", {"accept": True, "exit_code": 0, "text": "[1]\n"}),
        ("print('{\"a\": 1}')", {"accept": True, "exit_code": 0, "a": 1}),
        (
            'print(\'{"accept": false, "exit_code": 7}\')',
            {"accept": False, "exit_code": 7},
        ),
        (
            "print('{\"a\": NaN}')",
            {"accept": True, "exit_code": 0, "text": '{"a": NaN}\n'},
        ),
        ("print('{' * 9)", {"accept": True, "exit_code": 0, "text": "{{{{{{{{{\n"}),
        (
            "import sys; print('out'); sys.exit('why')",
            {"accept": False, "exit_code": 1, "reason": "why"},
        ),
        (
            "import sys; print('out'); sys.exit(3)",
            {"accept": False, "exit_code": 3, "reason": "out"},
        ),
        (
            "import sys; sys.exit(3)",
            {"accept": False, "exit_code": 3, "reason": "exit code 3"},
        ),
        (
            "import sys; print('{\"accept\": true, \"a\": 1}'); sys.exit('why')",
            {"accept": False, "exit_code": 1, "reason": "why", "a": 1},
        ),
        (
            "import sys; print('{\"reason\": \"mine\"}'); sys.exit('why')",
            {"accept": False, "exit_code": 1, "reason": "mine"},
        ),
        (
            "import os; os.kill(os.getpid(), 9)",
            {"accept": False, "exit_code": -9, "reason": "ended by signal 9"},
        ),
        (
            "import sys; sys.stdout.buffer.write(b'\\xff')",
            {"accept": True, "exit_code": 0, "text": "\ufffd"},
        ),
    ],
)
async def test_a_commands_reply_is_its_output_and_its_exit_code(
    code: str, expected: dict[str, Any], tmp_path: Path
) -> None:
    """JSON objects are merged in; an exit code other than 0 always refuses."""
    assert expected == await reply(script(code), tmp_path)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ('print(\'{"verdict": "approve"}\')', {"verdict": "approve"}),
        ("print('fine')", {"accept": True}),
        (
            "import sys; sys.exit('why')",
            {"accept": False, "reason": "why", "exit_code": 1},
        ),
        (
            'import sys; print(\'{"reason": "r"}\'); sys.exit(2)',
            {"accept": False, "reason": "r", "exit_code": 2},
        ),
    ],
)
async def test_a_declared_output_gets_other_fields_only_with_a_refusal(
    code: str, expected: dict[str, Any], tmp_path: Path
) -> None:
    """A schema that is closed can be met by a command's own object."""
    assert expected == await reply(script(code, output=CLOSED), tmp_path)


async def test_a_command_reads_its_request_from_stdin(tmp_path: Path) -> None:
    """The body arrives as it is, as UTF-8, whatever its size."""
    code = "import sys, hashlib; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())"
    body = json.dumps({"item": {"id": "T", "text": "ü" * 500_000}})

    result = await run_command(script(code), body, tmp_path)

    assert result.reply is not None
    assert PartRef.of(body).hash == str(result.reply["text"]).strip()


async def test_a_command_need_not_read_its_request(tmp_path: Path) -> None:
    """A program that closes stdin at once still has its reply taken."""
    request = script("import sys; sys.stdin.close(); print('done')")

    result = await run_command(request, "x" * 2_000_000, tmp_path)

    assert result.reply is not None
    assert "done\n" == result.reply["text"]


async def test_a_command_runs_in_the_items_folder_and_keeps_it(tmp_path: Path) -> None:
    """What one attempt writes, the next one finds."""
    first = script("open('kept', 'w').write('1')")
    second = script("import os; print(os.getcwd(), open('kept').read())")

    await reply(first, tmp_path / "new")
    found = await reply(second, tmp_path / "new")

    assert f"{tmp_path}/new/T-1 1\n" == found["text"]


async def test_a_command_gets_little_of_the_workers_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys stay with the worker unless the role asks for them by name."""
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.setenv("WANTED", "given")
    code = "import json, os; print(json.dumps({'env': dict(os.environ)}))"

    found = (await reply(script(code, pass_env=("WANTED", "UNSET")), tmp_path))["env"]

    allowed = {"PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "WANTED"}
    own = {"TIERPOOL_ITEM_ID": "T-1", "TIERPOOL_ROLE": "tests"}
    assert set(found) - {"LC_CTYPE"} <= allowed | set(own)
    assert own.items() <= found.items()
    assert "given" == found["WANTED"]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (command("no-such-program-here"), "'no-such-program-here' was not found"),
        (command("/"), "cannot run '/': Permission denied"),
        (command("true", item_id="a\x00b"), "cannot run 'true': embedded null"),
        (script("print('x' * 1_100_000)"), "printed more than 1,048,576 bytes"),
        (
            script("import time; time.sleep(60)", timeout=timedelta(seconds=0.3)),
            "did not end within 0.3 s",
        ),
    ],
)
async def test_a_command_without_a_reply_is_an_unbilled_failure(
    request_: AgentRequest, message: str, tmp_path: Path
) -> None:
    """The message says what happened and what is the limit."""
    with pytest.raises(ToolError) as caught:
        await run_command(request_, BODY, tmp_path)

    detail = caught.value.detail
    assert (Outcome.UNBILLED, NextStep.FAIL) == (detail.outcome, detail.next)
    assert message in detail.message


async def test_a_reply_that_is_too_large_as_json_is_refused(tmp_path: Path) -> None:
    """A million control characters are six million bytes of JSON."""
    with pytest.raises(ToolError, match="bytes of JSON; the limit is 1,500,000"):
        await reply(script("print('\\0' * 1_000_000)"), tmp_path)


async def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """A file where the workdir should be is an error with its path."""
    (tmp_path / "file").write_text("")

    with pytest.raises(ToolError, match=r"cannot make the item's folder in .*file"):
        await reply(command("true"), tmp_path / "file")


FAMILY = """
import os, subprocess, sys, time
code = "import os, signal, sys, time\\n" + {setup!r} + '''
open(sys.argv[1], 'w').write(f'{{os.getpid()}}\\\\n')
time.sleep(120)
'''
subprocess.Popen([sys.executable, "-c", code, {path!r}])
{then}
"""
IGNORE_TERM = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"


def family(path: Path, *, setup: str = "", then: str = "time.sleep(120)") -> str:
    """Return a program whose child writes its PID and stays."""
    return FAMILY.format(setup=setup, path=str(path), then=then)


@pytest.mark.parametrize("setup", ["", IGNORE_TERM])
async def test_a_cancelled_command_is_gone_with_its_children(
    setup: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole group is asked to end, then forced, before the cancel goes on."""
    monkeypatch.setattr(programs, "_TERM_GRACE_SECONDS", 1.0)
    path = tmp_path / "pid"
    request = script(family(path, setup=setup))
    attempt = asyncio.create_task(run_command(request, BODY, tmp_path))
    child = int(await content(path))

    attempt.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attempt

    assert await gone(child)


async def test_a_second_cancel_forces_the_command_at_once(tmp_path: Path) -> None:
    """A worker that has no time left leaves nothing behind either."""
    path = tmp_path / "pid"
    request = script(family(path, setup=IGNORE_TERM))
    attempt = asyncio.create_task(run_command(request, BODY, tmp_path))
    child = int(await content(path))

    attempt.cancel()
    await asyncio.sleep(0.2)
    attempt.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attempt

    assert await gone(child)


async def test_a_command_that_takes_too_long_is_gone_with_its_children(
    tmp_path: Path,
) -> None:
    """A timeout ends the group, not just its first process."""
    path = tmp_path / "pid"

    with pytest.raises(ToolError, match="did not end within 2 s"):
        await reply(script(family(path), timeout=timedelta(seconds=2)), tmp_path)

    assert await gone(int(await content(path)))


async def test_what_a_command_leaves_running_is_ended(tmp_path: Path) -> None:
    """A reply is not held up by a child that keeps the output open."""
    path = tmp_path / "pid"
    wait = f"""
while not os.path.exists({str(path)!r}): time.sleep(0.02)
print("done")
"""

    found = await reply(script(family(path, then=wait)), tmp_path)

    assert {"accept": True, "exit_code": 0, "text": "done\n"} == found
    assert await gone(int(await content(path)))


async def test_what_left_the_group_does_not_hold_up_a_reply(tmp_path: Path) -> None:
    """A daemon in a session of its own is out of reach, and not waited for."""
    path = tmp_path / "pid"
    wait = f"""
while not os.path.exists({str(path)!r}): time.sleep(0.02)
print("done")
"""

    found = await reply(script(family(path, setup="os.setsid()", then=wait)), tmp_path)

    assert "done\n" == found["text"]
    os.kill(int(await content(path)), signal.SIGKILL)


@given(
    first=st.text(min_size=1, max_size=200), second=st.text(min_size=1, max_size=200)
)
def test_every_item_has_a_folder_of_its_own_directly_in_the_workdir(
    first: str, second: str
) -> None:
    """No ID leads elsewhere, and different IDs never share a folder."""
    root = Path("/work")

    one, two = item_folder(root, first), item_folder(root, second)

    assert root == one.parent
    assert one.name not in {"", ".", ".."}
    assert not {"/", "\0"} & set(one.name)
    assert len(one.name.encode()) <= 120
    assert (first == second) == (one == two)


@pytest.mark.parametrize(
    "item_id",
    ["..", ".", "../../etc/passwd", "/etc/passwd", "a/b", "-rf", "ä", "x" * 200],
)
async def test_no_item_id_leads_out_of_the_workdir(
    item_id: str, tmp_path: Path
) -> None:
    """The program runs in a new folder below the workdir and knows the real ID."""
    code = "import os; print(os.getcwd(), os.environ['TIERPOOL_ITEM_ID'])"

    found = await reply(script(code, item_id=item_id), tmp_path)

    folder, _, known = str(found["text"]).strip().partition(" ")
    assert str(tmp_path) == str(Path(folder).parent)
    assert item_id == known


def test_an_id_cannot_be_made_to_meet_anothers_folder() -> None:
    """The name that a changed ID gets is not the name of any plain ID."""
    changed = item_folder(Path("/w"), "a/b").name

    assert changed != item_folder(Path("/w"), changed).name
    assert item_folder(Path("/w"), "a/b") != item_folder(Path("/w"), "a_b")
    assert "TASK-7" == item_folder(Path("/w"), "TASK-7").name


GATES = """
import asyncio, sys
from pydantic import BaseModel
from tierpool.contracts import ToolRequest

class Verdict(BaseModel):
    accept: bool
    who: str

class Gate:
    async def __call__(self, request): return True
    async def method(self, request): return False

async def echo(request: ToolRequest):
    return {"id": request.item.id, "text": request.item.text,
            "last": request.last_reply, "input": request.input, "role": request.role}
async def no_item(request): return request.item is None
async def yes(request): return True
async def text(request): return "words"
async def model(request): return Verdict(accept=True, who=request.item.id)
async def nothing(request): return None
async def number(request): return 3
async def objects(request): return {"a": object()}
async def nan(request): return {"a": float("nan")}
async def cyclic(request):
    value = {}
    value["self"] = value
    return value
async def large(request): return "x" * 1_600_000
async def fails(request): raise KeyError("some key")
async def times_out(request): raise TimeoutError("its own")
async def leaves(request): sys.exit(3)
async def sleeps(request): await asyncio.sleep(60)
def blocking(request): return True
not_callable = 3
gate = Gate()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of agents.yaml with modules for python roles beside it."""
    path = tmp_path_factory.mktemp("fleet")
    (path / "tierpool_test_gates.py").write_text(GATES)
    (path / "tierpool_test_broken.py").write_text("1 / 0")
    (path / "tierpool_test_exits.py").write_text("raise SystemExit(2)")
    (path / "json.py").write_text("raise RuntimeError('hides the standard library')")
    yield path
    sys.path.remove(str(path))
    for name in ("gates", "broken", "exits"):
        sys.modules.pop(f"tierpool_test_{name}", None)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (
            "echo",
            {
                "id": "T-1",
                "text": "Grüße",
                "last": {"verdict": "approve"},
                "input": {"n": 1},
                "role": "gate",
            },
        ),
        ("yes", {"accept": True}),
        ("text", {"text": "words"}),
        ("model", {"accept": True, "who": "T-1"}),
        ("gate", {"accept": True}),
        ("gate.method", {"accept": False}),
    ],
)
async def test_a_python_role_returns_json_a_model_text_or_a_bool(
    function: str, expected: dict[str, Any], folder: Path
) -> None:
    """Its argument is the request; its value becomes the reply."""
    result = await run_python(python(f"tierpool_test_gates:{function}"), BODY, folder)

    assert expected == result.reply


async def test_a_python_role_can_run_outside_a_flow(folder: Path) -> None:
    """A call from a user's own workflow has no work item."""
    body = '{"item": null, "last_reply": {}, "input": "words"}'

    result = await run_python(python("tierpool_test_gates:no_item"), body, folder)

    assert {"accept": True} == result.reply


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("gates:nothing", "returned NoneType; expected a dict of JSON"),
        ("gates:number", "returned int; expected a dict of JSON"),
        ("gates:objects", "is not JSON: TypeError: Object of type object"),
        ("gates:nan", "is not JSON: ValueError"),
        ("gates:cyclic", "is not JSON: ValueError: Circular reference"),
        ("gates:large", "the limit is 1,500,000"),
        ("gates:fails", "gates:fails raised KeyError: 'some key'"),
        ("gates:times_out", "gates:times_out raised TimeoutError: its own"),
        ("gates:leaves", "gates:leaves raised SystemExit: 3"),
        ("gates:sleeps", "did not return within 0.5 s"),
        ("gates:blocking", "write `async def blocking(request: ToolRequest)`"),
        ("gates:not_callable", "is not an async callable"),
        ("gates:missing", "AttributeError"),
        ("absent:f", "ModuleNotFoundError: No module named 'tierpool_test_absent'"),
        ("broken:f", "ZeroDivisionError: division by zero"),
        ("exits:f", "SystemExit: 2"),
    ],
)
async def test_a_python_role_without_a_reply_is_an_unbilled_failure(
    call: str, message: str, folder: Path
) -> None:
    """The message names the callable and what is wrong, without a traceback."""
    request = python(f"tierpool_test_{call}", timeout=timedelta(seconds=0.5))

    with pytest.raises(ToolError) as caught:
        await run_python(request, BODY, folder)

    detail = caught.value.detail
    assert (Outcome.UNBILLED, NextStep.FAIL) == (detail.outcome, detail.next)
    assert f"tierpool_test_{call}" in detail.message
    assert message in detail.message
    assert "Traceback" not in detail.message


async def test_a_cancelled_python_role_is_cancelled(folder: Path) -> None:
    """Cancellation is not turned into a failure."""
    request = python("tierpool_test_gates:sleeps")
    attempt = asyncio.create_task(run_python(request, BODY, folder))
    await asyncio.sleep(0.05)

    attempt.cancel()

    with pytest.raises(asyncio.CancelledError):
        await attempt


async def test_a_request_that_is_none_is_refused(folder: Path) -> None:
    """A body of another shape names the role's callable."""
    with pytest.raises(ToolError, match="the request of tierpool_test_gates:yes"):
        await run_python(python("tierpool_test_gates:yes"), '{"item": 3}', folder)


async def test_files_beside_agents_yaml_hide_no_module(folder: Path) -> None:
    """The folder comes last on the path of imports."""
    await run_python(python("tierpool_test_gates:yes"), BODY, folder)

    assert str(folder) == sys.path[-1]
