"""What becomes of errors that no command expects."""

import argparse

import pytest
from temporalio.service import RPCError, RPCStatusCode

from tierpool.cli import main


def test_server_that_stalls_under_a_command_is_told_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`run` waits for as long as an item takes; its item is the server's by then."""

    async def waits(args: argparse.Namespace) -> int:
        raise RPCError("Timeout expired", RPCStatusCode.CANCELLED, b"")

    parser = argparse.ArgumentParser()
    parser.set_defaults(command=waits, name="run", verbose=False, json=False)
    monkeypatch.setattr(main, "build_parser", lambda: parser)

    status = main.main([])

    assert 3 == status
    told = " ".join(capsys.readouterr().err.split())
    assert "the Temporal server says: Timeout expired; what was started goes on" in told
