"""Fixtures of all tests; those that start servers are in `server`."""

import pytest


@pytest.fixture(autouse=True)
def no_credentials_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test see or use the keys and the Temporal profile of whoever runs it."""
    import os

    for name in list(os.environ):
        if name.startswith("TEMPORAL_") or name.endswith("_API_KEY"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("TEMPORAL_CONFIG_FILE", "/nonexistent/temporal.toml")
