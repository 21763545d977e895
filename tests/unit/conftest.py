"""Fixtures of the tests that start no server."""

import pytest


@pytest.fixture(autouse=True)
def logs_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a command that runs in this process leave the logs of later tests alone."""
    monkeypatch.setattr("tierpool.cli.main.configure_logs", lambda **_: None)
